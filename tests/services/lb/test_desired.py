from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from services.lb.desired import DesiredServices
from services.lb.objects import ObjectName, read_service, read_slice
from shared.contract.base import Protocol
from shared.contract.service import ServiceKind, ServiceRecord
from shared.kubernetes import ObjectRefused
from tests.services.lb.samples import endpoint, service_object, slice_object

WEB = ObjectName("default", "web")


def put_service(desired: DesiredServices, data: dict[str, Any]) -> None:
    name = ObjectName(data["metadata"]["namespace"], data["metadata"]["name"])
    desired.set_service(name, read_service(data, namespace=name.namespace, name=name.name))


def put_slice(desired: DesiredServices, data: dict[str, Any]) -> None:
    name = ObjectName("default", data["metadata"]["name"])
    desired.set_slice(name, read_slice(data, namespace=name.namespace, name=name.name))


def record(service: dict[str, Any] | None = None, *slices: dict[str, Any]) -> ServiceRecord | None:
    desired = DesiredServices()
    put_service(desired, service or service_object())
    for data in slices:
        put_slice(desired, data)
    desired.settle()
    return desired.records.get("service.default.web")


def present(made: ServiceRecord | None) -> ServiceRecord:
    assert made is not None
    return made


def test_several_ports_take_their_target_ports_from_the_slices_by_name() -> None:
    ports = [
        {"name": "http", "port": 80, "targetPort": "web"},
        {"name": "dns", "port": 53, "protocol": "UDP", "nodePort": 30053},
        {"name": "signal", "port": 53, "protocol": "SCTP", "appProtocol": "m3ua"},
    ]
    slices = (
        slice_object("a", endpoint("10.0.1.1"), ports=(("http", 8080, "TCP"), ("dns", 5353, "UDP"))),
        # The named target port resolves to another number in this pod.
        slice_object("b", endpoint("10.0.1.2"), ports=(("http", 9090, "TCP"), ("signal", 2905, "SCTP"))),
    )
    made = present(record(service_object(ports=ports), *slices))
    assert [(port.name, port.protocol, port.port, port.node_port) for port in made.ports] == [
        ("http", Protocol.TCP, 80, 0),
        ("dns", Protocol.UDP, 53, 30053),
        ("signal", Protocol.SCTP, 53, 0),
    ]
    assert [[(backend.ip, backend.port) for backend in port.backends] for port in made.ports] == [
        [("10.0.1.1", 8080), ("10.0.1.2", 9090)],
        [("10.0.1.1", 5353)],
        [("10.0.1.2", 2905)],
    ]
    assert made.ports[2].app_protocol == "m3ua"


def test_an_unnamed_port_matches_an_unnamed_slice_port() -> None:
    slices = slice_object("a", endpoint("10.0.1.1"), ports=(("", 8080, "TCP"),))
    made = present(record(service_object(ports=[{"port": 80}]), slices))
    assert made.ports[0].backends[0].port == 8080


def test_a_backend_in_two_slices_counts_once_and_the_ready_one_wins() -> None:
    slices = (
        slice_object("a", endpoint("10.0.1.1", ready=True), endpoint("10.0.1.9")),
        slice_object("b", endpoint("10.0.1.1", ready=False), endpoint("10.0.1.2")),
    )
    for order in (slices, slices[::-1]):
        (port,) = present(record(None, *order)).ports
        assert [(backend.ip, backend.ready) for backend in port.backends] == [
            ("10.0.1.1", True),
            ("10.0.1.2", True),
            ("10.0.1.9", True),
        ]


def test_conditions() -> None:
    (port,) = present(
        record(
            None,
            slice_object(
                "a",
                endpoint("10.0.1.1"),
                endpoint("10.0.1.2", ready=False),
                endpoint("10.0.1.3", ready=False, serving=True, terminating=True, zone="z2"),
                endpoint("10.0.1.4", ready=False, serving=False, terminating=True, targetRef=None),
            ),
        )
    ).ports
    assert [(b.ready, b.serving, b.terminating, b.zone, b.pod) for b in port.backends] == [
        (True, True, False, "", "pod-10.0.1.1"),
        (False, True, False, "", "pod-10.0.1.2"),
        (False, True, True, "z2", "pod-10.0.1.3"),
        (False, False, True, "", ""),
    ]


def test_publish_not_ready_addresses_makes_all_backends_ready() -> None:
    slices = slice_object("a", endpoint("10.0.1.1", ready=False))
    made = present(record(service_object(publishNotReadyAddresses=True), slices))
    assert made.ports[0].backends[0].ready


def test_services_without_frontends_here() -> None:
    assert record(service_object(clusterIP="None", clusterIPs=["None"])) is None
    assert record(service_object(type="ExternalName", externalName="example.org", clusterIPs=None)) is None
    assert record(service_object(clusterIP=None, clusterIPs=None)) is None
    foreign = service_object()
    foreign["metadata"]["labels"] = {"service.kubernetes.io/service-proxy-name": "other"}
    assert record(foreign) is None


def test_a_service_without_endpoints_has_empty_backends() -> None:
    made = present(record())
    assert made.ports[0].backends == ()
    assert made.cluster_ips == ("10.96.0.10",)


def test_a_load_balancer_with_everything() -> None:
    data = service_object(
        type="LoadBalancer",
        clusterIPs=["10.96.0.10", "fd00::A"],
        externalIPs=["203.0.113.7"],
        sessionAffinity="ClientIP",
        sessionAffinityConfig={"clientIP": {"timeoutSeconds": 60}},
        externalTrafficPolicy="Local",
        internalTrafficPolicy="Local",
    )
    data["status"] = {
        "loadBalancer": {
            "ingress": [{"ip": "198.51.100.1"}, {"ip": "198.51.100.2", "ipMode": "Proxy"}, {"hostname": "x"}]
        }
    }
    made = present(record(data))
    assert made.kind is ServiceKind.LOAD_BALANCER
    assert (made.cluster_ips, made.external_ips) == (("10.96.0.10", "fd00::a"), ("203.0.113.7",))
    assert made.load_balancer_ips == ("198.51.100.1",)
    assert (made.affinity_seconds, made.internal_local, made.external_local) == (60, True, True)
    assert present(record(service_object(sessionAffinity="ClientIP"))).affinity_seconds == 10800


def test_bad_objects_are_refused_by_name_and_path() -> None:
    cases: list[tuple[dict[str, Any], str]] = [
        (service_object(ports=[{"port": 70000}]), r"Service default/web: .*\$\.spec\.ports\[0\]\.port"),
        (service_object(ports=[{"port": 80, "protocol": "QUIC"}]), r"ports\[0\]\.protocol"),
        (service_object(ports=[{"port": 80}, {"name": "b", "port": 80}]), r"spec\.ports\[1\]: TCP 80"),
        (service_object(externalIPs=["127.0.0.1"]), r"spec\.externalIPs: 127\.0\.0\.1"),
        (service_object(externalIPs=["x"]), r"spec\.externalIPs: 'x'"),
    ]
    for data, pattern in cases:
        with pytest.raises(ObjectRefused, match=pattern):
            read_service(data, namespace="default", name="web")
    for data, pattern in (
        (
            slice_object("s", endpoint("10.0.0.1"), endpoint("169.254.169.254")),
            r"endpoints\[1\]\.addresses\[0\]",
        ),
        (slice_object("s", endpoint("fd00::1")), "EndpointSlice default/s: .*no IPv4 address"),
        (slice_object("s", {"addresses": []}), r"\$\.endpoints\[0\]\.addresses"),
    ):
        with pytest.raises(ObjectRefused, match=pattern):
            read_slice(data, namespace="default", name="s")


def test_a_service_that_goes_takes_its_record_along_and_slices_may_change_owner() -> None:
    desired = DesiredServices()
    put_service(desired, service_object())
    put_service(desired, service_object("other", clusterIPs=["10.96.0.11"]))
    put_slice(desired, slice_object("a", endpoint("10.0.1.1")))
    assert desired.settle() == {"service.default.web", "service.default.other"}
    assert desired.backend_count == 1
    put_slice(desired, slice_object("a", endpoint("10.0.1.1"), service="other"))
    desired.settle()
    assert desired.records["service.default.web"].ports[0].backends == ()
    assert len(desired.records["service.default.other"].ports[0].backends) == 1
    assert desired.backend_count == 1
    desired.remove_service(WEB)
    assert desired.settle() == {"service.default.web"}
    assert desired.records.keys() == {"service.default.other"}


IPS = ("10.0.1.1", "10.0.1.2", "10.0.1.3")
endpoints: st.SearchStrategy[Any] = st.lists(
    st.builds(endpoint, st.sampled_from(IPS), ready=st.booleans(), terminating=st.booleans()), max_size=3
)
services: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.builds(
        dict,
        clusterIPs=st.sampled_from((["10.96.0.1"], ["None"])),
        publishNotReadyAddresses=st.booleans(),
    ),
)
service_events = st.tuples(st.just("service"), st.sampled_from(("web", "db")), services)
slice_events = st.tuples(
    st.just("slice"),
    st.sampled_from(("a", "b", "c")),
    st.one_of(st.none(), st.tuples(st.sampled_from(("web", "db")), endpoints)),
)


def _apply(desired: DesiredServices, event: tuple[str, str, Any]) -> None:
    kind, name, fields = event
    if kind == "slice":
        if fields is None:
            desired.set_slice(ObjectName("default", name), None)
        else:
            put_slice(desired, slice_object(name, *fields[1], service=fields[0]))
    elif fields is None:
        desired.remove_service(ObjectName("default", name))
    else:
        put_service(desired, service_object(name, **fields))


@settings(max_examples=300, deadline=None)
@given(history=st.lists(st.one_of(service_events, slice_events), max_size=30), data=st.data())
def test_any_order_of_events_and_any_history_give_the_same_records(
    history: list[Any], data: st.DataObject
) -> None:
    lived = DesiredServices()
    told: dict[str, ServiceRecord | None] = {}
    for event in history:
        _apply(lived, event)
        if data.draw(st.booleans()):
            told.update({key: lived.records.get(key) for key in lived.settle()})
    told.update({key: lived.records.get(key) for key in lived.settle()})
    reborn = DesiredServices()
    final = {(kind, name): (kind, name, fields) for kind, name, fields in history}
    for event in data.draw(st.permutations([event for event in final.values() if event[2] is not None])):
        _apply(reborn, event)
    reborn.settle()
    assert lived.records == reborn.records
    assert {key: value for key, value in told.items() if value is not None} == lived.records
    assert lived.backend_count == reborn.backend_count
