"""A followed bucket that is not believed to have lost its contents at once.

When NATS loses a bucket, its writer makes it anew and fills it again, which takes a moment; a reader that
took the first snapshot of the new bucket at its word would withdraw everything that is still true. So only
the first snapshot is passed on as one. What a later one lacks is passed on as deleted when it is still
missing after a while; what is deleted by name is deleted at once. As long as a new bucket has nothing at all,
its writer is not there, and nothing is missing yet.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator
from typing import Generic

from shared.bus.records import Batch, Entry
from shared.contract.base import M

DOUBT_SECONDS = 60.0
"""How long what a new snapshot lacks is kept."""


async def patiently(
    batches: AsyncGenerator[Batch[M], None], *, seconds: float = DOUBT_SECONDS
) -> AsyncGenerator[Batch[M], None]:
    """The batches of :meth:`BucketStore.follow`, of which only the first is a snapshot."""
    loop = asyncio.get_running_loop()
    doubted: _Doubted[M] = _Doubted()
    source = aiter(batches)
    coming = asyncio.ensure_future(anext(source))
    try:
        while True:
            await asyncio.wait([coming], timeout=doubted.wait(now=loop.time()))
            if coming.done():
                batch = coming.result()
                coming = asyncio.ensure_future(anext(source))
                yield doubted.take(batch, until=loop.time() + seconds)
            if gone := doubted.gone(now=loop.time()):
                yield gone
    finally:
        coming.cancel()
        await asyncio.wait([coming])
        await batches.aclose()


class _Doubted(Generic[M]):
    """Keys that are known, and those of them that are missing, with the time at which that is believed."""

    def __init__(self) -> None:
        self._known: set[str] | None = None
        self._missing: dict[str, float] = {}
        self._silent = False
        """The last snapshot was empty, and nothing has come since."""
        self._revision = 0

    def wait(self, *, now: float) -> float | None:
        """Seconds until something missing is believed to be gone."""
        if self._silent or not self._missing:
            return None
        return max(0.0, min(self._missing.values()) - now)

    def take(self, batch: Batch[M], *, until: float) -> Batch[M]:
        self._revision = batch.revision
        # By key, as a batch may speak of one several times: its last word counts.
        said = {entry.key: entry.value is not None for entry in batch.entries}
        said.update((error.key, True) for error in batch.errors)
        present = {key for key, is_there in said.items() if is_there}
        if self._known is None:
            self._known = present
            return batch
        for key in said:
            self._missing.pop(key, None)
        if batch.snapshot:
            if self._silent and present:
                # Its writer has only now begun to fill it.
                self._missing.clear()
            for key in self._known - present:
                self._missing.setdefault(key, until)
            self._silent = not present
        elif self._silent and present:
            self._missing = dict.fromkeys(self._missing, until)
            self._silent = False
        # In place: the bucket may be large, and the batch small.
        self._known |= present
        self._known -= said.keys() - present
        return Batch(
            snapshot=False,
            entries=batch.entries,
            revision=batch.revision,
            caught_up=batch.caught_up,
            errors=batch.errors,
        )

    def gone(self, *, now: float) -> Batch[M] | None:
        keys = sorted(key for key, until in self._missing.items() if until <= now)
        if not keys or self._silent or self._known is None:
            return None
        for key in keys:
            del self._missing[key]
            self._known.discard(key)
        entries: tuple[Entry[M], ...] = tuple(Entry(key, None, self._revision) for key in keys)
        return Batch(snapshot=False, entries=entries, revision=self._revision, caught_up=True)
