"""A flow as people read it."""

from __future__ import annotations

import msgspec
import pytest

from deploy.cli.flowtext import clock, end_text, flow_line, lost_line
from shared.contract.flow import Flow, FlowEnd, FlowPolicy, FlowsLost
from shared.contract.policy import PolicyRef
from tests.deploy.cli.world import POLICY, TIME, dropped, forwarded

SECOND = PolicyRef(kind="NetworkPolicy", namespace="default", name="deny-all")


def replace(flow: Flow, **changes: object) -> Flow:
    return msgspec.structs.replace(flow, **changes)


@pytest.mark.parametrize(
    ("flow", "line"),
    [
        (
            forwarded(),
            "03:04:05.678  default/frontend-a:43210 -> default/backend-a:80  TCP ingress  FORWARDED"
            "  policy default/allow-frontend-to-backend (ingress rule 0 allows it)"
            "  via service default/backend:80",
        ),
        (
            dropped(),
            "03:04:05.678  default/other:50000 -> default/backend-a:80  TCP ingress  DROPPED  POLICY_DENIED"
            "  policy default/allow-frontend-to-backend (no ingress rule allows it)",
        ),
        (
            replace(dropped(), policy=FlowPolicy(policies=(POLICY, SECOND))),
            "03:04:05.678  default/other:50000 -> default/backend-a:80  TCP ingress  DROPPED  POLICY_DENIED"
            "  policies default/allow-frontend-to-backend, default/deny-all (no ingress rule allows it)",
        ),
        (
            replace(dropped(), policy=FlowPolicy(policies=(POLICY,), rule=2)),
            "03:04:05.678  default/other:50000 -> default/backend-a:80  TCP ingress  DROPPED  POLICY_DENIED"
            "  policy default/allow-frontend-to-backend (ingress rule 2 denies it)",
        ),
        (
            replace(dropped(), policy=None, protocol="ICMP", icmp_type=8, icmp_code=0),
            "03:04:05.678  default/other:50000 -> default/backend-a:80  ICMP 8/0 ingress  DROPPED"
            "  POLICY_DENIED",
        ),
        (
            replace(forwarded(), policy=None, service=None, is_reply=True),
            "03:04:05.678  default/frontend-a:43210 -> default/backend-a:80  TCP ingress reply  FORWARDED",
        ),
    ],
)
def test_line(flow: Flow, line: str) -> None:
    assert flow_line(flow).plain == line


@pytest.mark.parametrize(
    ("end", "text"),
    [
        (FlowEnd(ip="192.0.2.1", port=443, identity=2), "192.0.2.1:443 (world)"),
        (FlowEnd(ip="172.30.0.12", identity=6), "172.30.0.12 (remote-node)"),
        (FlowEnd(ip="fd00::1", port=80), "[fd00::1]:80"),
        (FlowEnd(ip="fd00::1", identity=70000), "fd00::1 (70000)"),
    ],
)
def test_end_that_is_no_pod(end: FlowEnd, text: str) -> None:
    assert end_text(end) == text


@pytest.mark.parametrize(
    ("time", "text"),
    [
        (TIME, "03:04:05.678"),
        ("2026-01-02T03:04:05Z", "03:04:05.000"),
        ("2026-01-02T03:04:05.5Z", "03:04:05.500"),
    ],
)
def test_time_of_day(time: str, text: str) -> None:
    assert clock(time) == text


def test_names_cannot_steer_the_terminal() -> None:
    line = flow_line(dropped(pod="x\x1b]0;evil\x07"))
    assert "\x1b" not in line.plain
    assert "default/x?]0;evil?:50000" in line.plain


def test_lost_flows_are_told_by_class() -> None:
    lost = FlowsLost(node="node-1", time=TIME, events={"flow": 12, "drop": 3})
    assert lost_line(lost) == "node node-1 lost events at 03:04:05.678: 3 of class drop, 12 of class flow."
