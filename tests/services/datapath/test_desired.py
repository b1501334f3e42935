"""Records of the contract as entries of the kernel's maps."""

from __future__ import annotations

import msgspec

from services.datapath.desired import backend_set, service_entries, set_rows, usable_backends
from services.datapath.kernel.layout import (
    FRONTEND,
    IPV4,
    PORT_RANGE,
    ROW_HEADER,
    ROW_KEY,
    ROW_SIZE,
    RULE_NONE,
    packed,
)
from shared.contract.base import ClassId, Direction, Protocol, SetId
from shared.contract.policy import Action, PolicyRef, PolicySet, PortRange, Row
from shared.contract.service import Backend, ServiceKind, ServicePort, ServiceRecord

SET = SetId("00000000000000aa")
CLASS = ClassId("00000000000000bb")


def policy_set(row: Row) -> PolicySet:
    return PolicySet(
        id=SET,
        direction=Direction.INGRESS,
        policies=(PolicyRef(kind="NetworkPolicy", namespace="default", name="web"),),
        rules=(),
        default=Row(),
        rows={CLASS: row},
    )


def ranges(count: int) -> tuple[PortRange, ...]:
    return tuple(
        PortRange(protocol=Protocol.TCP, first=port * 2, last=port * 2, rule=port % 7)
        for port in range(count)
    )


def test_a_set_has_its_default_row_and_one_for_each_class() -> None:
    rows = set_rows(policy_set(Row(action=Action.ALLOW, rule=3))).blocks

    assert rows.keys() == {ROW_KEY.pack(0xAA, 0, 0), ROW_KEY.pack(0xAA, 0xBB, 0)}
    assert rows[ROW_KEY.pack(0xAA, 0, 0)][: ROW_HEADER.size] == ROW_HEADER.pack(0, RULE_NONE, 0)
    assert rows[ROW_KEY.pack(0xAA, 0xBB, 0)][: ROW_HEADER.size] == ROW_HEADER.pack(0, 3, 1)


def test_many_ranges_go_into_several_blocks_and_each_speaks_for_the_row() -> None:
    rows = set_rows(policy_set(Row(ranges=ranges(20)))).blocks

    blocks = [rows[ROW_KEY.pack(0xAA, 0xBB, block)] for block in range(3)]
    assert all(block[: ROW_HEADER.size] == ROW_HEADER.pack(20, RULE_NONE, 0) for block in blocks)
    assert PORT_RANGE.unpack_from(blocks[2], ROW_HEADER.size + 3 * PORT_RANGE.size) == (
        38,
        38,
        6,
        1,
        19 % 7,
        0,
    )
    assert ROW_KEY.pack(0xAA, 0xBB, 3) not in rows


def test_a_row_that_does_not_fit_is_closed_and_named() -> None:
    assert set_rows(policy_set(Row(ranges=ranges(512)))).problem == ""
    made = set_rows(policy_set(Row(action=Action.ALLOW, rule=1, ranges=ranges(513))))

    assert "513 port ranges" in made.problem
    assert made.blocks.keys() == {ROW_KEY.pack(0xAA, 0, 0), ROW_KEY.pack(0xAA, 0xBB, 0)}
    assert made.blocks[ROW_KEY.pack(0xAA, 0xBB, 0)] == bytes(
        ROW_HEADER.pack(0, RULE_NONE, 0).ljust(ROW_SIZE, b"\0")
    )


def test_a_rule_without_a_number_of_its_own_is_enforced_all_the_same() -> None:
    rows = set_rows(policy_set(Row(action=Action.ALLOW, rule=70_000))).blocks
    assert rows[ROW_KEY.pack(0xAA, 0xBB, 0)][: ROW_HEADER.size] == ROW_HEADER.pack(0, RULE_NONE, 1)


def service(*ports: ServicePort, ips: tuple[str, ...] = ("10.96.0.9",)) -> ServiceRecord:
    return ServiceRecord(
        namespace="default", name="web", uid="u", kind=ServiceKind.CLUSTER_IP, cluster_ips=ips, ports=ports
    )


def frontend(port: int, protocol: int) -> bytes:
    return IPV4.frontend_key.pack(packed("10.96.0.9"), port.to_bytes(2, "big"), protocol)


def test_every_address_of_a_service_also_covers_its_other_ports() -> None:
    entries = service_entries(service(ServicePort(name="", protocol=Protocol.TCP, port=80)), node="n1")

    assert entries.frontends[4] == {
        frontend(0, 0): FRONTEND.pack(0, 0, 0),
        frontend(80, 6): FRONTEND.pack(0, 0, 0),
    }


def test_equal_backends_are_one_set_on_any_node() -> None:
    here = backend_set(
        (Backend(ip="10.0.0.1", port=80, node="a"), Backend(ip="10.0.0.2", port=80)), version=4
    )
    there = backend_set(
        (Backend(ip="10.0.0.1", port=80), Backend(ip="10.0.0.2", port=80, zone="z")), version=4
    )

    assert here == there
    assert len(here[1]) == 2


def test_terminating_backends_serve_only_when_nothing_else_does() -> None:
    ready = Backend(ip="10.0.0.1", port=80)
    leaving = Backend(ip="10.0.0.2", port=80, ready=False, serving=True, terminating=True)
    starting = Backend(ip="10.0.0.3", port=80, ready=False, serving=False)

    assert usable_backends((ready, leaving, starting), version=4) == (ready,)
    assert usable_backends((leaving, starting), version=4) == (leaving,)
    assert usable_backends((starting,), version=4) == ()


def test_a_local_service_has_the_backends_of_its_node_alone() -> None:
    backends = tuple(Backend(ip=f"10.0.{number}.1", port=80, node=f"n{number}") for number in (1, 2))
    local = msgspec.structs.replace(
        service(ServicePort(name="", protocol=Protocol.TCP, port=80, backends=backends)), internal_local=True
    )
    for node, served in (("n1", backends[:1]), ("n2", backends[1:]), ("n3", ())):
        number, slots = backend_set(served, version=4)
        entries = service_entries(local, node=node)
        assert entries.frontends[4][frontend(80, 6)] == FRONTEND.pack(number, len(served), 0)
        assert entries.backends[4] == slots


def test_a_local_service_falls_back_to_what_terminates_on_its_node() -> None:
    leaving = Backend(ip="10.0.0.2", port=80, node="n1", ready=False, serving=True, terminating=True)
    ready = Backend(ip="10.0.0.1", port=80, node="n2")
    assert usable_backends((leaving, ready), version=4, on="n1") == (leaving,)


def test_sctp_with_another_target_port_is_a_named_problem_and_serves_nothing() -> None:
    backend = Backend(ip="10.0.0.1", port=81)
    entries = service_entries(
        service(ServicePort(name="", protocol=Protocol.SCTP, port=80, backends=(backend,))), node="n1"
    )

    assert "default/web port 80/SCTP" in entries.problems[0]
    assert entries.frontends[4][frontend(80, 132)] == FRONTEND.pack(0, 0, 0)
    assert entries.backends[4] == {}
