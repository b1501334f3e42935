"""Which pod selectors match which identities, kept as both change.

A selector is in force while somebody holds it (:meth:`Matcher.acquire`). Adding one costs the set algebra
of :class:`~services.policy.labels.LabelIndex`; adding an identity tries only the selectors that are anchored
at its namespace and labels.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from typing import NamedTuple

from services.policy.errors import HashCollision
from services.policy.ids import NO_SELECTOR, RESERVED_IDS, Element, Signature
from services.policy.labels import LabelIndex, Labels
from services.policy.model import Operator, PodSelector, PodTerm
from shared.contract.base import Identity
from shared.index import discard


class _Anchor(NamedTuple):
    """A condition that every identity selected meets; None is no condition."""

    namespace: str | None
    pair: tuple[str, str] | None


@dataclass(slots=True)
class _InForce:
    term: PodTerm
    members: set[Identity]
    holders: int = 1


class Matcher:
    """Selectors in force over the identities of one index."""

    def __init__(self, index: LabelIndex, *, what: str) -> None:
        self._index = index
        self._what = what
        self._in_force: dict[Element, _InForce] = {}
        self._anchored: defaultdict[_Anchor, set[Element]] = defaultdict(set)
        self._matched: dict[Identity, set[Element]] = {}

    def __contains__(self, id: Element) -> bool:
        return id in self._in_force

    def __len__(self) -> int:
        return len(self._in_force)

    def members(self, id: Element) -> set[Identity]:
        """Identities that a selector in force matches; not to be changed."""
        return self._in_force[id].members

    def signature(self, identity: Identity) -> Signature:
        """All selectors in force that match an identity."""
        matched = self._matched.get(identity)
        return frozenset(matched) if matched else NO_SELECTOR

    def check(self, selector: PodSelector) -> None:
        """Raise HashCollision if the selector cannot be held."""
        known = self._in_force.get(selector.id)
        if selector.id in RESERVED_IDS or (known is not None and known.term != selector.term):
            raise HashCollision(what=self._what, id=selector.id, elements=(selector.id,))

    def acquire(self, selector: PodSelector) -> set[Identity]:
        """Hold a selector; returns the identities whose signature changed."""
        self.check(selector)
        known = self._in_force.get(selector.id)
        if known is not None:
            known.holders += 1
            return set()
        members = self._index.select(selector.term)
        self._in_force[selector.id] = _InForce(selector.term, members)
        for anchor in _anchors(selector.term):
            self._anchored[anchor].add(selector.id)
        for identity in members:
            self._matched.setdefault(identity, set()).add(selector.id)
        return members

    def release(self, selector: PodSelector) -> set[Identity]:
        """Let go of a selector; returns the identities whose signature changed."""
        known = self._in_force[selector.id]
        known.holders -= 1
        if known.holders:
            return set()
        del self._in_force[selector.id]
        for anchor in _anchors(selector.term):
            discard(self._anchored, anchor, selector.id)
        for identity in known.members:
            self._matched[identity].discard(selector.id)
        return known.members

    def add(self, identity: Identity, labels: Labels) -> None:
        """Match an identity that was entered into the index."""
        matched = {id for id in self._candidates(labels) if labels.match(self._in_force[id].term)}
        self._matched[identity] = matched
        for id in matched:
            self._in_force[id].members.add(identity)

    def remove(self, identity: Identity) -> None:
        """Forget an identity that was taken out of the index."""
        for id in self._matched.pop(identity, ()):
            self._in_force[id].members.discard(identity)

    def _candidates(self, labels: Labels) -> set[Element]:
        found: set[Element] = set()
        pairs = (None, *labels.pod_labels.items())
        for namespace in (None, labels.namespace):
            for pair in pairs:
                found |= self._anchored.get(_Anchor(namespace, pair), NO_SELECTOR)
        return found


def _anchors(term: PodTerm) -> tuple[_Anchor, ...]:
    choices = [item for item in term.pods.requirements if item.operator is Operator.IN]
    if not choices:
        return (_Anchor(term.namespace, None),)
    fewest = min(choices, key=lambda item: len(item.values))
    return tuple(_Anchor(term.namespace, (fewest.key, value)) for value in fewest.values)
