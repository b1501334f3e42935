"""What one bucket holds now, as far as its writer knows: what was read from it and what was written to it.

A write is believed from its acknowledgement on, until the bucket's own stream has come that far; from then
on the stream's word counts. So neither an echo of an older value nor the loss of a stream misleads.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Generic

from shared.bus.records import Batch, Entry
from shared.contract.base import M


class Mirror(Generic[M]):
    """One bucket's contents by key."""

    def __init__(self) -> None:
        self.complete = False
        """A snapshot has come: keys that are not here do not exist."""
        self.revision = 0
        """The bucket's last revision that is known."""
        self._read: dict[str, Entry[M]] = {}
        self._read_to = 0
        self._written: dict[str, Entry[M]] = {}
        """Acknowledged writes that the stream has not shown yet."""

    def absorb(self, batch: Batch[M]) -> set[str]:
        """Take a batch of the followed bucket; returns the keys it spoke of, and with a snapshot all keys."""
        touched = {entry.key for entry in batch.entries} | {error.key for error in batch.errors}
        if batch.snapshot:
            touched |= self._read.keys() | self._written.keys()
            self._read.clear()
            self._written.clear()
            self.revision = 0
            self.complete = True
        for entry in batch.entries:
            if entry.value is None:
                self._read.pop(entry.key, None)
            else:
                self._read[entry.key] = entry
        for error in batch.errors:
            # Unreadable is as good as absent for the bucket's own writer: what is wanted there is put again.
            self._read.pop(error.key, None)
        self._read_to = batch.revision
        self.revision = max(self.revision, batch.revision)
        shown = {key for key, entry in self._written.items() if entry.revision <= batch.revision}
        for key in shown:
            del self._written[key]
        return touched | shown

    def wrote(self, items: Iterable[tuple[str, M | None]], *, revision: int) -> None:
        """Writes (None a deletion) were acknowledged, the last of them with this revision."""
        if revision <= self._read_to:
            return
        self.revision = max(self.revision, revision)
        for key, value in items:
            known = self._written.get(key)
            if known is None or known.revision <= revision:
                self._written[key] = Entry(key, value, revision)

    def entry(self, key: str) -> Entry[M] | None:
        """The key's value and revision, None without a value."""
        written = self._written.get(key)
        if written is not None:
            return written if written.value is not None else None
        return self._read.get(key)

    def get(self, key: str) -> M | None:
        """The key's value."""
        entry = self.entry(key)
        return entry.value if entry else None

    def items(self) -> Iterator[tuple[str, M]]:
        """All keys that have a value."""
        for key, entry in self._written.items():
            if entry.value is not None:
                yield key, entry.value
        for key, entry in self._read.items():
            if key not in self._written and entry.value is not None:
                yield key, entry.value

    def live_keys(self) -> set[str]:
        """All keys that have a value."""
        return {key for key, _ in self.items()}
