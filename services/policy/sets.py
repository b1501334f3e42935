"""Policy sets: the policies that select a subject in one direction, compiled.

A set's id is the hash of its policies' rules in deciding order, and at ingress of what the names of ports in
them mean for the subject, so the row of a set for a class is a function of the two ids alone:
:meth:`CompiledSet.row`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Sequence
from typing import NamedTuple

from services.policy.errors import HashCollision
from services.policy.ids import NO_SELECTOR, RESERVED_IDS, Element, Signature, content_id
from services.policy.model import PeerSelector, Policy, PortName, Rule
from services.policy.names import Numbers, bound
from services.policy.rows import resolve
from shared.contract.base import Direction, SetId
from shared.contract.policy import PolicyRef, Row, RuleRef
from shared.index import discard


class Content(NamedTuple):
    """What a set's id is the hash of."""

    digests: tuple[str, ...]
    numbers: tuple[tuple[PortName, int], ...]
    """What names of ports mean for the subject; at ingress only, and only of names that are called."""


class Asked(NamedTuple):
    """What a set asks of a peer's class."""

    selectors: Signature = NO_SELECTOR
    names: frozenset[PortName] = frozenset()

    def of(self, elements: Collection[Element]) -> Signature:
        """Those of the elements that make a difference to it; either side may be the larger one by far."""
        if len(elements) < len(self.selectors):
            found = {each for each in elements if each in self.selectors}
        else:
            found = {each for each in self.selectors if each in elements}
        if self.names:
            found.update(each for each in elements if not self.names.isdisjoint(bound((each,))))
        return frozenset(found)


class CompiledSet:
    """One set. ``rules`` are in deciding order: tier, then the policy's reference, then the rule's index."""

    def __init__(
        self, *, id: SetId, direction: Direction, policies: Sequence[Policy], content: Content
    ) -> None:
        self.id = id
        self.direction = direction
        self.policies: tuple[PolicyRef, ...] = tuple(policy.ref for policy in policies)
        self.content = content
        self._own: Numbers = dict(content.numbers)
        ordered = _in_deciding_order(policies, direction=direction)
        self.rules: tuple[RuleRef, ...] = tuple(ref for ref, _ in ordered)
        self._rules: tuple[Rule, ...] = tuple(rule for _, rule in ordered)
        self._for_all = frozenset(number for number, rule in enumerate(self._rules) if rule.peers is None)
        by_selector: defaultdict[Element, set[int]] = defaultdict(set)
        self.peers: tuple[PeerSelector, ...] = tuple(
            {peer.id: peer for rule in self._rules for peer in rule.peers or ()}.values()
        )
        for number, rule in enumerate(self._rules):
            for peer in rule.peers or ():
                by_selector[peer.id].add(number)
        self._by_selector = dict(by_selector)
        called = (name for rule in self._rules for name in rule.names)
        self.asked = Asked(frozenset(by_selector), frozenset(called if direction is Direction.EGRESS else ()))
        self._rows: dict[Signature, Row | None] = {}
        self.default: Row = self._resolve(self._for_all, numbers=self._own)

    def row(self, signature: Signature) -> Row | None:
        """The row for a class, None where it is the default row."""
        relevant = self.asked.of(signature)
        if not relevant:
            return None
        if relevant not in self._rows:
            numbers = self._for_all.union(*(self._by_selector.get(id, ()) for id in relevant))
            row = self._resolve(numbers, numbers=self._own or bound(relevant))
            self._rows[relevant] = None if row == self.default else row
        return self._rows[relevant]

    def _resolve(self, rules: Iterable[int], *, numbers: Numbers) -> Row:
        return resolve(((rule, self._rules[rule]) for rule in sorted(rules)), numbers=numbers)


class SetsByElement:
    """Sets by what they ask."""

    def __init__(self) -> None:
        self._asking: defaultdict[Element, set[SetId]] = defaultdict(set)
        self._naming: dict[SetId, Asked] = {}

    def add(self, compiled: CompiledSet) -> None:
        """A set."""
        for element in compiled.asked.selectors:
            self._asking[element].add(compiled.id)
        if compiled.asked.names:
            self._naming[compiled.id] = compiled.asked

    def remove(self, compiled: CompiledSet) -> None:
        """Forget a set."""
        self._naming.pop(compiled.id, None)
        for element in compiled.asked.selectors:
            discard(self._asking, element, compiled.id)

    def asking(self, elements: Collection[Element]) -> set[SetId]:
        """The sets to which some of the elements make a difference."""
        found = set().union(*(self._asking.get(element, ()) for element in elements))
        return found | {id for id, asked in self._naming.items() if asked.of(elements)}


class SetTable:
    """Compiled sets by their policies; holds those that subjects have."""

    def __init__(self) -> None:
        self.sets: dict[SetId, CompiledSet] = {}
        self._asking = SetsByElement()
        self._users: defaultdict[SetId, int] = defaultdict(int)

    def acquire(self, policies: Sequence[Policy], *, direction: Direction, numbers: Numbers) -> SetId:
        """The set of these policies, sorted by reference; held until released as often.

        ``numbers`` are the named ports of the subject.
        """
        own: tuple[tuple[PortName, int], ...] = ()
        if numbers and direction is Direction.INGRESS:
            called = _names(policies, direction=direction)
            own = tuple(sorted((name, number) for name, number in numbers.items() if name in called))
        content = Content(digests(policies, direction=direction), own)
        hashed = tuple((name.protocol.value, name.name, number) for name, number in own)
        id = SetId(content_id("set", direction.value, content.digests, *([hashed] if hashed else ())))
        known = self.sets.get(id)
        if known is None:
            if id in RESERVED_IDS:
                raise HashCollision(what="policy set", id=id, policies=(policy.ref for policy in policies))
            self._add(CompiledSet(id=id, direction=direction, policies=policies, content=content))
        elif known.content != content or known.direction is not direction:
            refs = {policy.ref for policy in policies}
            apart = refs.symmetric_difference(known.policies)
            raise HashCollision(what="policy set", id=id, policies=apart or refs)
        self._users[id] += 1
        return id

    def release(self, id: SetId) -> None:
        """Let go of a set."""
        self._users[id] -= 1
        if not self._users[id]:
            del self._users[id]
            self._asking.remove(self.sets.pop(id))

    def asking(self, elements: Collection[Element]) -> set[SetId]:
        """The sets to which some of the elements make a difference."""
        return self._asking.asking(elements)

    def _add(self, compiled: CompiledSet) -> None:
        self.sets[compiled.id] = compiled
        self._asking.add(compiled)


def digests(policies: Sequence[Policy], *, direction: Direction) -> tuple[str, ...]:
    """The hashes of the policies' rules for a direction."""
    sides = (policy.governing(direction) for policy in policies)
    return tuple(side.digest for side in sides if side is not None)


def _names(policies: Sequence[Policy], *, direction: Direction) -> set[PortName]:
    sides = (policy.governing(direction) for policy in policies)
    return {name for side in sides if side is not None for rule in side.rules for name in rule.names}


def _in_deciding_order(policies: Sequence[Policy], *, direction: Direction) -> list[tuple[RuleRef, Rule]]:
    found: list[tuple[tuple[int, int, int], RuleRef, Rule]] = []
    for number, policy in enumerate(policies):
        side = policy.governing(direction)
        for rule in side.rules if side is not None else ():
            ref = RuleRef(policy=number, index=rule.index, tier=policy.tier)
            found.append(((policy.tier, number, rule.index), ref, rule))
    found.sort(key=lambda item: item[0])
    return [(ref, rule) for _, ref, rule in found]
