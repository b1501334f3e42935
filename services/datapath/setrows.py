"""Which policy sets' rows the kernel holds: those of the sets that this node's endpoints have, and no others.

So what policy costs a node depends on its own pods, however many sets the cluster has. An endpoint that
comes, or flips to another set, brings that set's rows along in the same application, which writes rows before
endpoints and erases them after. Of a set that an endpoint still has, but that is not published any more, the
kernel keeps the rows that it holds.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection
from dataclasses import dataclass

from services.datapath.desired import set_rows
from services.datapath.kernel.layout import ROW_KEY
from services.datapath.kernel.mirror import Mirror
from shared.contract.policy import PolicySet


@dataclass(frozen=True)
class _Held:
    value: PolicySet | None
    """None: an earlier process made the rows."""
    keys: Collection[bytes]


class SetRows:
    """The rows of one kernel; sets are numbers, as in the map's keys."""

    def __init__(
        self, rows: Mirror, *, published: Callable[[int], PolicySet | None], problems: dict[str, str]
    ) -> None:
        """``problems`` gets a sentence for each set that does not fit, by the set's key."""
        self._rows = rows
        self._published = published
        self._problems = problems
        self._held: dict[int, _Held] = {}
        left: defaultdict[int, set[bytes]] = defaultdict(set)
        for key in rows.known():
            left[ROW_KEY.unpack(key)[0]].add(key)
        for number, keys in left.items():
            self._held[number] = _Held(None, keys)

    def want(self, used: set[int]) -> None:
        """Makes the rows of these sets all that is desired."""
        for number in self._held.keys() - used:
            held = self._held.pop(number)
            self._problems.pop(_name(number), None)
            for key in held.keys:
                self._rows.want(key, None)
        for number in used:
            value, held = self._published(number), self._held.get(number, _NOTHING)
            if value is not None and value is not held.value:
                self._want_set(number, value, obsolete=held.keys)

    def _want_set(self, number: int, value: PolicySet, *, obsolete: Collection[bytes]) -> None:
        made = set_rows(value)
        self._held[number] = _Held(value, made.blocks.keys())
        self._problems.pop(_name(number), None)
        if made.problem:
            self._problems[_name(number)] = made.problem
        for key in obsolete:
            if key not in made.blocks:
                self._rows.want(key, None)
        for key, block in made.blocks.items():
            self._rows.want(key, block)


_NOTHING = _Held(None, ())


def _name(number: int) -> str:
    return f"set.{number:016x}"
