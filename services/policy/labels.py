"""Identities by their labels: posting sets, so that a pod term is answered by set algebra.

Labels are immutable for the life of an identity's number; a changed record is a removal and an addition.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from typing import NamedTuple

from services.policy.model import LabelSelector, Operator, PodTerm
from shared.contract.base import Identity
from shared.contract.identity import IdentityRecord
from shared.index import discard

NAMESPACE_NAME_LABEL = "kubernetes.io/metadata.name"
"""Set on every namespace by the API server."""


class Labels(NamedTuple):
    """What pod terms are evaluated on."""

    namespace: str
    namespace_labels: Mapping[str, str]
    pod_labels: Mapping[str, str]

    def match(self, term: PodTerm) -> bool:
        """Whether a pod with these labels is selected."""
        if term.namespace is not None:
            if term.namespace != self.namespace:
                return False
        elif not term.namespaces.matches(self.namespace_labels):
            return False
        return term.pods.matches(self.pod_labels)


def labels_of(record: IdentityRecord) -> Labels:
    """The labels of an identity."""
    return Labels(
        namespace=record.namespace,
        namespace_labels={**record.namespace_labels, NAMESPACE_NAME_LABEL: record.namespace},
        pod_labels=record.pod_labels,
    )


class _Scope(NamedTuple):
    namespace: str
    labels: frozenset[tuple[str, str]]


class LabelIndex:
    """All identities that pod terms can select."""

    def __init__(self) -> None:
        self.labels: dict[Identity, Labels] = {}
        self._by_namespace: defaultdict[str, set[Identity]] = defaultdict(set)
        self._by_scope: defaultdict[_Scope, set[Identity]] = defaultdict(set)
        self._by_pair: defaultdict[tuple[str, str], set[Identity]] = defaultdict(set)
        self._by_key: defaultdict[str, set[Identity]] = defaultdict(set)

    def add(self, identity: Identity, labels: Labels) -> None:
        """Enter an identity that is not in the index."""
        self.labels[identity] = labels
        self._by_namespace[labels.namespace].add(identity)
        self._by_scope[_scope(labels)].add(identity)
        for pair in labels.pod_labels.items():
            self._by_pair[pair].add(identity)
            self._by_key[pair[0]].add(identity)

    def remove(self, identity: Identity) -> None:
        """Take an identity out."""
        labels = self.labels.pop(identity)
        discard(self._by_namespace, labels.namespace, identity)
        discard(self._by_scope, _scope(labels), identity)
        for pair in labels.pod_labels.items():
            discard(self._by_pair, pair, identity)
            discard(self._by_key, pair[0], identity)

    def select(self, term: PodTerm) -> set[Identity]:
        """A new set of all identities that the term selects."""
        needed: list[set[Identity]] = []
        if term.namespace is not None:
            needed.append(self._by_namespace.get(term.namespace, set()))
        elif term.namespaces.requirements:
            needed.append(self._in_namespaces(term.namespaces))
        forbidden: list[set[Identity]] = []
        for requirement in term.pods.requirements:
            pairs = ((requirement.key, value) for value in requirement.values)
            match requirement.operator:
                case Operator.IN:
                    needed.append(_union(self._by_pair.get(pair) for pair in pairs))
                case Operator.EXISTS:
                    needed.append(self._by_key.get(requirement.key, set()))
                case Operator.NOT_IN:
                    forbidden.append(_union(self._by_pair.get(pair) for pair in pairs))
                case Operator.DOES_NOT_EXIST:
                    forbidden.append(self._by_key.get(requirement.key, set()))
        chosen = set.intersection(*sorted(needed, key=len)) if needed else set(self.labels)
        return chosen.difference(*forbidden)

    def _in_namespaces(self, selector: LabelSelector) -> set[Identity]:
        return _union(
            identities for scope, identities in self._by_scope.items() if selector.matches(dict(scope.labels))
        )


def _scope(labels: Labels) -> _Scope:
    return _Scope(labels.namespace, frozenset(labels.namespace_labels.items()))


def _union(sets: Iterable[set[Identity] | None]) -> set[Identity]:
    return set().union(*(one for one in sets if one))
