"""The scenario everything begins with: two Deployments, one policy, and who reaches whom."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from itertools import product
from typing import Any

import pytest

from deploy.lab.pods import PodView
from deploy.lab.topology import IpFamily
from tests.packet.agents import DENIED_SECONDS, Try, job, tried
from tests.packet.labs import DEMO, Lab, running_lab
from tests.packet.runs import lab_name

POLICY = str(DEMO / "frontend-to-backend-allow.yaml")
WORKLOADS = [
    argument
    for name in ("frontend-deployment", "backend-deployment", "backend-service", "other-pod")
    for argument in ("-f", str(DEMO / f"{name}.yaml"))
]

Outcomes = dict[tuple[str, str], set[str]]


@pytest.fixture(scope="module", params=list(IpFamily))
def lab(request: pytest.FixtureRequest, lab: Lab) -> Iterator[Lab]:
    """A lab of each address family; with both, every pod is tried by both of its addresses."""
    if request.param is IpFamily.V4:
        yield lab
        return
    with running_lab(lab_name(f"f{request.param}"), ip_family=request.param) as other:
        yield other


@pytest.fixture
async def pods(lab: Lab) -> AsyncIterator[dict[str, list[PodView]]]:
    """The workloads of the scenario, without its policy; by app."""
    await lab.kubectl("apply", *WORKLOADS)
    try:
        await lab.kubectl("rollout", "status", "deployment/frontend", "deployment/backend", "--timeout=60s")
        await lab.pods_ready("other", namespace="default")
        found: dict[str, list[PodView]] = {"frontend": [], "backend": [], "other": []}
        for item in (await lab.get("pods"))["items"]:
            found[item["metadata"]["labels"]["app"]].append(lab.pod(item["metadata"]["name"]))
        assert [len(found[app]) for app in found] == [2, 2, 1]
        for app in ("frontend", "backend"):
            assert {pod.node for pod in found[app]} == {"node-1", "node-2"}, "one on each node"
        yield found
    finally:
        await lab.kubectl("delete", "--ignore-not-found", *WORKLOADS, "-f", POLICY)
        await lab.kubectl("wait", "pod", "--all", "--for=delete", "--timeout=30s")


async def matrix(lab: Lab, pods: dict[str, list[PodView]]) -> Outcomes:
    """Outcomes by (client, what it was that it tried); a wrong answerer is an outcome of its own."""
    service = await lab.service_ip("backend", namespace="default")
    backends = {pod.name for pod in pods["backend"]}
    outcomes: Outcomes = {}

    async def ask(app: str, source: PodView) -> None:
        wanted: list[tuple[str, set[str], dict[str, Any]]] = []
        for target in pods["backend"] if app != "backend" else []:
            where = "same node" if target.node == source.node else "other node"
            for ip, port in product(target.ips, (80, 81)):
                wanted.append((f"backend:{port} {where}", {target.name}, job("new", ip, port)))
        if app != "backend":
            wanted += [("Service backend:80", backends, job("new", service)) for _ in range(4)]
        for target in pods["frontend"] if app != "frontend" else []:
            wanted += [("frontend:80", {target.name}, job("new", ip)) for ip in target.ips]
        tries = await tried(lab, source.name, *({**each, "patience": 1.0} for _, _, each in wanted))
        for (what, answerers, _), each in zip(wanted, tries, strict=True):
            outcomes.setdefault((app, what), set()).add(judged(each, answerers, source))

    await asyncio.gather(*(ask(app, pod) for app, each in pods.items() for pod in each))
    return outcomes


def judged(each: Try, answerers: set[str], source: PodView) -> str:
    """The outcome, or what is wrong with an answer."""
    if each.outcome != "open":
        return each.outcome
    if each.pod not in answerers:
        return f"answered by {each.pod}"
    return "open" if each.client in source.ips else f"seen as {each.client}"


BEFORE: Outcomes = {
    **{
        (app, what): {outcome}
        for app in ("frontend", "other")
        for what, outcome in (
            ("backend:80 same node", "open"),
            ("backend:80 other node", "open"),
            ("backend:81 same node", "refused"),
            ("backend:81 other node", "refused"),
            ("Service backend:80", "open"),
        )
    },
    ("backend", "frontend:80"): {"open"},
    ("other", "frontend:80"): {"open"},
}

AFTER: Outcomes = {
    ("frontend", "backend:80 same node"): {"open"},
    ("frontend", "backend:80 other node"): {"open"},
    ("frontend", "backend:81 same node"): {"denied"},
    ("frontend", "backend:81 other node"): {"denied"},
    ("frontend", "Service backend:80"): {"open"},
    ("other", "backend:80 same node"): {"denied"},
    ("other", "backend:80 other node"): {"denied"},
    ("other", "backend:81 same node"): {"denied"},
    ("other", "backend:81 other node"): {"denied"},
    ("other", "Service backend:80"): {"denied"},
    ("backend", "frontend:80"): {"open"},
    ("other", "frontend:80"): {"open"},
}


async def test_policy_admits_frontends_alone_and_its_deletion_reopens(
    lab: Lab, pods: dict[str, list[PodView]]
) -> None:
    assert await matrix(lab, pods) == BEFORE

    await lab.kubectl("apply", "-f", POLICY)
    await lab.policies_in_force()
    assert await matrix(lab, pods) == AFTER

    await lab.kubectl("delete", "-f", POLICY)
    await lab.policies_in_force()
    assert await matrix(lab, pods) == BEFORE


async def test_scaled_out_pods_are_judged_like_those_before_them(
    lab: Lab, pods: dict[str, list[PodView]]
) -> None:
    await lab.kubectl("apply", "-f", POLICY)
    await lab.policies_in_force()
    await lab.kubectl("scale", "deployment", "frontend", "backend", "--replicas=3")
    await lab.kubectl("rollout", "status", "deployment/frontend", "deployment/backend", "--timeout=60s")
    known = {pod.name for each in pods.values() for pod in each}
    fresh = [
        (item["metadata"]["labels"]["app"], lab.pod(item["metadata"]["name"]))
        for item in (await lab.get("pods"))["items"]
        if item["metadata"]["name"] not in known
    ]
    ((_, backend),) = [each for each in fresh if each[0] == "backend"]
    ((_, frontend),) = [each for each in fresh if each[0] == "frontend"]
    for source, outcome in ((frontend.name, "open"), (pods["frontend"][0].name, "open"), ("other", "denied")):
        patience = 1.0 if outcome == "open" else DENIED_SECONDS
        (each,) = await tried(lab, source, job("new", backend.ips[0], patience=patience))
        assert each.outcome == outcome, source
