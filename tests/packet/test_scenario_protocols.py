"""Other traffic than TCP, on one node and across nodes: ICMP, UDP, and datagrams that travel in fragments."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.packet.agents import DENIED_SECONDS, job, tried
from tests.packet.labs import Lab
from tests.packet.manifests import from_pods, pod, policy

NS = "wires"
LARGE = 9000
"""Bytes, of which a packet has room for less than 1500."""


@pytest.fixture(scope="module")
def wires(lab: Lab) -> Iterator[str]:
    """An echo of datagrams, and clients on its own node and the other; its address."""
    objects = [
        pod("server", namespace=NS, node="node-1", ports=["53/UDP", "54/UDP"], app="server"),
        pod("near", namespace=NS, node="node-1", app="client"),
        pod("far", namespace=NS, node="node-2", app="client"),
    ]
    with lab.lasting_namespace(NS, *objects):
        yield lab.ip("server", namespace=NS)


@pytest.mark.parametrize("client", ["near", "far"])
async def test_icmp_and_datagrams_of_any_size_come_and_go(lab: Lab, wires: str, client: str) -> None:
    tries = await tried(
        lab,
        client,
        job("ping", wires, size=56),
        job("ping", wires, size=LARGE),
        job("udp", wires, 53, size=1),
        job("udp", wires, 53, size=LARGE),
        job("udp", wires, 55),
        namespace=NS,
    )
    assert [each.outcome for each in tries] == ["open", "open", "open", "open", "refused"]
    assert [each.answer["bytes"] for each in tries[:4]] == [56, LARGE, 1, LARGE]


@pytest.mark.parametrize("client", ["near", "far"])
async def test_policy_judges_fragments_as_the_datagram_they_are_of(lab: Lab, wires: str, client: str) -> None:
    admit = policy(
        "dns", namespace=NS, subject={"app": "server"}, peers=[from_pods(app="client")], ports=["53/UDP"]
    )
    try:
        await lab.apply(admit)
        await lab.policies_in_force()
        tries = await tried(
            lab,
            client,
            job("udp", wires, 53, size=LARGE),
            job("udp", wires, 54, size=LARGE, patience=DENIED_SECONDS),
            job("ping", wires, size=LARGE, patience=DENIED_SECONDS),
            namespace=NS,
        )
        assert [each.outcome for each in tries] == ["open", "denied", "denied"]
    finally:
        await lab.delete(admit)
        await lab.policies_in_force()
