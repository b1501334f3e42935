"""What datapaths say of packets: subject ``stentor.<cluster>.flow.<node>.<verdict>``."""

from __future__ import annotations

from enum import StrEnum

import msgspec

from shared.contract.base import Direction, Message
from shared.contract.policy import PolicyRef


class Verdict(StrEnum):
    """What happened to a packet."""

    FORWARDED = "forwarded"
    DROPPED = "dropped"
    AUDIT = "audit"
    REDIRECTED = "redirected"


class FlowEnd(msgspec.Struct, frozen=True, kw_only=True):
    """Source or destination of a flow."""

    ip: str
    port: int = 0
    identity: int = 0
    namespace: str = ""
    pod: str = ""
    node: str = ""
    workload: str = ""
    labels: tuple[str, ...] = ()


class FlowService(msgspec.Struct, frozen=True, kw_only=True):
    """The Service through which the client came; ``destination`` of the flow is the chosen backend."""

    ip: str
    port: int
    namespace: str = ""
    name: str = ""


class FlowPolicy(msgspec.Struct, frozen=True, kw_only=True):
    """What decided. With a default deny ``rule`` is None and ``policies`` are all that select the pod."""

    policies: tuple[PolicyRef, ...]
    rule: int | None = None
    """Index of the rule in ``spec.ingress`` or ``spec.egress`` of ``policies[0]``."""
    revision: int = 0


class DropReasonText(msgspec.Struct, frozen=True, kw_only=True):
    """A drop reason by number (compatible with Hubble's) and name."""

    code: int
    name: str


class Flow(Message, frozen=True, kw_only=True):
    """One event: the first packet of a connection in one direction, or a dropped packet."""

    time: str
    """RFC 3339 with nanoseconds, UTC."""
    node: str
    verdict: Verdict
    direction: Direction
    protocol: str
    source: FlowEnd
    destination: FlowEnd
    drop_reason: DropReasonText | None = None
    tcp_flags: tuple[str, ...] = ()
    icmp_type: int | None = None
    icmp_code: int | None = None
    service: FlowService | None = None
    policy: FlowPolicy | None = None
    is_reply: bool = False
    bytes: int = 0


class FlowsLost(Message, frozen=True, kw_only=True):
    """Subject ``stentor.<cluster>.flow.<node>.lost``: how many events could not be told, by class."""

    node: str
    time: str
    events: dict[str, int]
    """Class (``drop``, ``flow``) to the number lost since the last message."""
