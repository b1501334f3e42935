"""Turns the kernel's events into flows with names, and publishes them.

It owns a bounded queue between the ring buffer's reader, which must never wait, and NATS, which may be
slow or away. When the queue is full, forwarded packets make room for drops, and whatever is not published
is counted by class (``drop``, ``flow``) and told in FlowsLost at most once a second: nothing is lost
silently. Flows leave in the order of their time, except that drops outlive forwarded packets.

Names come from views of the followed buckets as they are when the flow is published. An address that
belongs to another identity by now is not given the name of its new pod.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol as StructuralType

from services.datapath.endpoints import LocalEndpoint
from services.datapath.events_model import KernelEvent, KernelVerdict
from shared.contract.base import Direction, Message, Protocol
from shared.contract.drops import DropReason
from shared.contract.flow import (
    DropReasonText,
    Flow,
    FlowEnd,
    FlowPolicy,
    FlowService,
    FlowsLost,
    Verdict,
)
from shared.contract.identity import IdentityRecord, IpEntry
from shared.contract.names import flow_subject
from shared.contract.policy import PolicySet
from shared.contract.reserved import Reserved

DROP, FLOW = "drop", "flow"

_BURST = 64
"""Flows published before other tasks get their turn."""

_ICMP = frozenset({Protocol.ICMP.number, Protocol.ICMPV6.number})
_TCP = Protocol.TCP.number
_VERDICTS = {
    KernelVerdict.FORWARDED: Verdict.FORWARDED,
    KernelVerdict.DROPPED: Verdict.DROPPED,
    KernelVerdict.AUDIT: Verdict.AUDIT,
    KernelVerdict.REDIRECTED: Verdict.REDIRECTED,
}
_PROTOCOLS = [str(Protocol.from_number(number) or number) for number in range(256)]
_FLAGS = ("FIN", "SYN", "RST", "PSH", "ACK", "URG", "ECE", "CWR")
_TCP_FLAGS = [tuple(name for bit, name in enumerate(_FLAGS) if byte >> bit & 1) for byte in range(256)]
_RESERVED_LABELS = {int(reserved): (reserved.label,) for reserved in Reserved}
_DROP_REASONS = {int(reason): DropReasonText(code=reason, name=reason.text) for reason in DropReason}
_UNKNOWN = int(Reserved.UNKNOWN)
_HOST = int(Reserved.HOST)


@dataclass(frozen=True, kw_only=True)
class FlowViews:
    """What flows take names from: live mappings that others keep up to date."""

    ipcache: Mapping[str, IpEntry]
    identities: Mapping[int, IdentityRecord]
    services: Mapping[tuple[str, int, int], tuple[str, str]]
    """(frontend address, port, protocol number) to the Service's (namespace, name)."""
    sets: Mapping[str, PolicySet]
    endpoints: Mapping[int, LocalEndpoint]
    """Ifindex of the host side to the pod of this node."""
    policy_revision: Callable[[], int]
    """Revision that the kernel has realised."""


class FlowBus(StructuralType):
    """:class:`shared.bus.connection.Bus`, as far as flows need it."""

    @property
    def cluster(self) -> str: ...
    @property
    def connected(self) -> bool: ...
    @property
    def dropped(self) -> int: ...

    async def publish(self, subject: str, message: Message) -> None: ...


class FlowWriter:
    """Gives events names. Pure but for its caches."""

    def __init__(self, *, node: str, views: FlowViews) -> None:
        self._node = node
        self._views = views
        self._policies: dict[tuple[str, int | None], FlowPolicy] = {}
        self._policies_of = -1
        self._second = -1
        self._second_text = ""

    def flow(self, event: KernelEvent, *, boot_ns: int) -> Flow:
        """The flow of an event; ``boot_ns`` is CLOCK_REALTIME minus CLOCK_MONOTONIC."""
        number = event.protocol
        icmp = number in _ICMP
        egress = event.direction is Direction.EGRESS
        return Flow(
            time=self._time(event.time_ns + boot_ns),
            node=self._node,
            verdict=_VERDICTS[event.verdict],
            direction=event.direction,
            protocol=_PROTOCOLS[number],
            source=self._end(
                event.source, event.source_port, event.source_identity, event.ifindex if egress else 0
            ),
            destination=self._end(event.destination, event.destination_port, event.destination_identity, 0),
            drop_reason=_drop_reason(event.drop_reason) if event.verdict is KernelVerdict.DROPPED else None,
            tcp_flags=_TCP_FLAGS[event.tcp_flags] if number == _TCP else (),
            icmp_type=event.icmp_type if icmp else None,
            icmp_code=event.icmp_code if icmp else None,
            service=self._service(event) if event.frontend else None,
            policy=self._policy(event) if event.policy_set else None,
            is_reply=event.is_reply,
            bytes=event.length,
        )

    def time(self, wall_ns: int) -> str:
        """RFC 3339 with nanoseconds, UTC."""
        return self._time(wall_ns)

    def _time(self, wall_ns: int) -> str:
        second, fraction = divmod(wall_ns, 1_000_000_000)
        if second != self._second:
            self._second = second
            self._second_text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(second))
        return f"{self._second_text}.{fraction:09d}Z"

    def _end(self, ip: str, port: int, identity: int, ifindex: int) -> FlowEnd:
        # A packet that left a pod of this node is that pod's, whatever source address it has put on it.
        endpoint = self._views.endpoints.get(ifindex) if ifindex else None
        entry = self._views.ipcache.get(ip)
        if identity == _UNKNOWN:
            # The kernel dropped it before it looked up whom it is from and to.
            known = entry if endpoint is None else self._views.ipcache.get(endpoint.ips[0])
            identity = known.identity if known is not None else _UNKNOWN
        reserved = _RESERVED_LABELS.get(identity)
        if reserved is not None and (identity != _UNKNOWN or endpoint is None):
            # Nodes: the ipcache calls every node remote-node, the kernel its own node host.
            node = self._node if identity == _HOST else entry.node if entry and not entry.pod else ""
            return FlowEnd(ip=ip, port=port, identity=identity, node=node, labels=reserved)
        record = self._views.identities.get(identity)
        labels = record.labels if record else ()
        if entry is not None and entry.identity == identity and (endpoint is None or ip in endpoint.ips):
            return FlowEnd(
                ip=ip,
                port=port,
                identity=identity,
                namespace=entry.namespace,
                pod=entry.pod,
                node=entry.node,
                workload=entry.workload,
                labels=labels,
            )
        if endpoint is not None:
            return FlowEnd(
                ip=ip,
                port=port,
                identity=identity,
                namespace=endpoint.namespace,
                pod=endpoint.pod,
                node=self._node,
                labels=labels,
            )
        namespace = record.namespace if record else ""
        return FlowEnd(ip=ip, port=port, identity=identity, namespace=namespace, labels=labels)

    def _service(self, event: KernelEvent) -> FlowService | None:
        if event.frontend is None:
            return None
        ip, port = event.frontend
        namespace, name = self._views.services.get((ip, port, event.protocol), ("", ""))
        return FlowService(ip=ip, port=port, namespace=namespace, name=name)

    def _policy(self, event: KernelEvent) -> FlowPolicy | None:
        revision = self._views.policy_revision()
        if revision != self._policies_of:
            self._policies.clear()
            self._policies_of = revision
        key = (event.policy_set, event.rule)
        found = self._policies.get(key)
        if found is None:
            policy_set = self._views.sets.get(event.policy_set)
            if policy_set is None:
                return None
            found = self._policies[key] = _explain(policy_set, event.rule, revision)
        if event.rule is None and event.verdict in (KernelVerdict.FORWARDED, KernelVerdict.REDIRECTED):
            # No rule of the set allowed it, but what policy never forbids, such as the pod's own node.
            return None
        return found


class FlowPublisher:
    """See the module. ``capacity`` is how many events may wait."""

    def __init__(
        self,
        *,
        node: str,
        bus: FlowBus,
        views: FlowViews,
        capacity: int = 16384,
        report_seconds: float = 1.0,
    ) -> None:
        self._node = node
        self._bus = bus
        self._writer = FlowWriter(node=node, views=views)
        self._capacity = capacity
        self._report_seconds = report_seconds
        self._drops: deque[KernelEvent] = deque()
        self._flows: deque[KernelEvent] = deque()
        self._untold = {DROP: 0, FLOW: 0}
        self._wake = asyncio.Event()
        self._subjects = {
            verdict: flow_subject(cluster=bus.cluster, node=node, verdict=verdict.value)
            for verdict in Verdict
        }
        self._lost_subject = flow_subject(cluster=bus.cluster, node=node, verdict="lost")
        self.published = 0
        self.lost = {DROP: 0, FLOW: 0}
        """Since the start, by class."""

    def offer(self, event: KernelEvent) -> None:
        """Take an event to publish; never waits."""
        dropped = event.verdict is KernelVerdict.DROPPED
        if len(self._drops) + len(self._flows) >= self._capacity:
            if not dropped:
                self.count_lost(FLOW, 1)
                return
            if not self._flows:
                self.count_lost(DROP, 1)
                return
            self._flows.popleft()
            self.count_lost(FLOW, 1)
        (self._drops if dropped else self._flows).append(event)
        self._wake.set()

    def count_lost(self, kind: str, number: int) -> None:
        """Count events that were lost: here, or before they came here (a full ring in the kernel)."""
        self.lost[kind] += number
        self._untold[kind] += number

    async def run(self) -> None:
        """Publish for ever."""
        loop = asyncio.get_running_loop()
        report_at = loop.time() + self._report_seconds
        while True:
            try:
                async with asyncio.timeout_at(report_at):
                    await self._wake.wait()
            except TimeoutError:
                report_at = loop.time() + self._report_seconds
                await self._tell_lost()
            self._wake.clear()
            await self._publish_waiting()

    async def _publish_waiting(self) -> None:
        boot_ns = time.time_ns() - time.monotonic_ns()
        burst = 0
        while (self._drops or self._flows) and self._bus.connected:
            event = self._next()
            flow = self._writer.flow(event, boot_ns=boot_ns)
            before = self._bus.dropped
            await self._bus.publish(self._subjects[flow.verdict], flow)
            if self._bus.dropped == before:
                self.published += 1
            else:
                self.count_lost(DROP if flow.verdict is Verdict.DROPPED else FLOW, 1)
            burst += 1
            if burst % _BURST == 0:
                await asyncio.sleep(0)

    def _next(self) -> KernelEvent:
        if not self._flows:
            return self._drops.popleft()
        if self._drops and self._drops[0].time_ns <= self._flows[0].time_ns:
            return self._drops.popleft()
        return self._flows.popleft()

    async def _tell_lost(self) -> None:
        told = {kind: number for kind, number in self._untold.items() if number}
        if not told or not self._bus.connected:
            return
        before = self._bus.dropped
        now = self._writer.time(time.time_ns())
        await self._bus.publish(self._lost_subject, FlowsLost(node=self._node, time=now, events=told))
        if self._bus.dropped == before:
            for kind, number in told.items():
                self._untold[kind] -= number


def _drop_reason(code: int) -> DropReasonText:
    return _DROP_REASONS.get(code) or DropReasonText(code=code, name=f"REASON_{code}")


def _explain(policy_set: PolicySet, rule: int | None, revision: int) -> FlowPolicy:
    if rule is None or rule >= len(policy_set.rules):
        return FlowPolicy(policies=policy_set.policies, revision=revision)
    reference = policy_set.rules[rule]
    return FlowPolicy(
        policies=(policy_set.policies[reference.policy],), rule=reference.index, revision=revision
    )
