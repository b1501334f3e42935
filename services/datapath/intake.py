"""From the kernel's rings to flows: one event there may be two verdicts here, egress and ingress.

Owns the readers of both rings. Events come in the order of each ring; those that a full ring refused are
counted by the kernel and told once a second.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterator

from services.datapath.events_model import KernelEvent, KernelVerdict
from services.datapath.flows import FlowPublisher
from services.datapath.kernel import ring
from services.datapath.kernel.layout import SET_NOT_READY, SET_OPEN
from services.datapath.kernel.ring import EventRings, RawEvent
from shared.contract.base import Direction

_LOSS_SECONDS = 1.0


class EventIntake:
    """Reads the rings behind ``descriptors`` until closed; ``losses`` gives the kernel's counts by class."""

    def __init__(
        self, descriptors: list[int], *, flows: FlowPublisher, losses: Callable[[], dict[str, int]]
    ) -> None:
        self._flows = flows
        self._losses = losses
        self._rings = EventRings(descriptors, self._take)

    def close(self) -> None:
        """Stops reading."""
        self._rings.close()

    async def run(self) -> None:
        """Counts what the kernel could not tell."""
        told = self._losses()
        while True:
            await asyncio.sleep(_LOSS_SECONDS)
            now = self._losses()
            for kind, number in now.items():
                if number > told[kind]:
                    self._flows.count_lost(kind, number - told[kind])
            told = now

    def _take(self, batch: list[bytes]) -> None:
        for data in batch:
            for event in kernel_events(ring.decode(data)):
                self._flows.offer(event)


def kernel_events(raw: RawEvent) -> Iterator[KernelEvent]:
    """The verdicts that one event of the kernel tells of."""
    if raw.type == ring.EVENT_DROP:
        ingress = bool(raw.flags & ring.AT_INGRESS)
        yield _event(raw, ingress=ingress, asked=bool(raw.flags & (ring.INGRESS if ingress else ring.EGRESS)))
        return
    asked_egress, asked_ingress = bool(raw.flags & ring.EGRESS), bool(raw.flags & ring.INGRESS)
    if asked_egress or not asked_ingress:
        yield _event(raw, ingress=False, asked=asked_egress)
    if asked_ingress:
        yield _event(raw, ingress=True, asked=True)


def _event(raw: RawEvent, *, ingress: bool, asked: bool) -> KernelEvent:
    if raw.type == ring.EVENT_DROP:
        verdict = KernelVerdict.DROPPED
    else:
        audits = raw.flags & (ring.AUDIT_INGRESS if ingress else ring.AUDIT_EGRESS)
        verdict = KernelVerdict.AUDIT if audits else KernelVerdict.FORWARDED
    policy_set = raw.ingress_set if ingress else raw.egress_set
    named = asked and policy_set not in (SET_OPEN, SET_NOT_READY)
    return KernelEvent(
        time_ns=raw.time,
        verdict=verdict,
        direction=Direction.INGRESS if ingress else Direction.EGRESS,
        family=raw.family,
        protocol=raw.protocol,
        source=raw.source,
        destination=raw.destination,
        source_identity=raw.source_identity,
        destination_identity=raw.destination_identity,
        source_port=raw.source_port,
        destination_port=raw.destination_port,
        frontend=(raw.frontend, raw.frontend_port) if raw.flags & ring.SERVICE else None,
        drop_reason=raw.reason,
        policy_set=f"{policy_set:016x}" if named else "",
        rule=raw.ingress_rule if ingress else raw.egress_rule,
        tcp_flags=raw.tcp_flags,
        icmp_type=raw.icmp_type,
        icmp_code=raw.icmp_code,
        ifindex=raw.ifindex,
        is_reply=bool(raw.flags & ring.REPLY),
        length=raw.length,
    )
