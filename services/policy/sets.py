"""Policy sets: the policies that select a subject in one direction, compiled.

A set's id is the hash of its policies' rules in deciding order, so the row of a set for a class is a function
of the two ids alone: :meth:`CompiledSet.row`.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from services.policy.errors import HashCollision
from services.policy.ids import RESERVED_IDS, Element, Signature, content_id
from services.policy.model import Policy, Rule
from services.policy.rows import resolve
from shared.contract.base import Direction, SetId
from shared.contract.policy import PolicyRef, Row, RuleRef


class CompiledSet:
    """One set. ``rules`` are in deciding order: tier, then the policy's reference, then the rule's index."""

    def __init__(self, *, id: SetId, direction: Direction, policies: Sequence[Policy]) -> None:
        self.id = id
        self.direction = direction
        self.policies: tuple[PolicyRef, ...] = tuple(policy.ref for policy in policies)
        self.digests = digests(policies, direction=direction)
        ordered = _in_deciding_order(policies, direction=direction)
        self.rules: tuple[RuleRef, ...] = tuple(ref for ref, _ in ordered)
        self._rules: tuple[Rule, ...] = tuple(rule for _, rule in ordered)
        self._for_all = frozenset(number for number, rule in enumerate(self._rules) if rule.peers is None)
        by_selector: defaultdict[Element, set[int]] = defaultdict(set)
        for number, rule in enumerate(self._rules):
            for peer in rule.peers or ():
                by_selector[peer.id].add(number)
        self._by_selector = dict(by_selector)
        self.selectors: Signature = frozenset(by_selector)
        self._rows: dict[Signature, Row | None] = {}
        self.default: Row = self._resolve(self._for_all)

    def row(self, signature: Signature) -> Row | None:
        """The row for a class, None where it is the default row."""
        relevant = signature & self.selectors
        if not relevant:
            return None
        if relevant not in self._rows:
            row = self._resolve(self._for_all.union(*(self._by_selector[id] for id in relevant)))
            self._rows[relevant] = None if row == self.default else row
        return self._rows[relevant]

    def _resolve(self, numbers: Iterable[int]) -> Row:
        return resolve((number, self._rules[number]) for number in sorted(numbers))


class SetTable:
    """Compiled sets by their policies; holds those that subjects have."""

    def __init__(self) -> None:
        self.sets: dict[SetId, CompiledSet] = {}
        self._users: defaultdict[SetId, int] = defaultdict(int)

    def acquire(self, policies: Sequence[Policy], *, direction: Direction) -> SetId:
        """The set of these policies, sorted by reference; held until released as often."""
        content = digests(policies, direction=direction)
        id = SetId(content_id("set", direction.value, content))
        known = self.sets.get(id)
        if known is None:
            if id in RESERVED_IDS:
                raise HashCollision(what="policy set", id=id, policies=(policy.ref for policy in policies))
            self.sets[id] = CompiledSet(id=id, direction=direction, policies=policies)
        elif known.digests != content or known.direction is not direction:
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
            del self.sets[id]


def digests(policies: Sequence[Policy], *, direction: Direction) -> tuple[str, ...]:
    """The hashes of the policies' rules for a direction."""
    sides = (policy.governing(direction) for policy in policies)
    return tuple(side.digest for side in sides if side is not None)


def _in_deciding_order(policies: Sequence[Policy], *, direction: Direction) -> list[tuple[RuleRef, Rule]]:
    found: list[tuple[tuple[int, int, int], RuleRef, Rule]] = []
    for number, policy in enumerate(policies):
        side = policy.governing(direction)
        for rule in side.rules if side is not None else ():
            ref = RuleRef(policy=number, index=rule.index, tier=policy.tier)
            found.append(((policy.tier, number, rule.index), ref, rule))
    found.sort(key=lambda item: item[0])
    return [(ref, rule) for _, ref, rule in found]
