"""Parts of Stentor die, and everything goes on: connections, new ones, denials; what was missed is caught up.

While a part is away, and while it comes back, clients of all kinds try without a pause: one that may must
never fail, neither on an old connection nor with a new one, and one that may not must never get through. No
exception is made for any part, nor for NATS with all that it has stored, nor for all of it at once: packets
need none of them.
"""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from deploy.lab import client
from deploy.nats import NatsLayout
from shared.bus.patience import DOUBT_SECONDS
from tests.packet.agents import DENIED_SECONDS, Traffic, job, traffic, tried
from tests.packet.labs import Lab, eventually, running_lab
from tests.packet.leftovers import differences
from tests.packet.manifests import from_pods, pod, policy, service
from tests.packet.runs import lab_name

NS = "steady"
SERVICES = ("identity", "policy", "lb", "datapath-node-1", "datapath-node-2")
PARTS = (*SERVICES, "nats")
IN_TURN = ("datapath-node-1", "datapath-node-2", "nats", "identity", "policy", "lb")
PUSHING = 7000


@pytest.fixture(scope="module")
def world(guardian: None) -> Iterator[Lab]:
    """A lab with what its traffic goes between: a server on each node behind a Service, and a policy."""
    objects = [
        pod("server-1", namespace=NS, node="node-1", ports=["80", "53/UDP"], app="server"),
        pod("server-2", namespace=NS, node="node-2", ports=["80", "53/UDP"], app="server"),
        pod("friend", namespace=NS, node="node-1", app="friend"),
        pod("stranger", namespace=NS, node="node-2", app="stranger"),
        service("front", namespace=NS, ports=["80:80"], app="server"),
        policy(
            "door",
            namespace=NS,
            subject={"app": "server"},
            peers=[from_pods(app="friend")],
            ports=["80", "53/UDP", "7000"],
        ),
    ]
    with running_lab(lab_name("o")) as lab, lab.lasting_namespace(NS, *objects):
        asyncio.run(lab.service_ip("front", namespace=NS))
        yield lab


@asynccontextmanager
async def steady(lab: Lab) -> AsyncIterator[Traffic]:
    """Clients that try all the time; in the end every single try must have been as it must."""
    near, far = (lab.ip(name, namespace=NS) for name in ("server-1", "server-2"))
    front = await lab.service_ip("front", namespace=NS)
    allowed = [
        *(job("new", ip, id=f"new {ip}") for ip in (near, far, front)),
        *(job("kept", ip, id=f"kept {ip}") for ip in (near, far, front)),
        *(job("udp", ip, 53, id=f"udp {ip}") for ip in (near, far)),
        *(job("flow", ip, 53, id=f"flow {ip}") for ip in (near, far)),
        job("pull", far, PUSHING, id="pull"),
    ]
    denied = [
        *(job("new", ip, id=f"denied {ip}", every=0.1, patience=DENIED_SECONDS) for ip in (near, far, front)),
        job("udp", near, 53, id="denied udp", every=0.1, patience=DENIED_SECONDS),
    ]
    pushing = [job("push", "", PUSHING, id="push", every=0.05)]
    async with (
        traffic(lab, NS, server_2=pushing),
        traffic(lab, NS, friend=allowed, stranger=denied) as seen,
    ):
        await seen.more()
        try:
            yield seen
            await seen.more()
        finally:
            # Before anything else that may be wrong, and perhaps only because of this.
            faults = seen.faults(
                allowed=[each["id"] for each in allowed], denied=[each["id"] for each in denied]
            )
            assert faults == []


@asynccontextmanager
async def missed(lab: Lab, name: str) -> AsyncIterator[Missed]:
    """A namespace of its own for the changes of one test."""
    ns = f"missed-{name}"
    objects = [
        pod("client", namespace=ns, node="node-1", app="client"),
        pod("closing", namespace=ns, node="node-1", app="closing"),
        pod("opening", namespace=ns, node="node-2", app="opening"),
        pod("leaving", namespace=ns, node="node-1", app="leaving"),
        pod("backend-1", namespace=ns, node="node-1", app="backend"),
        service("scaled", namespace=ns, ports=["80:80"], app="backend"),
        policy("opening", namespace=ns, subject={"app": "opening"}),
        policy("inner", namespace=ns, subject={"app": "closing"}, peers=[{"podSelector": {}}]),
    ]
    async with lab.namespace(ns, *objects):
        yield Missed(lab, ns)


class Missed:
    """Changes to a cluster of which a part hears only when it is back."""

    def __init__(self, lab: Lab, namespace: str) -> None:
        self._lab = lab
        self._namespace = namespace
        self._leaving = lab.ip("leaving", namespace=namespace)

    async def make(self) -> None:
        """A policy added, one deleted, a pod deleted, one with new labels made, a Service scaled."""
        lab, ns = self._lab, self._namespace
        await lab.apply(
            policy(
                "closing", namespace=ns, subject={"app": "closing"}, peers=[from_pods(app=f"new-in-{ns}")]
            ),
            pod("newcomer", namespace=ns, node="node-2", app=f"new-in-{ns}"),
            pod("backend-2", namespace=ns, node="node-2", app="backend"),
        )
        await lab.kubectl("delete", "networkpolicy", "opening", "inner", "-n", ns)
        await lab.kubectl("delete", "pod", "leaving", "-n", ns, "--wait=false")

    async def realised(self) -> None:
        """All of it is so, and nothing of before is left but addresses that nobody has."""
        lab, ns = self._lab, self._namespace
        await lab.pods_ready("newcomer", "backend-2", namespace=ns)
        await lab.kubectl("wait", "--for=delete", "pod/leaving", "-n", ns, "--timeout=30s")
        await lab.policies_in_force()
        await lab.well()
        closing, opening = (lab.ip(name, namespace=ns) for name in ("closing", "opening"))
        scaled = await lab.service_ip("scaled", namespace=ns)
        of_client = await tried(
            lab,
            "client",
            job("new", closing, patience=DENIED_SECONDS),
            job("new", opening),
            *(job("new", scaled) for _ in range(16)),
            namespace=ns,
        )
        assert [each.outcome for each in of_client] == ["denied"] + ["open"] * 17
        assert {each.pod for each in of_client[2:]} == {"backend-1", "backend-2"}
        (of_newcomer,) = await tried(lab, "newcomer", job("new", closing), namespace=ns)
        assert of_newcomer.outcome == "open"

        found: list[str] = []

        async def nothing_differs() -> bool:
            nonlocal found
            found = await differences(lab, doubting=True)
            return not found

        try:
            await eventually(nothing_differs, every=0.2)
        except AssertionError:
            raise AssertionError("\n".join(found)) from None
        assert self._leaving not in {entry.ip for entry in (await lab.cluster()).ipcache.values.values()}


def wipe(lab: Lab) -> None:
    """Deletes all that NATS has stored."""
    store = NatsLayout.below(lab.names.nats).store
    shutil.rmtree(store)
    store.mkdir(mode=0o700)


async def identities(lab: Lab) -> dict[str, int]:
    """The number of each lasting pod's labels; other tests' namespaces may be on their way out."""
    endpoints = (await lab.cluster()).endpoints.values.values()
    return {
        f"{each.namespace}/{each.name}": each.identity
        for each in endpoints
        if not each.namespace.startswith("missed-")
    }


@pytest.mark.parametrize("dead", [("nats",), PARTS], ids=["with the services alive", "with all dead"])
async def test_storage_of_nats_is_lost_and_everything_is_published_again(
    world: Lab, dead: tuple[str, ...]
) -> None:
    before = await identities(world)
    async with missed(world, f"wiped{len(dead)}") as changes, steady(world) as seen:
        async with AsyncExitStack() as held:
            for part in dead:
                await held.enter_async_context(world.killed(part))
            wipe(world)
            await changes.make()
            await seen.more()
        for part in PARTS:
            await world.child_ready(part)
        await changes.realised()
        after = await identities(world)
        assert {name: after[name] for name in before} == before


async def test_everything_dead_at_once_changes_nothing(world: Lab) -> None:
    async with missed(world, "all") as changes, steady(world) as seen:
        async with AsyncExitStack() as dead:
            for part in PARTS:
                await dead.enter_async_context(world.killed(part))
            await seen.more()
            await changes.make()
            await seen.more()
        for part in PARTS:
            await world.child_ready(part)
        await changes.realised()


async def test_killed_parts_come_back_by_themselves(world: Lab) -> None:
    async with steady(world):
        before = {child.name: child.pid for child in (await client.status(world.name)).children}
        for part in PARTS:
            await client.kill_child(world.name, part)

        async def all_new() -> bool:
            children = (await client.status(world.name)).children
            return all(child.ready and child.pid not in (0, before[child.name]) for child in children)

        await eventually(all_new, every=0.2, seconds=60)
        await world.well()


@pytest.mark.parametrize("part", IN_TURN)
async def test_traffic_goes_on_while_a_part_is_dead_and_what_it_missed_is_made_up_for(
    world: Lab, part: str
) -> None:
    async with missed(world, part) as changes, steady(world) as seen:
        async with world.killed(part):
            await seen.more()
            await changes.make()
            await seen.more()
        await world.child_ready(part)
        await changes.realised()


async def test_in_the_end_nodes_forget_addresses_that_nobody_has(world: Lab) -> None:
    """Last, because most of the time for which they keep them has passed with the tests before."""

    async def nothing_differs() -> bool:
        return await differences(world) == []

    await eventually(nothing_differs, every=1, seconds=DOUBT_SECONDS + 20)
