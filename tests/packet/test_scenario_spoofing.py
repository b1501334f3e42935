"""Nobody sends in another's name: packets with a source address that is not the sender's are dropped."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.lab import client
from tests.packet.agents import job, traffic
from tests.packet.labs import Lab, eventually, run
from tests.packet.manifests import pod

NS = "masks"
SINK = 5000
PROBE = Path(__file__).with_name("probe.py")


@pytest.fixture(scope="module")
def masks(lab: Lab) -> Iterator[None]:
    """A victim and an attacker on node-1, and others of both nodes in whose name the attacker sends."""
    objects = [
        pod("victim", namespace=NS, node="node-1", app="victim"),
        pod("attacker", namespace=NS, node="node-1", app="attacker"),
        pod("near", namespace=NS, node="node-1", app="friend"),
        # The same identity as the attacker's: the address alone tells them apart.
        pod("twin", namespace=NS, node="node-1", app="attacker"),
        pod("far", namespace=NS, node="node-2", app="friend"),
    ]
    with lab.lasting_namespace(NS, *objects):
        yield


def spoofed_address(lab: Lab, who: str) -> str:
    """The address of somebody who is not the attacker."""
    if who.startswith("node-"):
        return lab.node_ip(who)
    return "198.51.100.7" if who == "world" else lab.ip(who, namespace=NS)


async def send(lab: Lab, source: str, target: str) -> None:
    """One datagram of the attacker, with this source address."""
    program = [sys.executable, "-I", "-S", str(PROBE), "spoof", source, target, str(SINK)]
    done = await run(client.exec_command(lab.name, "attacker", program, namespace=NS))
    assert done.code == 0, done.errors


@pytest.mark.parametrize("who", ["near", "twin", "far", "node-1", "node-2", "world"])
@pytest.mark.parametrize("target", ["victim", "far"])
async def test_spoofed_source_is_dropped_and_told_with_its_true_sender(
    lab: Lab, masks: None, who: str, target: str
) -> None:
    source, address = spoofed_address(lab, who), lab.ip(target, namespace=NS)
    own = lab.ip("attacker", namespace=NS)
    async with (
        lab.heard("flow.*.dropped") as flows,
        traffic(lab, NS, **{target: [job("sink", "", SINK, id="sink")]}) as seen,
    ):
        await send(lab, source, address)
        flow = await eventually(
            lambda: next((each for each in flows if each["source"]["ip"] == source), None)
        )
        assert flow["drop_reason"] == {"code": 132, "name": "INVALID_SOURCE_IP"}
        assert (flow["source"]["namespace"], flow["source"]["pod"]) == (NS, "attacker")
        assert (flow["node"], flow["source"]["node"], flow["direction"]) == ("node-1", "node-1", "egress")
        assert "k8s:app=attacker" in flow["source"]["labels"]
        assert (flow["destination"]["ip"], flow["destination"]["pod"]) == (address, target)
        assert (flow["protocol"], flow["destination"]["port"]) == ("UDP", SINK)
        # The same datagram with the true address is the proof that the sink would have seen the other.
        await send(lab, own, address)
        await eventually(lambda: len(seen.tries["sink"]) > 1)
        assert [each.answer["ip"] for each in seen.tries["sink"][1:]] == [own]


async def test_node_address_from_outside_is_dropped(lab: Lab, masks: None) -> None:
    """A machine of the underlay speaks to a pod in the name of the pod's own node, which may always speak."""
    node, victim = lab.node_ip("node-1"), lab.ip("victim", namespace=NS)
    program = [sys.executable, "-I", "-S", str(PROBE), "spoof", node, victim, str(SINK)]
    async with (
        lab.heard("flow.node-1.dropped") as flows,
        traffic(lab, NS, victim=[job("sink", "", SINK, id="sink")]) as seen,
    ):
        done = await run(client.host_command(lab.name, "outside-1", program))
        assert done.code == 0, done.errors
        flow = await eventually(lambda: next((each for each in flows if each["source"]["ip"] == node), None))
        assert flow["drop_reason"]["name"] == "INVALID_SOURCE_IP"
        await asyncio.gather(send(lab, lab.ip("attacker", namespace=NS), victim))
        await eventually(lambda: len(seen.tries["sink"]) > 1)
        assert [each.answer["ip"] for each in seen.tries["sink"][1:]] == [lab.ip("attacker", namespace=NS)]
