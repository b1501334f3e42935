"""Buckets that are published in commits: nothing of a publication is used before all of it has come.

A reader that lags may find early entries of a publication replaced by those of a later one, so a commit
counts only when nothing is pending behind it. A bucket without any commit has not been spoken in yet: its
emptiness means nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic

from shared.bus import Batch
from shared.contract.base import M
from shared.contract.names import COMMIT_KEY


@dataclass(frozen=True)
class Change(Generic[M]):
    """A commit: what to replace, what to remove, and the commit's revision."""

    put: Mapping[str, M]
    removed: Mapping[str, M]
    """The last committed values of removed keys."""
    replaced: Mapping[str, M]
    """The values that ``put`` replaces, where there were any."""
    revision: int


class Committed(Generic[M]):
    """The committed contents of one bucket."""

    def __init__(self) -> None:
        self.values: dict[str, M] = {}
        self.revision = 0
        self.commit: M | None = None
        """What the last commit says of itself."""
        self._staged: dict[str, M | None] = {}
        self._kept: set[str] = set()
        self._snapshot = False
        self._last = ("", 0)

    @property
    def spoken(self) -> bool:
        """Whether any commit has come."""
        return self.revision > 0

    def take(self, batch: Batch[M]) -> Change[M] | None:
        """Adds what has come; the change when that completes a commit, else None."""
        if batch.snapshot:
            self._staged.clear()
            self._kept.clear()
            self._snapshot = True
            self._last = ("", 0)
        for entry in batch.entries:
            self._staged[entry.key] = entry.value
            if entry.revision > self._last[1]:
                self._last = (entry.key, entry.revision)
        self._kept.update(error.key for error in batch.errors)
        if not batch.caught_up or self._last[0] != COMMIT_KEY or self._staged.get(COMMIT_KEY) is None:
            return None
        return self._commit()

    def _commit(self) -> Change[M]:
        if self._snapshot:
            for key in self.values.keys() - self._staged.keys() - self._kept:
                self._staged[key] = None
        put = {
            key: value
            for key, value in self._staged.items()
            if value is not None and key != COMMIT_KEY and self.values.get(key) != value
        }
        removed = {
            key: self.values[key]
            for key, value in self._staged.items()
            if value is None and key in self.values
        }
        replaced = {key: self.values[key] for key in put if key in self.values}
        self.values.update(put)
        for key in removed:
            del self.values[key]
        self.revision = self._last[1]
        self.commit = self._staged[COMMIT_KEY]
        self._staged.clear()
        self._kept.clear()
        self._snapshot = False
        return Change(put=put, removed=removed, replaced=replaced, revision=self.revision)
