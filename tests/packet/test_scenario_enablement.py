"""Enforcement follows the Node's annotation: on within a moment, and off without a trace."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest

from tests.packet.agents import DENIED_SECONDS, Traffic, job, traffic
from tests.packet.labs import Lab, eventually, in_node, interfaces, programs
from tests.packet.manifests import from_pods, pod, policy

NS = "switch"
ANNOTATION = "azure.microsoft.com/use-cilium"
WITHIN_SECONDS = 2.0


@pytest.fixture(scope="module")
def switch(annotated_lab: Lab) -> Iterator[Lab]:
    """A server on each node that admits friends, and a friend and a stranger on the first."""
    objects = [
        pod("server-1", namespace=NS, node="node-1", app="server"),
        pod("server-2", namespace=NS, node="node-2", app="server"),
        pod("friend", namespace=NS, node="node-1", app="friend"),
        pod("stranger", namespace=NS, node="node-1", app="stranger"),
        policy("door", namespace=NS, subject={"app": "server"}, peers=[from_pods(app="friend")]),
    ]
    with annotated_lab.lasting_namespace(NS, *objects):
        yield annotated_lab


@asynccontextmanager
async def watched(lab: Lab) -> AsyncIterator[Traffic]:
    """New connections to both servers, of whom they admit and whom not, and a permitted one that is kept."""
    one, two = (lab.ip(name, namespace=NS) for name in ("server-1", "server-2"))
    friend = [job(kind, ip, id=f"friend {kind} {ip}") for ip in (one, two) for kind in ("new", "kept")]
    stranger = [
        job("new", ip, id=f"stranger {number}", patience=DENIED_SECONDS)
        for number, ip in enumerate((one, two), start=1)
    ]
    async with traffic(lab, NS, friend=friend, stranger=stranger) as seen:
        await seen.more()
        yield seen
        await seen.more()
        assert seen.faults(allowed=[each["id"] for each in friend]) == []


async def settled(seen: Traffic, id: str, outcome: str) -> float:
    """Waits until new connections end so; the time at which the last one began that did not."""
    await eventually(lambda: [each.outcome for each in seen.tries[id]][-10:] == [outcome] * 10)
    return max((each.began for each in seen.tries[id] if each.outcome != outcome), default=0.0)


async def test_annotation_turns_enforcement_on_and_its_removal_leaves_no_trace(switch: Lab) -> None:
    lab = switch
    assert {node: programs(lab, node) for node in lab.nodes} == {"node-1": {}, "node-2": {}}
    await lab.well()
    async with watched(lab) as seen:
        for stranger in ("stranger 1", "stranger 2"):
            await settled(seen, stranger, "open")

        await lab.kubectl("annotate", "node", "node-1", f"{ANNOTATION}=true")
        annotated = time.monotonic()
        assert await settled(seen, "stranger 1", "denied") - annotated < WITHIN_SECONDS
        assert await settled(seen, "stranger 2", "open") < annotated, "node-2 is not annotated"
        await lab.policies_in_force()
        await lab.well()
        links = interfaces(lab, "node-1")
        assert {name for name, _ in programs(lab, "node-1")} == set(links)
        assert len(links) == 4
        assert programs(lab, "node-2") == {}

        await lab.kubectl("annotate", "node", "node-1", f"{ANNOTATION}-")
        bare = time.monotonic()
        assert await settled(seen, "stranger 1", "open") - bare < WITHIN_SECONDS
        await eventually(lambda: programs(lab, "node-1") == {})
        assert "clsact" not in in_node(lab, "node-1", "tc", "qdisc", "show")
        await lab.well()


async def test_pod_made_while_enforcement_is_off_is_enforced_once_it_is_on(switch: Lab) -> None:
    lab = switch
    late = pod("late", namespace=NS, node="node-2", app="server")
    try:
        await lab.apply(late)
        await lab.pods_ready("late", namespace=NS)
        each = job("new", lab.ip("late", namespace=NS), id="late", patience=DENIED_SECONDS)
        async with traffic(lab, NS, stranger=[each]) as seen:
            await settled(seen, "late", "open")
            await lab.kubectl("annotate", "node", "node-2", f"{ANNOTATION}=true")
            await settled(seen, "late", "denied")
            # Another value than "true" is none.
            await lab.kubectl("annotate", "--overwrite", "node", "node-2", f"{ANNOTATION}=false")
            await settled(seen, "late", "open")
    finally:
        await lab.kubectl("annotate", "node", "node-2", f"{ANNOTATION}-")
        await lab.delete(late)
