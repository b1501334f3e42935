"""Labels decide: a change of a pod's or a namespace's flips verdicts within a second."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from functools import partial

import pytest

from tests.packet.agents import DENIED_SECONDS, Traffic, job, traffic
from tests.packet.labs import Lab
from tests.packet.manifests import from_namespaces, from_pods, namespace, pod, policy

NS, GUESTS = "house", "guests"
WITHIN_SECONDS = 1.0
ATTEMPTS = 3
"""The best of these counts: the machine may stall for a while, the product is measured."""
SETTLED = 10
"""Equal outcomes in a row, of tries 20 ms apart, after which a verdict counts as flipped."""


@pytest.fixture
async def house(lab: Lab) -> AsyncIterator[dict[str, str]]:
    """A server that admits friends, and one that admits the namespaces of a team; their addresses."""
    objects = [
        pod("by-pod", namespace=NS, node="node-1", app="by-pod"),
        pod("by-namespace", namespace=NS, node="node-1", app="by-namespace"),
        pod("near", namespace=NS, node="node-1"),
        pod("far", namespace=NS, node="node-2"),
        policy("friends", namespace=NS, subject={"app": "by-pod"}, peers=[from_pods(role="friend")]),
        policy("team", namespace=NS, subject={"app": "by-namespace"}, peers=[from_namespaces(team="blue")]),
    ]
    visitors = [
        namespace(GUESTS),
        pod("near", namespace=GUESTS, node="node-1"),
        pod("far", namespace=GUESTS, node="node-2"),
    ]
    try:
        await lab.apply(*visitors)
        async with lab.namespace(NS, *objects):
            await lab.pods_ready(namespace=GUESTS)
            yield {name: lab.ip(name, namespace=NS) for name in ("by-pod", "by-namespace")}
    finally:
        await lab.kubectl("delete", "namespace", GUESTS)


async def flip_seconds(lab: Lab, seen: Traffic, *change: str, to: str) -> float:
    """How long after ``change``, at the API server, the last try began that did not end as ``to``."""
    await lab.kubectl(*change)
    changed = time.monotonic()
    last = changed
    for id in seen.tries:
        flipped = 0
        while flipped < SETTLED:
            await seen.more(id, count=SETTLED)
            outcomes = [each.outcome for each in seen.tries[id]]
            others = (number for number, outcome in enumerate(reversed(outcomes)) if outcome != to)
            flipped = next(others, len(outcomes))
            assert time.monotonic() < changed + 20, f"{id} is still {outcomes[-1]}"
        last = max([last, *(each.began for each in seen.since(id, changed) if each.outcome != to)])
    return last - changed


@pytest.mark.parametrize(
    ("server", "clients", "object"),
    [("by-pod", NS, ["pod", "near", "far", "-n", NS]), ("by-namespace", GUESTS, ["namespace", GUESTS])],
    ids=["of a pod", "of a namespace"],
)
async def test_label_change_flips_verdicts_within_a_second(
    lab: Lab, house: dict[str, str], server: str, clients: str, object: list[str]
) -> None:
    label = "role=friend" if server == "by-pod" else "team=blue"
    new = partial(job, "new", house[server], every=0.02, patience=DENIED_SECONDS)
    async with traffic(lab, clients, near=[new(id="near")], far=[new(id="far")]) as seen:
        await seen.more()
        assert {one.outcome for tries in seen.tries.values() for one in tries} == {"denied"}
        taken: dict[str, list[float]] = {"open": [], "denied": []}
        for _ in range(ATTEMPTS):
            taken["open"].append(await flip_seconds(lab, seen, "label", *object, label, to="open"))
            key = label.partition("=")[0]
            taken["denied"].append(await flip_seconds(lab, seen, "label", *object, f"{key}-", to="denied"))
            if max(min(taken["open"]), min(taken["denied"])) < WITHIN_SECONDS:
                return
    raise AssertionError(f"seconds until all connections were judged by the new label: {taken}")
