"""Events become flows with the right names, and what is lost is counted and told."""

from __future__ import annotations

import asyncio
import re
import time
from typing import Any

import pytest

from services.datapath.endpoints import LocalEndpoint
from services.datapath.events_model import KernelEvent, KernelVerdict
from services.datapath.flows import FlowPublisher, FlowViews, FlowWriter
from shared.bus import Bus
from shared.contract.base import ClassId, Direction, Identity, Message, SetId
from shared.contract.flow import Flow, FlowsLost
from shared.contract.identity import IdentityRecord, IpEntry
from shared.contract.policy import PolicyRef, PolicySet, Row, RuleRef
from tests.shared.virtual_time import in_virtual_time, pass_time

WEB, DB = Identity(300), Identity(301)
SET = "00000000deadbeef"
FIRST = PolicyRef(kind="NetworkPolicy", namespace="shop", name="first")
SECOND = PolicyRef(kind="NetworkPolicy", namespace="shop", name="second")


def views(**changed: Any) -> FlowViews:
    given: dict[str, Any] = {
        "ipcache": {
            "10.7.0.5": IpEntry(
                ip="10.7.0.5", identity=WEB, node="n1", namespace="shop", pod="web-1", workload="web"
            ),
            "10.7.1.6": IpEntry(
                ip="10.7.1.6", identity=DB, node="n2", namespace="shop", pod="db-0", workload="db"
            ),
            "192.0.2.2": IpEntry(ip="192.0.2.2", identity=Identity(6), node="n2"),
            "192.0.2.1": IpEntry(ip="192.0.2.1", identity=Identity(6), node="n1"),
        },
        "identities": {
            WEB: IdentityRecord(id=WEB, namespace="shop", labels=("k8s:app=web",)),
            DB: IdentityRecord(id=DB, namespace="shop", labels=("k8s:app=db",)),
        },
        "services": {("10.96.0.10", 5432, 6): ("shop", "db")},
        "sets": {
            SET: PolicySet(
                id=SetId(SET),
                direction=Direction.INGRESS,
                policies=(FIRST, SECOND),
                rules=(RuleRef(policy=0, index=0), RuleRef(policy=1, index=4)),
                default=Row(),
                rows={ClassId("0" * 16): Row()},
            )
        },
        "endpoints": {},
        "policy_revision": lambda: 7,
    }
    return FlowViews(**(given | changed))


def event(**changed: Any) -> KernelEvent:
    base = KernelEvent(
        time_ns=5_000_000_123,
        verdict=KernelVerdict.DROPPED,
        direction=Direction.INGRESS,
        family=4,
        protocol=6,
        source="10.7.0.5",
        destination="10.7.1.6",
        source_identity=WEB,
        destination_identity=DB,
        source_port=40000,
        destination_port=5432,
        drop_reason=133,
        policy_set=SET,
        tcp_flags=0x02,
        length=74,
    )
    return base._replace(**changed)


def flow_of(changed: KernelEvent, given: FlowViews | None = None) -> Flow:
    return FlowWriter(node="n1", views=given or views()).flow(changed, boot_ns=1_767_225_600_000_000_000)


def test_a_default_deny_names_both_ends_and_all_policies_that_select_the_pod() -> None:
    flow = flow_of(event())
    assert flow.time == "2026-01-01T00:00:05.000000123Z"
    assert (flow.source.pod, flow.source.workload, flow.source.labels) == ("web-1", "web", ("k8s:app=web",))
    assert (flow.destination.pod, flow.destination.node, flow.destination.port) == ("db-0", "n2", 5432)
    assert flow.drop_reason is not None
    assert (flow.drop_reason.code, flow.drop_reason.name) == (133, "POLICY_DENIED")
    assert flow.tcp_flags == ("SYN",)
    assert flow.policy is not None
    assert (flow.policy.policies, flow.policy.rule, flow.policy.revision) == ((FIRST, SECOND), None, 7)


def test_a_deciding_rule_is_named_by_its_policy_and_index_there() -> None:
    flow = flow_of(event(verdict=KernelVerdict.FORWARDED, drop_reason=0, rule=1))
    assert flow.drop_reason is None
    assert flow.policy is not None
    assert (flow.policy.policies, flow.policy.rule) == ((SECOND,), 4)


def test_what_no_rule_decided_is_forwarded_without_a_policy() -> None:
    assert flow_of(event(verdict=KernelVerdict.FORWARDED, rule=None)).policy is None
    assert flow_of(event(verdict=KernelVerdict.AUDIT, rule=None)).policy is not None
    assert flow_of(event(policy_set="")).policy is None
    assert flow_of(event(policy_set="00000000feedface")).policy is None


def test_a_service_is_named_by_what_the_client_addressed() -> None:
    flow = flow_of(event(frontend=("10.96.0.10", 5432)))
    assert flow.service is not None
    assert (flow.service.namespace, flow.service.name, flow.service.port) == ("shop", "db", 5432)
    assert flow.destination.ip == "10.7.1.6"
    other = flow_of(event(frontend=("10.96.0.99", 80))).service
    assert other is not None
    assert (other.ip, other.name) == ("10.96.0.99", "")


@pytest.mark.parametrize(
    ("ip", "identity", "label", "node"),
    [
        ("192.0.2.2", 6, "reserved:remote-node", "n2"),
        ("192.0.2.1", 1, "reserved:host", "n1"),
        ("198.51.100.1", 2, "reserved:world", ""),
        ("10.7.1.6", 2, "reserved:world", ""),
    ],
)
def test_reserved_identities_have_their_label_and_no_pod(
    ip: str, identity: int, label: str, node: str
) -> None:
    source = flow_of(event(source=ip, source_identity=identity)).source
    assert (source.labels, source.node, source.pod) == ((label,), node, "")


def test_an_address_that_has_another_identity_by_now_does_not_get_its_new_pods_name() -> None:
    source = flow_of(event(source_identity=DB)).source
    assert (source.pod, source.namespace, source.labels) == ("", "shop", ("k8s:app=db",))


WEB_1 = LocalEndpoint(
    container_id="c1",
    ifname="eth0",
    netns="/run/netns/c1",
    namespace="shop",
    pod="web-1",
    ips=("10.7.0.5",),
    host_ifname="stn0123456789",
    host_ifindex=17,
    mac="0e:53:0a:07:00:05",
    mtu=1500,
)


@pytest.mark.parametrize("spoofed", ["203.0.113.7", "10.7.1.6", "192.0.2.2"], ids=["world", "pod", "node"])
def test_a_spoofed_packet_is_told_with_the_pod_that_sent_it_and_whom_it_was_for(spoofed: str) -> None:
    dropped = event(
        direction=Direction.EGRESS,
        source=spoofed,
        # The kernel looks up nobody for a packet that nobody may have sent.
        source_identity=0,
        destination_identity=0,
        drop_reason=132,
        ifindex=17,
        policy_set="",
    )
    flow = flow_of(dropped, views(endpoints={17: WEB_1}))
    assert (flow.source.ip, flow.source.pod, flow.source.namespace) == (spoofed, "web-1", "shop")
    assert (flow.source.identity, flow.source.labels) == (WEB, ("k8s:app=web",))
    assert (flow.destination.pod, flow.destination.identity) == ("db-0", DB)
    assert flow.drop_reason is not None
    assert flow.drop_reason.name == "INVALID_SOURCE_IP"


def test_a_packet_of_a_pod_that_the_ipcache_does_not_have_is_still_the_pods() -> None:
    dropped = event(
        direction=Direction.EGRESS, source_identity=0, destination_identity=0, ifindex=17, policy_set=""
    )
    flow = flow_of(dropped, views(endpoints={17: WEB_1}, ipcache={}))
    assert (flow.source.pod, flow.source.namespace, flow.source.identity) == ("web-1", "shop", 0)
    assert (flow.destination.pod, flow.destination.labels) == ("", ("reserved:unknown",))


def test_an_unknown_identity_or_reason_is_told_by_number() -> None:
    flow = flow_of(event(source="10.9.9.9", source_identity=999, drop_reason=77))
    assert (flow.source.identity, flow.source.labels) == (999, ())
    assert flow.drop_reason is not None
    assert flow.drop_reason.name == "REASON_77"


def test_icmp_has_type_and_code_and_no_flags() -> None:
    flow = flow_of(event(protocol=1, icmp_type=8, icmp_code=0, tcp_flags=0xFF))
    assert (flow.protocol, flow.icmp_type, flow.icmp_code, flow.tcp_flags) == ("ICMP", 8, 0, ())
    assert flow_of(event(protocol=6)).icmp_type is None
    assert flow_of(event(protocol=89)).protocol == "89"


def test_all_tcp_flags_have_their_names() -> None:
    assert flow_of(event(tcp_flags=0x12)).tcp_flags == ("SYN", "ACK")
    assert flow_of(event(tcp_flags=0xFF)).tcp_flags == (
        "FIN",
        "SYN",
        "RST",
        "PSH",
        "ACK",
        "URG",
        "ECE",
        "CWR",
    )


def test_a_flow_costs_little() -> None:
    writer = FlowWriter(node="n1", views=views())
    events = [event(source_port=port, frontend=("10.96.0.10", 5432)) for port in range(20_000)]
    start = time.perf_counter()
    for each in events:
        writer.flow(each, boot_ns=0)
    assert (time.perf_counter() - start) / len(events) < 100e-6


class RecordingBus:
    """A bus that can be away and can refuse; publishes nowhere."""

    cluster = "default"

    def __init__(self) -> None:
        self.connected = True
        self.refusing = False
        self.dropped = 0
        self.sent: list[tuple[str, Message]] = []

    async def publish(self, subject: str, message: Message) -> None:
        if self.refusing:
            self.dropped += 1
        else:
            self.sent.append((subject, message))

    @property
    def flows(self) -> list[Flow]:
        return [message for _, message in self.sent if isinstance(message, Flow)]

    @property
    def losses(self) -> list[dict[str, int]]:
        return [message.events for _, message in self.sent if isinstance(message, FlowsLost)]


async def run_for(publisher: FlowPublisher, *, seconds: float) -> None:
    """In virtual time."""
    task = asyncio.create_task(publisher.run())
    try:
        await pass_time(seconds)
        assert not task.done(), task.result()
    finally:
        task.cancel()
        await asyncio.wait([task])


def publisher_on(bus: RecordingBus, *, capacity: int = 8) -> FlowPublisher:
    return FlowPublisher(node="n.1", bus=bus, views=views(), capacity=capacity, report_seconds=0.02)


@in_virtual_time
async def test_flows_leave_in_order_of_time_by_verdict() -> None:
    bus = RecordingBus()
    publisher = publisher_on(bus)
    publisher.offer(event(verdict=KernelVerdict.FORWARDED, time_ns=2))
    publisher.offer(event(time_ns=1))
    publisher.offer(event(verdict=KernelVerdict.AUDIT, time_ns=3))
    await run_for(publisher, seconds=1)
    assert [subject for subject, _ in bus.sent] == [
        "stentor.default.flow.n_1.dropped",
        "stentor.default.flow.n_1.forwarded",
        "stentor.default.flow.n_1.audit",
    ]
    assert publisher.published == 3
    assert bus.losses == []


@in_virtual_time
async def test_drops_outlive_forwarded_packets_and_losses_are_told_by_class() -> None:
    bus = RecordingBus()
    bus.connected = False
    publisher = publisher_on(bus, capacity=4)
    for number in range(6):
        publisher.offer(event(verdict=KernelVerdict.FORWARDED, time_ns=number))
    for number in range(6, 12):
        publisher.offer(event(time_ns=number))
    publisher.count_lost("flow", 10)
    assert publisher.lost == {"drop": 2, "flow": 16}
    bus.connected = True
    await run_for(publisher, seconds=1)
    assert {flow.verdict for flow in bus.flows} == {"dropped"}
    assert len(bus.flows) == 4
    assert bus.losses == [{"drop": 2, "flow": 16}]
    lost = next(message for subject, message in bus.sent if subject.endswith(".lost"))
    assert isinstance(lost, FlowsLost)
    assert re.fullmatch(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{9}Z", lost.time)


@in_virtual_time
async def test_flows_that_nats_does_not_take_are_counted_and_told_when_it_does_again() -> None:
    bus = RecordingBus()
    bus.refusing = True
    publisher = publisher_on(bus)
    publisher.offer(event())
    publisher.offer(event(verdict=KernelVerdict.FORWARDED))
    await run_for(publisher, seconds=1)
    assert publisher.lost == {"drop": 1, "flow": 1}
    bus.refusing = False
    await run_for(publisher, seconds=1)
    assert bus.losses == [{"drop": 1, "flow": 1}]
    assert publisher.published == 0


@in_virtual_time
async def test_flows_wait_for_nats_to_come_back() -> None:
    bus = RecordingBus()
    bus.connected = False
    publisher = publisher_on(bus)
    publisher.offer(event())
    await run_for(publisher, seconds=60)
    assert not bus.sent
    bus.connected = True
    await run_for(publisher, seconds=1)
    assert len(bus.flows) == 1


async def test_a_subscriber_of_nats_gets_the_flows(bus: Bus) -> None:
    publisher = FlowPublisher(node="n1", bus=bus, views=views())
    task = asyncio.create_task(publisher.run())
    try:
        async with bus.subscribe(f"stentor.{bus.cluster}.flow.>", as_type=Flow) as flows, asyncio.timeout(5):
            publisher.offer(event())
            subject, flow = await anext(aiter(flows))
    finally:
        task.cancel()
        await asyncio.wait([task])
    assert subject == f"stentor.{bus.cluster}.flow.n1.dropped"
    assert flow.source.pod == "web-1"
