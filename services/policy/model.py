"""The internal model: what every kind of policy object becomes before it is compiled.

All of it is immutable and canonical: two policies that mean the same selectors, peers or ports hold equal
values with equal ids, whatever their texts look like.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

import msgspec

from services.policy.ids import Element, content_digest, content_id
from shared.contract.base import Direction, Protocol
from shared.contract.policy import Action, PolicyRef


class Operator(StrEnum):
    """``meta/v1.LabelSelectorOperator``."""

    IN = "In"
    NOT_IN = "NotIn"
    EXISTS = "Exists"
    DOES_NOT_EXIST = "DoesNotExist"


class Requirement(msgspec.Struct, frozen=True, order=True):
    """One requirement; ``values`` sorted without duplicates, empty for Exists and DoesNotExist."""

    key: str
    operator: Operator
    values: tuple[str, ...] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether labels satisfy it. A missing key satisfies NotIn, as in the Kubernetes API."""
        value = labels.get(self.key)
        match self.operator:
            case Operator.IN:
                return value is not None and value in self.values
            case Operator.NOT_IN:
                return value is None or value not in self.values
            case Operator.EXISTS:
                return value is not None
            case Operator.DOES_NOT_EXIST:
                return value is None


class LabelSelector(msgspec.Struct, frozen=True):
    """All requirements must hold; none selects everything. Sorted without duplicates."""

    requirements: tuple[Requirement, ...] = ()

    def matches(self, labels: Mapping[str, str]) -> bool:
        """Whether labels satisfy every requirement."""
        return all(requirement.matches(labels) for requirement in self.requirements)


class PodTerm(msgspec.Struct, frozen=True, kw_only=True):
    """Pods by labels, in the one ``namespace`` or else in the namespaces that ``namespaces`` selects."""

    namespace: str | None = None
    namespaces: LabelSelector = LabelSelector()
    pods: LabelSelector = LabelSelector()


class BlockTerm(msgspec.Struct, frozen=True, kw_only=True):
    """Addresses in ``cidr`` and in none of ``excepts``; canonical prefixes, excepts sorted and disjoint."""

    cidr: str
    excepts: tuple[str, ...] = ()


class PodSelector(msgspec.Struct, frozen=True, kw_only=True):
    """A pod term with its content hash."""

    id: Element
    term: PodTerm


class BlockSelector(msgspec.Struct, frozen=True, kw_only=True):
    """An address block with its content hash."""

    id: Element
    term: BlockTerm


PeerSelector = PodSelector | BlockSelector


def pod_selector(term: PodTerm) -> PodSelector:
    """The selector of a pod term."""
    content = (term.namespace, _content(term.namespaces), _content(term.pods))
    return PodSelector(id=Element(content_id("pods", *content)), term=term)


def block_selector(term: BlockTerm) -> BlockSelector:
    """The selector of an address block."""
    return BlockSelector(id=Element(content_id("block", term.cidr, term.excepts)), term=term)


def _content(selector: LabelSelector) -> tuple[object, ...]:
    return tuple((item.key, item.operator.value, item.values) for item in selector.requirements)


class PortMatch(msgspec.Struct, frozen=True, order=True):
    """Ports ``first``..``last`` inclusive of one protocol."""

    protocol: Protocol
    first: int
    last: int


class PortName(msgspec.Struct, frozen=True, order=True):
    """The port that the destination pod gives this name."""

    protocol: Protocol
    name: str


class Rule(msgspec.Struct, frozen=True, kw_only=True):
    """One rule of a policy in one direction."""

    index: int
    """Position in the object's list of rules for the direction."""
    peers: tuple[PeerSelector, ...] | None
    """Sorted by id; None matches every peer, empty none."""
    ports: tuple[PortMatch, ...] | None
    """Sorted; None matches all traffic, of whatever protocol."""
    names: tuple[PortName, ...] = ()
    """Sorted; ports besides those of ``ports``."""
    action: Action = Action.ALLOW

    def content(self) -> tuple[object, ...]:
        """What is hashed."""
        peers = None if self.peers is None else tuple(peer.id for peer in self.peers)
        ports = None if self.ports is None else tuple((p.protocol.value, p.first, p.last) for p in self.ports)
        # Left out when there are none, so that hashes are what they were before there were names.
        names = tuple((name.protocol.value, name.name) for name in self.names)
        return (self.index, self.action.value, peers, ports, *([names] if names else ()))


class DirectionRules(msgspec.Struct, frozen=True, kw_only=True):
    """The rules of a policy in one direction, with their content hash."""

    digest: str
    """The whole SHA-256, so that a set is known to have equal contents by its policies' digests."""
    rules: tuple[Rule, ...]


class Policy(msgspec.Struct, frozen=True, kw_only=True):
    """A policy of any kind that was accepted."""

    ref: PolicyRef
    uid: str
    resource_version: str
    tier: int
    """Lower decides first."""
    subject: PodSelector
    ingress: DirectionRules | None
    """None: the policy does not concern this direction."""
    egress: DirectionRules | None
    spec: dict[str, Any] = {}
    """The object's, as it was accepted."""

    def governing(self, direction: Direction) -> DirectionRules | None:
        """The rules for a direction, None when the policy leaves it alone."""
        return self.ingress if direction is Direction.INGRESS else self.egress

    @property
    def rule_count(self) -> int:
        """Rules in both directions that are enforced."""
        return sum(len(side.rules) for side in (self.ingress, self.egress) if side is not None)


def direction_rules(rules: tuple[Rule, ...], *, ref: PolicyRef, tier: int) -> DirectionRules:
    """Rules with their hash, over the policy's name too: a verdict names the policy that decided."""
    content = (ref.kind, ref.namespace, ref.name, tier, tuple(rule.content() for rule in rules))
    return DirectionRules(digest=content_digest("rules", *content), rules=rules)
