"""Which policy sets' rows the kernel holds: those of the sets that this node's endpoints have, and no others.

So what policy costs a node depends on its own pods, however many sets the cluster has. An endpoint that
comes, or flips to another set, brings that set's rows along in the same application, which writes rows
before endpoints; the rows of the set that it leaves are kept up to date in that application and go with the
next, for peers flip to new classes in between. Of a set that an endpoint still has, but that is not
published any more, the kernel keeps the rows that it holds.

A set that there is no room for is found out before anything is written, so that it harms no other: those that
the kernel has come first, and the others are as they are published. What becomes of its endpoints is
:class:`WhenFull`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Set
from dataclasses import dataclass
from enum import StrEnum

from services.datapath.desired import SetBlocks, set_rows
from services.datapath.kernel.layout import ROW_KEY
from services.datapath.kernel.mirror import Mirror
from shared.contract.node import UnfitSet
from shared.contract.policy import PolicySet


@dataclass(frozen=True)
class _Held:
    value: PolicySet | None
    """None: an earlier process made the rows."""
    keys: Collection[bytes]


class WhenFull(StrEnum):
    """What becomes of endpoints whose policy sets the kernel has no room for."""

    CLOSED = "closed"
    """They are denied everything, or of a single row that is too long, its peers are."""
    KEEP = "keep"
    """They keep, in that direction, the last policy that was complete in the kernel, none included."""


class SetRows:
    """The rows of one kernel; sets are numbers, as in the map's keys."""

    def __init__(
        self, rows: Mirror, *, published: Callable[[int], PolicySet | None], when_full: WhenFull
    ) -> None:
        self.unfit: dict[int, UnfitSet] = {}
        """Sets that are used and not held as they are published."""
        self.lingering = False
        """Rows are held of sets that nobody asks for any more once all that is wanted is applied."""
        self._rows = rows
        self._published = published
        self._when_full = when_full
        self._made: dict[int, tuple[PolicySet, SetBlocks]] = {}
        self._without_room: set[int] = set()
        self._held: dict[int, _Held] = {}
        left: defaultdict[int, set[bytes]] = defaultdict(set)
        for key in rows.known():
            left[ROW_KEY.unpack(key)[0]].add(key)
        for number, keys in left.items():
            self._held[number] = _Held(None, keys)

    def choose(self, used: Set[int], *, asked: Set[int]) -> None:
        """Finds out for which sets there is room, beside those for which the kernel is ``asked`` now."""
        concerned = sorted(used | asked)
        published = {number: value for number in concerned if (value := self._published(number)) is not None}
        self._made = {number: self._blocks(number, value) for number, value in published.items()}
        self.unfit = {}
        self._without_room = set()
        new = {number: self._new_keys(number) for number in self._made}
        room = self._room(used | asked, wanted=sum(new.values()))
        for number in sorted(self._made, key=lambda each: (each not in self._held, each)):
            value, made = self._made[number]
            reason = made.problem
            if not self._is_kept(made) and new[number] > room:
                self._without_room.add(number)
                size = f"map {self._rows.name} has {self._rows.capacity} entries"
                reason = f"{size} and room for no more; restart with a larger --map-size"
            elif not self._is_kept(made):
                room -= new[number]
            if reason and number in used:
                self._note(value, reason)

    def want(self, used: Set[int], *, asked: Set[int]) -> None:
        """Makes the rows of these sets all that is desired, of those that were chosen from.

        A set for which the kernel is ``asked`` until its endpoints have flipped is kept as it is published,
        too: peers flip to new classes before endpoints do, and it has rows for those.
        """
        keep = self._when_full is WhenFull.KEEP
        leaving = asked - used
        wanted = (used if keep else used - self._without_room) | leaving
        self.lingering = bool(leaving & (self._held.keys() | self._made.keys()))
        for number in self._held.keys() - wanted:
            for key in self._held.pop(number).keys:
                self._rows.want(key, None)
        for number in wanted & self._made.keys():
            if number not in self._without_room and not (keep and number in self.unfit):
                self._want_set(number, *self._made[number])

    def _is_kept(self, made: SetBlocks) -> bool:
        """Whether a set is not written as it does not fit into any map."""
        return bool(made.problem) and self._when_full is WhenFull.KEEP

    def _new_keys(self, number: int) -> int:
        """How many entries more a set takes in the kernel, where what it loses goes only later."""
        value, made = self._made[number]
        if self._held.get(number, _NOTHING).value is value and not self._rows.pending:
            return 0
        return sum(self._rows.get(key) is None for key in made.blocks)

    def _room(self, concerned: Set[int], *, wanted: int) -> int:
        """Entries that are free, or become so as nobody asks for them; counted exactly if that is needed."""
        free = self._rows.capacity - len(self._rows)
        if wanted <= free:
            return free
        asked_for = sum(ROW_KEY.unpack(key)[0] in concerned for key in self._rows.known())
        return self._rows.capacity - asked_for

    def _blocks(self, number: int, value: PolicySet) -> tuple[PolicySet, SetBlocks]:
        known = self._made.get(number)
        return known if known is not None and known[0] is value else (value, set_rows(value))

    def _note(self, value: PolicySet, reason: str) -> None:
        names = ", ".join(f"{policy.namespace}/{policy.name}" for policy in value.policies)
        becomes = (
            "the pods concerned keep what they had before"
            if self._when_full is WhenFull.KEEP
            else "what does not fit is closed"
        )
        reason = f"policy set {value.id} of {names}: {reason}; {becomes}"
        self.unfit[int(value.id, 16)] = UnfitSet(id=value.id, policies=value.policies, reason=reason)

    def _want_set(self, number: int, value: PolicySet, made: SetBlocks) -> None:
        held = self._held.get(number, _NOTHING)
        if held.value is value:
            return
        self._held[number] = _Held(value, made.blocks.keys())
        for key in held.keys:
            if key not in made.blocks:
                self._rows.want(key, None)
        for key, block in made.blocks.items():
            self._rows.want(key, block)


_NOTHING = _Held(None, ())
