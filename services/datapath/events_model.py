"""What the kernel tells of one packet, decoded: the seam between the ring buffer's reader and the flows."""

from __future__ import annotations

from enum import IntEnum
from typing import NamedTuple

from shared.contract.base import Direction


class KernelVerdict(IntEnum):
    """What the program did with the packet."""

    FORWARDED = 0
    DROPPED = 1
    AUDIT = 2
    """Forwarded although the policy denies it, because the policy only audits."""
    REDIRECTED = 3


class KernelEvent(NamedTuple):
    """One verdict about one packet, of which two pods of one node may have two: egress and ingress."""

    time_ns: int
    """CLOCK_MONOTONIC, as ``bpf_ktime_get_ns`` gives it."""
    verdict: KernelVerdict
    direction: Direction
    family: int
    """IP version, 4 or 6."""
    protocol: int
    """IANA protocol number."""
    source: str
    destination: str
    """After translation of a Service's address: the chosen backend."""
    source_identity: int
    destination_identity: int
    source_port: int = 0
    destination_port: int = 0
    frontend: tuple[str, int] | None = None
    """Address and port of the Service that the client used; None when it addressed the destination itself."""
    drop_reason: int = 0
    """Number of a :class:`shared.contract.drops.DropReason`; 0 unless dropped."""
    policy_set: str = ""
    """Id of the set that was asked, 16 hexadecimal digits; empty when none selects the pod."""
    rule: int | None = None
    """Index in the set's ``rules``; None: no rule matched."""
    tcp_flags: int = 0
    """Byte 13 of the TCP header (RFC 9293)."""
    icmp_type: int = 0
    icmp_code: int = 0
    ifindex: int = 0
    """Interface at which the verdict was reached."""
    is_reply: bool = False
    length: int = 0
    """Bytes of the packet, its link header included."""
