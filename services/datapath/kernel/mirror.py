"""A kernel map and what it is meant to hold.

The mirror remembers what it last knew the kernel to hold, so that a change costs only itself, and compares
with a real dump on request. Callers choose the order between maps: first every mirror's ``write``, later
every mirror's ``erase``, so that nothing is removed before what replaces it is there.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Set, ValuesView
from itertools import islice

from services.datapath.kernel.errors import MapFull
from services.datapath.kernel.maps import KernelMap

log = logging.getLogger(__name__)

Choice = Callable[[Set[bytes]], Set[bytes]]
"""Some of these keys."""


class Mirror:
    """Desired and known contents of one map. A failed write is tried again by the next."""

    def __init__(self, kernel: KernelMap) -> None:
        self._kernel = kernel
        self._known: dict[bytes, bytes] = dict(kernel.items())
        self._writes: dict[bytes, bytes] = {}
        self._erasures: set[bytes] = set()

    def close(self) -> None:
        """Gives the map's descriptor back."""
        self._kernel.close()

    @property
    def name(self) -> str:
        """The map's name."""
        return self._kernel.name

    @property
    def capacity(self) -> int:
        """Entries that the map has room for."""
        return self._kernel.capacity

    @property
    def pending(self) -> bool:
        """Whether desired and known contents differ."""
        return bool(self._writes or self._erasures)

    def values(self) -> ValuesView[bytes]:
        """All values that the kernel is known to hold."""
        return self._known.values()

    def known(self) -> tuple[bytes, ...]:
        """All keys that the kernel is known to hold."""
        return tuple(self._known)

    def __len__(self) -> int:
        return len(self._known)

    def get(self, key: bytes) -> bytes | None:
        """What the kernel is known to hold for a key."""
        return self._known.get(key)

    def wanted(self, key: bytes) -> bytes | None:
        """The desired value of a key."""
        return None if key in self._erasures else self._writes.get(key, self._known.get(key))

    def want(self, key: bytes, value: bytes | None) -> None:
        """Makes ``value`` the desired value of a key; None: the key is not to be there."""
        if value is None:
            self._writes.pop(key, None)
            if key in self._known:
                self._erasures.add(key)
            return
        self._erasures.discard(key)
        if self._known.get(key) == value:
            self._writes.pop(key, None)
        else:
            self._writes[key] = value

    def want_exactly(self, entries: Mapping[bytes, bytes]) -> None:
        """Makes ``entries`` all that is desired."""
        self._writes.clear()
        self._erasures = set(self._known) - set(entries)
        for key, value in entries.items():
            self.want(key, value)

    def write(self, *, new_only: bool = False, needless: Choice | None = None) -> int:
        """Writes what is missing or different, or only what is missing; returns how many entries.

        ``needless``: if the map is full, those of the undesired keys that it chooses make room, out of the
        callers' order; so their absence must let nothing pass. Raises as :class:`KernelMap` does.
        """
        try:
            return self._write(new_only=new_only)
        except MapFull:
            if needless is None or not self.erase(needless):
                raise
        log.warning("map %s was full: what is not desired has made room", self.name)
        return self._write(new_only=new_only)

    def _write(self, *, new_only: bool) -> int:
        new = {key: value for key, value in self._writes.items() if key not in self._known}
        # What needs no room is not held back by what does.
        changed = {} if new_only else {key: self._writes[key] for key in self._writes.keys() - new.keys()}
        writes = changed | new
        written = 0
        try:
            for count in self._kernel.put_all(writes):
                written += count
        finally:
            for key in list(islice(writes, written)):
                self._known[key] = self._writes.pop(key)
        return written

    def erase(self, choice: Choice = lambda keys: keys) -> int:
        """Removes what is not desired, or what is chosen of it; returns how many entries."""
        keys = set(choice(self._erasures))
        self._kernel.delete_all(keys)
        for key in keys:
            self._known.pop(key, None)
        self._erasures -= keys
        return len(keys)

    def withdraw(self, *, but: Callable[[bytes, bytes], bool]) -> int:
        """Removes what is not desired, or desired to be different, and writes nothing; returns how many.

        What is different stays if ``but`` says so of the known and the desired value.
        """
        changed = {
            key
            for key in self._writes.keys() & self._known.keys()
            if not but(self._known[key], self._writes[key])
        }
        keys = self._erasures | changed
        self._kernel.delete_all(keys)
        for key in keys:
            self._known.pop(key, None)
        self._erasures.clear()
        return len(keys)

    def drift(self) -> dict[bytes, bytes | None]:
        """Dumps the kernel's map: what it holds (None: nothing) where that is not as last known, by key.

        The one method that may run in another thread, as long as nothing is written or erased meanwhile.
        """
        held = dict(self._kernel.items())
        known = self._known
        return {key: held.get(key) for key in held.keys() | known.keys() if held.get(key) != known.get(key)}

    def repair(self, drift: Mapping[bytes, bytes | None]) -> None:
        """Takes note of what the kernel holds and schedules what is desired instead."""
        for key, held in drift.items():
            meant = self._writes.get(key, None if key in self._erasures else self._known.get(key))
            if held is None:
                self._known.pop(key, None)
                self._erasures.discard(key)
            else:
                self._known[key] = held
            self.want(key, meant)
