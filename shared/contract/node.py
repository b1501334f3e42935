"""What datapaths and services say of themselves."""

from __future__ import annotations

import msgspec

from shared.contract.base import Message, SetId
from shared.contract.policy import PolicyRef


class MapUse(msgspec.Struct, frozen=True, kw_only=True):
    """Occupancy of one eBPF map."""

    entries: int
    capacity: int


class EndpointState(msgspec.Struct, frozen=True, kw_only=True):
    """A local endpoint as the kernel has it."""

    namespace: str
    pod: str
    ips: tuple[str, ...]
    identity: int
    ready: bool


class UnfitSet(msgspec.Struct, frozen=True, kw_only=True):
    """A policy set that a node's kernel does not hold as it is published, though pods of the node have it."""

    id: SetId
    policies: tuple[PolicyRef, ...]
    reason: str
    """A sentence: what there is no room for, and what becomes of the pods meanwhile."""


class Realised(Message, frozen=True, kw_only=True):
    """Bucket ``realised``, key ``<node>``: what one node's kernel holds."""

    node: str
    time: str
    instance: str
    """Differs after each start of the datapath."""
    enforcing: bool
    policy_revision: int = 0
    services_revision: int = 0
    ipcache_revision: int = 0
    endpoints: tuple[EndpointState, ...] = ()
    maps: dict[str, MapUse] = msgspec.field(default_factory=dict)
    drift_repaired: int = 0
    """Kernel entries found wrong and mended since the datapath started."""
    problems: tuple[str, ...] = ()
    """Sentences naming what is not as it must be; empty when all is well."""
    unfit_sets: tuple[UnfitSet, ...] = ()
    """Sorted by id; their reasons are among the problems."""


class ServiceHealth(Message, frozen=True, kw_only=True):
    """The answer of each service to a request on ``stentor.<cluster>.health``."""

    service: str
    instance: str
    node: str = ""
    ready: bool
    reasons: tuple[str, ...] = ()
    """Why it is not ready."""
    uptime_seconds: float
    resident_bytes: int
    detail: dict[str, int] = msgspec.field(default_factory=dict)
    """Service-specific counts, such as ``identities`` or ``policies``."""


class Event(Message, frozen=True, kw_only=True):
    """Subject ``stentor.<cluster>.event.<service>.<kind>``: something an operator should hear of."""

    time: str
    service: str
    kind: str
    """A stable word such as ``policy-rejected`` or ``drift-repaired``."""
    object: str
    """``Kind namespace/name`` or another name of what it concerns."""
    message: str
    node: str = ""
