"""The JSON that commands print with `-o json`: these shapes are stable, fields are only ever added.

Listings print an array of the named object, `status` and `policy show` one object. Flows are printed by
`observe -o json` as they are on NATS, one object per line (:class:`shared.contract.flow.Flow`).
"""

from __future__ import annotations

import msgspec

from shared.contract.node import MapUse, ServiceHealth
from shared.contract.policy import FieldError, PolicyRef


class Shape(msgspec.Struct, frozen=True, kw_only=True):
    """Base of all shapes."""


class IdentityItem(Shape, frozen=True, kw_only=True):
    """`identity list`."""

    id: int
    namespace: str
    labels: tuple[str, ...]
    endpoints: int
    """Pods that have this identity now."""


class EndpointItem(Shape, frozen=True, kw_only=True):
    """`endpoint list`."""

    namespace: str
    name: str
    node: str
    ips: tuple[str, ...]
    identity: int
    ready: bool
    """The node's kernel enforces this pod's policy; until then none of its packets pass."""
    ingress: str
    egress: str
    """`open` (no policy selects it), `policy` (its policies decide), `pending` (not compiled yet)."""


class ServicePortItem(Shape, frozen=True, kw_only=True):
    """A port in :class:`ServiceItem`."""

    name: str
    protocol: str
    port: int
    node_port: int
    backends: int
    ready_backends: int


class ServiceItem(Shape, frozen=True, kw_only=True):
    """`service list`."""

    namespace: str
    name: str
    kind: str
    addresses: tuple[str, ...]
    """Cluster, external and load balancer addresses: each is a frontend with each port."""
    ports: tuple[ServicePortItem, ...]


class PolicyItem(Shape, frozen=True, kw_only=True):
    """`policy list`."""

    kind: str
    namespace: str
    name: str
    accepted: bool
    in_force: str
    """The resourceVersion that is enforced: a refused edit leaves the last accepted one; empty: none is."""
    revision: int
    """The publication from which on that version is in force; 0 when none is."""
    subjects: int
    """Identities selected."""
    rules: int
    realised: int
    """Nodes whose kernel holds `revision`."""
    nodes: int
    """Nodes that are to hold it."""
    errors: tuple[FieldError, ...]
    problems: tuple[str, ...]
    """Nodes that have pods selected and no room for the policy, and what becomes of them."""


class PolicyRule(Shape, frozen=True, kw_only=True):
    """One rule of a policy as it was compiled, in :class:`PolicyDetail`."""

    direction: str
    index: int
    """In `spec.ingress` or `spec.egress`."""
    peers: tuple[str, ...]
    """Labels of identities, prefixes and addresses that the rule decides for."""
    ports: tuple[str, ...]
    """Such as `TCP 80`, `UDP 5000-6000`, `any`."""
    action: str


class PolicySubject(Shape, frozen=True, kw_only=True):
    """An identity that a policy selects, in :class:`PolicyDetail`."""

    identity: int
    labels: tuple[str, ...]
    directions: tuple[str, ...]
    policies: tuple[PolicyRef, ...]
    """All policies that decide together for it."""


class PolicyDetail(Shape, frozen=True, kw_only=True):
    """`policy show`."""

    policy: PolicyItem
    resource_version: str
    realised_on: tuple[str, ...]
    awaited_on: tuple[str, ...]
    """Nodes that do not hold it yet."""
    subjects: tuple[PolicySubject, ...]
    rules: tuple[PolicyRule, ...]


class Revisions(Shape, frozen=True, kw_only=True):
    """Of the buckets that a kernel's state is made from."""

    policy: int
    services: int
    ipcache: int


class NodeItem(Shape, frozen=True, kw_only=True):
    """A node in :class:`StatusReport`."""

    node: str
    reported: bool
    enforcing: bool
    time: str
    revisions: Revisions
    endpoints: int
    endpoints_ready: int
    maps: dict[str, MapUse]
    drift_repaired: int


class StatusReport(Shape, frozen=True, kw_only=True):
    """`status`. `well` is true when `problems` is empty."""

    cluster: str
    well: bool
    latest: Revisions
    services: tuple[ServiceHealth, ...]
    nodes: tuple[NodeItem, ...]
    identities: int
    endpoints: int
    policies: int
    policies_refused: int
    problems: tuple[str, ...]


class PodItem(Shape, frozen=True, kw_only=True):
    """`lab pods`."""

    namespace: str
    name: str
    node: str
    ips: tuple[str, ...]
    netns: str
    """Path of the network namespace."""
    identity: int
    ready: bool


class TraceRule(Shape, frozen=True, kw_only=True):
    """A rule in :class:`TraceStep`: ``spec.<direction>[index]`` of the policy."""

    kind: str
    namespace: str
    name: str
    index: int


class NearMiss(Shape, frozen=True, kw_only=True):
    """A rule that would allow the connection but for what is `not_met`: `peer`, `port` or `protocol`."""

    rule: TraceRule
    not_met: tuple[str, ...]


class TraceStep(Shape, frozen=True, kw_only=True):
    """What the policies of one end say in :class:`Trace`."""

    direction: str
    subject: str
    peer: str
    allowed: bool
    why: str
    policies: tuple[PolicyRef, ...]
    """Those that select the subject in this direction; empty when none does, or none is asked."""
    rule: TraceRule | None
    """The one that decided; null where none did."""
    nearest: tuple[NearMiss, ...]


class Trace(Shape, frozen=True, kw_only=True):
    """`policy trace`."""

    source: str
    destination: str
    port: str
    allowed: bool
    steps: tuple[TraceStep, ...]
    """Egress of the source, then ingress of the destination; an end that is no pod has none."""
