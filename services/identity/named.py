"""Which numbers the bucket ``policy`` names: its readers may still go by what it said of them.

The bucket is the policy service's and may not exist yet. Nothing waits for it but the release of numbers;
while it was not read, every number counts as named.
"""

from __future__ import annotations

from shared.bus import BucketStore, patiently
from shared.contract.base import Identity, Message

_PREFIX = "identity."


class NamedNumbers:
    """Follows the bucket; :meth:`follow` is the task that does it."""

    def __init__(self) -> None:
        self._keys: set[str] | None = None

    def __contains__(self, identity: Identity) -> bool:
        return self._keys is None or f"{_PREFIX}{identity}" in self._keys

    async def follow(self, store: BucketStore[Message]) -> None:
        """For ever."""
        async for batch in patiently(store.follow(prefix=f"{_PREFIX}>")):
            keys = self._keys or set()
            keys.update(entry.key for entry in batch.entries if entry.value is not None)
            keys.update(error.key for error in batch.errors)
            self._keys = keys - {entry.key for entry in batch.entries if entry.value is None}
