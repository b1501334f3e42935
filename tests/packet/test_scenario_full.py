"""A policy for which a node has no room: told by event and status; its pods are closed or as before."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest

from services.datapath.setrows import WhenFull
from tests.packet.agents import DENIED_SECONDS, job, tried
from tests.packet.labs import Lab, eventually, running_lab
from tests.packet.manifests import block, from_pods, pod, policy
from tests.packet.runs import lab_name

NS, NODE = "full", "node-1"
FRIEND = from_pods(app="friend")
LARGE = policy(
    "large",
    namespace=NS,
    subject={"app": "server"},
    peers=[block(f"198.51.100.{number}/32") for number in range(8)],
)


@pytest.fixture(params=list(WhenFull))
def mode(request: pytest.FixtureRequest) -> WhenFull:
    return WhenFull(request.param)


@pytest.fixture
def lab(mode: WhenFull) -> Iterator[Lab]:
    """One node with room for six rows; two servers that admit a friend and no stranger."""
    arguments = ("--map-size", "rows=6", "--when-full", mode.value)
    with running_lab(lab_name(mode.value), nodes=1, datapath_args=arguments) as lab:
        apps = ("server", "bystander", "friend", "stranger")
        doors = [
            policy(app, namespace=NS, subject={"app": app}, peers=[FRIEND]) for app in ("server", "bystander")
        ]
        with lab.lasting_namespace(NS, *(pod(app, namespace=NS, node=NODE, app=app) for app in apps), *doors):
            yield lab


async def outcomes(lab: Lab) -> dict[str, str]:
    """Of a new connection for each pair that matters."""
    found = {}
    for client in ("friend", "stranger"):
        for server in ("server", "bystander"):
            attempt = job("new", lab.ip(server, namespace=NS), patience=DENIED_SECONDS)
            (one,) = await tried(lab, client, attempt, namespace=NS)
            found[f"{client} > {server}"] = one.outcome
    return found


async def problems(lab: Lab) -> dict[str, list[str]]:
    """What `policy list` says of each policy."""
    items: list[dict[str, Any]] = json.loads((await lab.cli("policy", "list", "-o", "json")).output)
    return {item["name"]: item["problems"] for item in items}


AS_IT_MUST_BE = {
    "friend > server": "open",
    "friend > bystander": "open",
    "stranger > server": "denied",
    "stranger > bystander": "denied",
}


async def test_a_policy_without_room_is_told_and_harms_no_other(lab: Lab, mode: WhenFull) -> None:
    await lab.policies_in_force()
    assert await outcomes(lab) == AS_IT_MUST_BE

    async with lab.heard("event.datapath.policy-unfit") as events:
        await lab.apply(LARGE)
        await eventually(lambda: bool(events))
        assert "NetworkPolicy full/large" in events[0]["object"]
        assert "policy_rows has 6 entries" in events[0]["message"]
    kept = "open" if mode is WhenFull.KEEP else "denied"
    assert await outcomes(lab) == AS_IT_MUST_BE | {"friend > server": kept}

    async def is_told() -> bool:
        told = await problems(lab)
        return len(told["large"]) == 1 and told["large"][0].startswith(f"node {NODE}: policy set")

    await eventually(is_told)
    assert (await problems(lab))["bystander"] == []
    assert (await lab.cli("status")).code == 1

    await lab.delete(LARGE)
    await lab.well()
    assert await outcomes(lab) == AS_IT_MUST_BE
    assert not any((await problems(lab)).values())
