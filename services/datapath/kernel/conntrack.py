"""Removes expired connections from conntrack, so that the map's own eviction never has to touch a live one.

The kernel judges expiry by itself; this only makes room and tells how full the map is. It runs in a thread,
as a pass over 262,144 entries takes a while.
"""

from __future__ import annotations

import time
from dataclasses import dataclass

from services.datapath.kernel.layout import Family
from services.datapath.kernel.maps import KernelMap
from services.datapath.kernel.source import CONSTANTS

_EXPIRES = 3
"""Index of ``expires`` in ``struct ct_entry``."""


@dataclass(frozen=True)
class Sweep:
    """What one pass found."""

    live: int
    removed: int


def sweep(connections: KernelMap, *, family: Family) -> Sweep:
    """One pass over the map of one family."""
    entry = family.ct_entry
    now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) >> CONSTANTS["TICK_SHIFT"]
    live = 0
    expired = []
    for key, value in connections.items():
        if entry.unpack(value)[_EXPIRES] < now:
            expired.append(key)
        else:
            live += 1
    removed = 0
    for key in expired:
        # Its tuple may have come to life again since it was read.
        again = connections.get(key)
        if again is not None and entry.unpack(again)[_EXPIRES] < now:
            connections.delete(key)
            removed += 1
    return Sweep(live=live + len(expired) - removed, removed=removed)
