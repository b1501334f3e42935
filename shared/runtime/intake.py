"""Takes what is watched or followed one by one: a snapshot as the changes that it means.

What a snapshot does not name is gone; what cannot be read is there all the same, so it leaves its last good
version in force and is told of once for each reason, until it can be read or is gone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

from shared.bus import Batch, Entry
from shared.contract.base import M
from shared.kubernetes import Object, ObjectBatch, ObjectChange, ObjectRefused
from shared.runtime.notices import Notices

K = TypeVar("K")

REFUSED = "object-refused"
"""Kind of the notice of an object that cannot be read."""


class Changes(Generic[K]):
    """Objects of one kind; ``name_of`` tells them apart."""

    def __init__(self, name_of: Callable[[ObjectChange], K]) -> None:
        self._name_of = name_of
        self._present: set[K] = set()

    def of(self, batch: ObjectBatch) -> list[tuple[K, Object | None]]:
        """Each object of the batch, None for one that is gone."""
        changes = [(self._name_of(change), change.object) for change in batch.objects]
        if batch.snapshot:
            gone = self._present - {name for name, _ in changes}
            changes[:0] = [(name, None) for name in gone]
        for name, object in changes:
            if object is None:
                self._present.discard(name)
            else:
                self._present.add(name)
        return changes


class Entries(Generic[M]):
    """Entries of one followed bucket."""

    def __init__(self) -> None:
        self._present: set[str] = set()

    def of(self, batch: Batch[M]) -> list[Entry[M]]:
        """Each entry of the batch that can be read, without a value for one that is gone."""
        entries = list(batch.entries)
        unreadable = {error.key for error in batch.errors}
        if batch.snapshot:
            gone = self._present - unreadable - {entry.key for entry in entries}
            entries[:0] = [Entry(key, None, batch.revision) for key in gone]
        for entry in entries:
            if entry.value is None:
                self._present.discard(entry.key)
            else:
                self._present.add(entry.key)
        self._present |= unreadable
        return entries


class ObjectIntake(Generic[K]):
    """Gives each object of a kind to ``put``, which may raise ObjectRefused."""

    def __init__(
        self,
        kind: str,
        name_of: Callable[[ObjectChange], K],
        put: Callable[[K, Object | None], None],
        *,
        notices: Notices,
        refused: Callable[[K, Object], None] = lambda name, object: None,
    ) -> None:
        """``refused`` hears of each object that cannot be read, when there is more to do than to tell it."""
        self._kind = kind
        self._changes = Changes(name_of)
        self._put = put
        self._notices = notices
        self._refused = refused

    def take(self, batch: ObjectBatch) -> None:
        """One batch of the watch."""
        for name, object in self._changes.of(batch):
            about = f"{self._kind} {name}"
            try:
                self._put(name, object)
            except ObjectRefused as refusal:
                self._notices.report(REFUSED, about=about, object=refusal.object, message=str(refusal))
                if object is not None:
                    self._refused(name, object)
            else:
                self._notices.clear(REFUSED, about=about)
