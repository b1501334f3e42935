"""Live connections when permissions change: the revoked are cut in both directions, the others go on."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator

import pytest

from tests.packet.agents import Traffic, job, traffic
from tests.packet.labs import Lab, eventually
from tests.packet.manifests import from_pods, pod, policy

NS = "live"
PUSHING = 7000
SILENCE_SECONDS = 1.5
"""A connection on which nothing came for so long is cut: its peer sends all the time."""
FRIENDS, GUESTS = ("friend-near", "friend-far"), ("guest-near", "guest-far")


def admitting(*roles: str) -> dict[str, object]:
    """The server's policy."""
    peers = [from_pods(role=role) for role in roles]
    ports = ["80", "81/UDP", "7000"]
    return policy("door", namespace=NS, subject={"app": "server"}, peers=peers, ports=ports)


@pytest.fixture
async def server(lab: Lab) -> AsyncIterator[str]:
    """A server that admits friends and guests, of which there are some on both nodes; its address."""
    objects = [
        pod("server", namespace=NS, node="node-1", ports=["80", "81/UDP"], app="server"),
        *(
            pod(f"{role}-{where}", namespace=NS, node=node, role=role)
            for role in ("friend", "guest")
            for where, node in (("near", "node-1"), ("far", "node-2"))
        ),
        admitting("friend", "guest"),
    ]
    async with lab.namespace(NS, *objects):
        yield lab.ip("server", namespace=NS)


def jobs(pod: str, server: str) -> list[dict[str, object]]:
    """Talk, take a stream, and send datagrams, each over one connection."""
    return [
        job("kept", server, id=f"{pod} kept", patience=SILENCE_SECONDS),
        job("pull", server, PUSHING, id=f"{pod} pull", patience=SILENCE_SECONDS),
        job("flow", server, 81, id=f"{pod} flow", patience=SILENCE_SECONDS),
    ]


def last_heard(seen: Traffic, id: str) -> float:
    """When the server's side of a connection was heard last."""
    return max(each.ended for each in seen.tries[id] if each.outcome == "open")


async def test_revoked_connections_are_cut_and_permitted_ones_go_on(lab: Lab, server: str) -> None:
    pushing = [job("push", "", PUSHING, id="push", every=0.02)]
    async with (
        traffic(lab, NS, server=pushing),
        traffic(lab, NS, **{pod.replace("-", "_"): jobs(pod, server) for pod in (*FRIENDS, *GUESTS)}) as seen,
    ):
        await seen.more()
        assert seen.faults(allowed=tuple(seen.tries)) == []

        await lab.apply(admitting("friend"))
        await lab.policies_in_force()
        cut = time.monotonic()

        for guest in GUESTS:
            for kind in ("kept", "pull", "flow"):
                id = f"{guest} {kind}"
                await eventually(lambda id=id: seen.tries[id][-1].outcome == "denied")  # type: ignore[misc]
                assert last_heard(seen, id) <= cut, f"{id} was answered after its permission was gone"
        going_on = [f"{friend} {kind}" for friend in FRIENDS for kind in ("kept", "pull", "flow")]
        await seen.more(*going_on, count=10)
        assert seen.faults(allowed=going_on) == []

        # A datagram socket is not closed by silence: the same one is answered again.
        await lab.apply(admitting("friend", "guest"))
        await lab.policies_in_force()
        back = time.monotonic()
        for guest in GUESTS:
            id = f"{guest} flow"
            await eventually(lambda id=id: last_heard(seen, id) > back)  # type: ignore[misc]


async def test_connection_is_cut_when_its_client_loses_the_label(lab: Lab, server: str) -> None:
    each = job("kept", server, id="kept", patience=SILENCE_SECONDS)
    other = job("kept", server, id="other", patience=SILENCE_SECONDS)
    async with traffic(lab, NS, guest_far=[each], guest_near=[other]) as seen:
        await seen.more()
        await lab.kubectl("label", "pod", "guest-far", "role-", "-n", NS)
        await lab.well()
        cut = time.monotonic()
        await eventually(lambda: seen.tries["kept"][-1].outcome == "denied")
        assert last_heard(seen, "kept") <= cut
        await seen.more("other")
        assert seen.faults(allowed=["other"]) == []
