"""What the policy service publishes: one ordered bucket ``policy``, and ``policy-status``.

A *set* is the policies that select an identity as subject in one direction. A *class* is all identities
that match the same peer selectors. A set's *row* for a class holds fully resolved verdicts. Set and class
ids are hashes of their contents, so the row of (set, class) never changes its meaning.

Readers apply the bucket only at a :class:`Commit` beyond which nothing is pending; every committed state
is complete in itself. The revision of a commit is its sequence number in the bucket's stream.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import Any

import msgspec

from shared.contract.base import ClassId, Direction, Identity, Message, Protocol, SetId
from shared.contract.names import COMMIT_KEY


class Action(StrEnum):
    """What a row or port range decides."""

    ALLOW = "allow"
    DENY = "deny"
    REDIRECT = "redirect"
    AUDIT = "audit"


class PortRange(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Ports ``first``..``last`` inclusive of one protocol; ICMP has its type here."""

    protocol: Protocol
    first: int = 0
    last: int = 65535
    action: Action = Action.ALLOW
    rule: int | None = None
    """Index in the set's ``rules`` of the rule that decided."""
    redirect_port: int = 0


MOST_RANGES = 512
"""Port ranges that a row may have: as many as a row of a node's kernel holds."""


class Row(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Verdicts for one class: disjoint ``ranges`` by (protocol number, ``first``); elsewhere ``action``."""

    action: Action = Action.DENY
    rule: int | None = None
    """None with ``deny``: no rule matched, the set's default deny."""
    ranges: tuple[PortRange, ...] = ()


class PolicyRef(msgspec.Struct, frozen=True, kw_only=True, order=True):
    """The object that a rule comes from."""

    kind: str
    namespace: str
    name: str


class RuleRef(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One rule of a set: ``spec.ingress[index]`` or ``spec.egress[index]`` of ``policies[policy]``."""

    policy: int
    index: int
    tier: int = 0
    """Lower decides first; Kubernetes NetworkPolicy is tier 0 until cluster policies join."""


class PolicySet(Message, frozen=True, kw_only=True):
    """Key ``set.<id>``: the policies of a set, their rules, and all rows that differ from ``default``."""

    id: SetId
    direction: Direction
    policies: tuple[PolicyRef, ...]
    rules: tuple[RuleRef, ...]
    default: Row
    rows: dict[ClassId, Row] = msgspec.field(default_factory=dict)


class IdentityPolicy(Message, frozen=True, kw_only=True):
    """Key ``identity.<number>``: an identity's class as a peer and its sets as a subject."""

    identity: Identity
    peer_class: ClassId
    ingress: SetId | None = None
    """None: no policy selects it in this direction, everything is allowed."""
    egress: SetId | None = None
    gone: bool = False
    """No pod has it any more: readers may have it as a peer still, but its sets are not kept up to date."""


class CidrClass(Message, frozen=True, kw_only=True):
    """Key ``cidr.<encoded prefix>``: the class of addresses outside the ipcache, longest prefix first."""

    cidr: str
    peer_class: ClassId


class AddressClass(Message, frozen=True, kw_only=True):
    """Key ``address.<encoded ip>``: the class of one ipcache address whose CIDR matches set it apart."""

    ip: str
    identity: Identity
    peer_class: ClassId


class Commit(Message, frozen=True, kw_only=True):
    """Key ``commit``: all that was put before belongs together. Its stream sequence is the revision."""

    time: str
    """RFC 3339, UTC."""
    policies: int
    identities: int
    sets: int
    rows: int
    pod_space: tuple[str, ...] | None = None
    """Prefixes of all pods for which the classes of identities hold; a pod's address outside of them has no
    class before it has one of its own or a later commit names it. None: no class depends on addresses."""


POLICY_TYPES: Mapping[str, type[Message]] = {
    "set": PolicySet,
    "identity": IdentityPolicy,
    "cidr": CidrClass,
    "address": AddressClass,
    COMMIT_KEY: Commit,
}
"""Bucket ``policy``: the message type by the first token of the key."""


class FieldError(msgspec.Struct, frozen=True, kw_only=True):
    """Why a policy was refused."""

    field: str
    """Path in the object, such as ``spec.ingress[0].ports[1].port``."""
    reason: str
    remedy: str


class InForce(msgspec.Struct, frozen=True, kw_only=True):
    """The version of a policy object that is enforced: its last accepted one."""

    resource_version: str
    spec: dict[str, Any]
    """As it was accepted, so that a refused edit does not withdraw it, restarts included."""


class PolicyStatus(Message, frozen=True, kw_only=True):
    """Bucket ``policy-status``: what became of one policy object."""

    policy: PolicyRef
    uid: str
    resource_version: str
    """The version that this status speaks of."""
    accepted: bool
    errors: tuple[FieldError, ...] = ()
    in_force: InForce | None = None
    """Of this very version when it is accepted, of an earlier one when it is refused; None: nothing is."""
    revision: int = 0
    """The commit from which on the version in force is; 0 when none is."""
    subjects: int = 0
    """Identities selected."""
    rules: int = 0
    problems: tuple[str, ...] = ()
    """Sorted sentences, each naming a node that has pods selected and no room for this policy."""
