"""Who must reach whom in the demo, and that nothing else passes for it."""

from __future__ import annotations

import pytest

from deploy.cli.matrix import (
    Column,
    Matrix,
    Outcome,
    Pods,
    Probe,
    expected_after,
    expected_before,
    judge,
    plan,
)
from deploy.cli.output import table_lines
from deploy.cli.shapes import PodItem


def pod(name: str, node: str, ip: str) -> PodItem:
    return PodItem(
        namespace="default",
        name=name,
        node=node,
        ips=(ip,),
        netns=f"/run/netns/{name}",
        identity=300,
        ready=True,
    )


PODS = Pods(
    frontend=(pod("frontend-a", "node-1", "10.244.0.2"), pod("frontend-b", "node-2", "10.244.1.2")),
    backend=(pod("backend-a", "node-1", "10.244.0.3"), pod("backend-b", "node-2", "10.244.1.3")),
    other=(pod("other", "node-2", "10.244.1.4"),),
)
PROBES = plan(PODS, service_ip="10.96.0.10")


def after(probe: Probe) -> Outcome:
    return expected_after(probe, part=PODS.part(probe.source))


def matrix(outcomes: dict[str, Outcome], expected: dict[str, Outcome], pods: Pods = PODS) -> Matrix:
    return Matrix(pods=pods, probes=PROBES, outcomes=outcomes, expected=expected)


AFTER = {probe.id: after(probe) for probe in PROBES}
BEFORE = {probe.id: expected_before(probe) for probe in PROBES}


def test_every_client_is_tried_against_every_backend_on_both_ports() -> None:
    tried = {(probe.source, probe.ip, probe.port) for probe in PROBES}
    for source in ("frontend-a", "frontend-b", "other"):
        for ip in ("10.244.0.3", "10.244.1.3"):
            assert {(source, ip, 80), (source, ip, 81)} <= tried
        assert {(source, "10.96.0.10", 80), (source, "10.96.0.10", 81)} <= tried
    for source in ("backend-a", "backend-b"):
        assert (source, "10.244.0.2", 80) in tried


@pytest.mark.parametrize(
    ("source", "column", "outcome"),
    [
        ("frontend-a", Column.BACKEND_80_SAME, Outcome.OPEN),
        ("frontend-a", Column.BACKEND_80_OTHER, Outcome.OPEN),
        ("frontend-a", Column.SERVICE_80, Outcome.OPEN),
        ("frontend-a", Column.BACKEND_81_SAME, Outcome.DENIED),
        ("frontend-b", Column.BACKEND_81_OTHER, Outcome.DENIED),
        ("frontend-b", Column.SERVICE_81, Outcome.DENIED),
        ("other", Column.BACKEND_80_SAME, Outcome.DENIED),
        ("other", Column.BACKEND_80_OTHER, Outcome.DENIED),
        ("other", Column.BACKEND_81_SAME, Outcome.DENIED),
        ("other", Column.SERVICE_80, Outcome.DENIED),
        ("other", Column.FRONTEND_80, Outcome.OPEN),
        ("backend-a", Column.FRONTEND_80, Outcome.OPEN),
    ],
)
def test_what_the_policy_must_do(source: str, column: Column, outcome: Outcome) -> None:
    chosen = [probe for probe in PROBES if (probe.source, probe.column) == (source, column)]
    assert chosen
    assert {after(probe) for probe in chosen} == {outcome}


def test_before_the_policy_port_81_is_reached_though_nothing_listens() -> None:
    assert {BEFORE[probe.id] for probe in PROBES if probe.port == 81} == {Outcome.REFUSED}
    assert {BEFORE[probe.id] for probe in PROBES if probe.port == 80} == {Outcome.OPEN}


def test_no_fault_when_all_is_as_it_must_be() -> None:
    assert matrix(AFTER, AFTER).faults() == []
    assert matrix(BEFORE, BEFORE).faults() == []


@pytest.mark.parametrize("probe", PROBES, ids=lambda probe: f"{probe.source} {probe.column} {probe.id}")
@pytest.mark.parametrize("outcome", list(Outcome))
def test_each_single_deviation_is_a_fault(probe: Probe, outcome: Outcome) -> None:
    faults = matrix({**AFTER, probe.id: outcome}, AFTER).faults()
    if outcome is AFTER[probe.id]:
        assert faults == []
    else:
        assert len(faults) == 1
        assert f"must be {AFTER[probe.id]}, is {outcome}" in faults[0]
        assert faults[0].startswith(f"{probe.source} -> {probe.column}")


def test_a_case_that_was_not_tried_is_a_fault() -> None:
    together = Pods(frontend=PODS.frontend[:1], backend=PODS.backend[:1], other=PODS.other)
    probes = plan(together, service_ip="10.96.0.10")
    made = Matrix(
        pods=together,
        probes=probes,
        outcomes={probe.id: expected_before(probe) for probe in probes},
        expected={probe.id: expected_before(probe) for probe in probes},
    )
    assert "no pod was placed so that backend:80 other node could be tried" in made.faults()


def test_an_answer_counts_only_from_the_right_pod() -> None:
    probe = next(probe for probe in PROBES if probe.column is Column.BACKEND_80_SAME)
    right, wrong = next(iter(probe.answers)), "frontend-b"
    assert judge(probe, {"outcome": "open", "answer": {"pod": right}}) is Outcome.OPEN
    assert judge(probe, {"outcome": "open", "answer": {"pod": wrong}}) is Outcome.MISROUTED
    assert judge(probe, {"outcome": "open", "answer": None}) is Outcome.MISROUTED
    assert judge(probe, None) is Outcome.FAILED


def test_table_after_the_policy() -> None:
    made = matrix(AFTER, AFTER)
    lines = [line.plain for line in table_lines(made.columns(), made.rows())]
    assert lines == [
        "TO                   backend:80                      backend:81                      frontend:80",
        "FROM                 same node    other    Service   same node    other    Service   any node",
        "frontend on node-1   open         open     open      denied       denied   denied    -",
        "frontend on node-2   open         open     open      denied       denied   denied    -",
        "other on node-2      denied       denied   denied    denied       denied   denied    open",
        "backend on node-1    -            -        -         -            -        -         open",
        "backend on node-2    -            -        -         -            -        -         open",
    ]
    assert max(map(len, lines)) <= 100
    assert made.legend() == "open: a server answered; denied: no answer: dropped on the way"


def test_a_cell_that_is_wrong_is_marked() -> None:
    probe = next(probe for probe in PROBES if probe.column is Column.SERVICE_80 and probe.source == "other")
    made = matrix({**AFTER, probe.id: Outcome.OPEN}, AFTER)
    assert any("open/denied !" in line.plain for line in table_lines(made.columns(), made.rows()))
