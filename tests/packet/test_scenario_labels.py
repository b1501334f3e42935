"""Labels decide: a change of a pod's or a namespace's flips verdicts within a second."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator
from functools import partial

import pytest

from tests.packet.agents import DENIED_SECONDS, Traffic, job, traffic
from tests.packet.labs import Lab, eventually
from tests.packet.manifests import from_namespaces, from_pods, namespace, pod, policy

NS, GUESTS = "house", "guests"
WITHIN_SECONDS = 1.0
FLIPS = 3
"""In each direction; every one of them has to be in time."""
SETTLED_SECONDS = DENIED_SECONDS + 0.2
"""A verdict has flipped once connections, one every 20 ms, have ended alike for so long: then none of the
first ten of them is still waiting for its answer."""


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
    """How long after ``change`` the first try began from which on all end as ``to``.

    Counted from before kubectl starts, which is before the API server has acknowledged the change.
    """
    begin = time.monotonic()
    await lab.kubectl(*change)

    def settled(id: str) -> list[float]:
        last = max(each.began for each in seen.tries[id] if each.outcome != to)
        right = sorted(each.began for each in seen.since(id, last) if each.outcome == to)
        return right if right and right[-1] - right[0] >= SETTLED_SECONDS else []

    flipped: list[float] = [(await eventually(partial(settled, id)))[0] for id in seen.tries]
    return max(flipped) - begin


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
        for _ in range(FLIPS):
            taken["open"].append(await flip_seconds(lab, seen, "label", *object, label, to="open"))
            key = label.partition("=")[0]
            taken["denied"].append(await flip_seconds(lab, seen, "label", *object, f"{key}-", to="denied"))
    slow = {to: seconds for to, seconds in taken.items() if max(seconds) >= WITHIN_SECONDS}
    assert slow == {}, "seconds from the change until all were judged by the new label"
