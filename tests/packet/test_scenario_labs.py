"""Labs do not disturb each other, and `lab down` leaves nothing of one, in whatever state it was."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import pytest

from deploy.lab import client, processes
from deploy.lab.names import LabNames
from deploy.lab.supervisor import bound_to_parent
from tests.packet.agents import DENIED_SECONDS, job, traffic, tried
from tests.packet.labs import REPOSITORY, Lab, eventually, remains, stentor
from tests.packet.manifests import from_pods, pod, policy
from tests.packet.runs import lab_name

NS = "twin"


@pytest.fixture
async def name() -> AsyncIterator[str]:
    """A name for a lab that the test brings up and takes down."""
    links = {name for _, name in socket.if_nameindex()}
    made = lab_name("w")
    try:
        yield made
    finally:
        await client.down(made)
    assert remains(made) == {}
    assert {name for _, name in socket.if_nameindex()} <= links, "the machine's own namespace is untouched"


async def test_two_labs_with_the_same_addresses_do_not_meet(lab: Lab, name: str) -> None:
    pods = [
        pod("server", namespace=NS, node="node-1", app="server"),
        pod("client", namespace=NS, node="node-1", app="client"),
    ]
    shut = policy("door", namespace=NS, subject={"app": "server"})
    opened = policy("door", namespace=NS, subject={"app": "server"}, peers=[from_pods(app="client")])
    async with lab.namespace(NS, *pods, opened):
        server = lab.ip("server", namespace=NS)
        steady = [job(kind, server, id=kind) for kind in ("kept", "new")]
        async with traffic(lab, NS, client=steady) as seen, lab.heard("flow.>") as flows:
            up = await stentor("lab", "up", "--nodes", "1", "--name", name)
            assert up.code == 0, up.errors
            other = Lab(name)
            assert other.node_ip("node-1") == lab.node_ip("node-1")
            async with other.namespace(NS, *pods, shut):
                twin = other.ip("server", namespace=NS)
                (inner,) = await tried(
                    other, "client", job("new", twin, patience=DENIED_SECONDS), namespace=NS
                )
                assert inner.outcome == "denied", "the other lab's policy is the other lab's"
                # The same address is another pod there, or nobody.
                theirs = {view.ips[0] for view in await client.pods(name) if view.ips}
                if server not in theirs:
                    (across,) = await tried(
                        other, "client", job("new", server, patience=DENIED_SECONDS), namespace=NS
                    )
                    assert across.outcome != "open"
                assert "client" in {flow["source"].get("pod") for flow in flows}
                assert not [flow for flow in flows if flow["verdict"] == "dropped" and twin in str(flow)]
                await seen.more()
            down = await stentor("lab", "down", "--name", name)
            assert down.code == 0, down.errors
            assert remains(name) == {}
            await seen.more()
            assert seen.faults(allowed=["kept", "new"]) == []
            await lab.well()


@asynccontextmanager
async def coming_up(name: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """``stentor lab up``, under way."""
    process = await asyncio.create_subprocess_exec(
        *bound_to_parent((sys.executable, "-m", "deploy.cli", "lab", "up", "--name", name), namespace=None),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=REPOSITORY,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def child_runs(child: str) -> Callable[[LabNames], bool]:
    """Whether a lab is so far that it runs a child."""
    return lambda names: (names.processes / f"{child}.json").exists()


@pytest.mark.parametrize(
    "far_enough",
    [lambda names: names.daemon_record.exists(), child_runs("nats"), child_runs("datapath-node-2")],
    ids=["at its beginning", "with NATS running", "with datapaths compiling"],
)
async def test_daemon_killed_while_it_comes_up_leaves_nothing(
    name: str, far_enough: Callable[[LabNames], bool]
) -> None:
    names = LabNames(name)
    async with coming_up(name) as up:
        await eventually(lambda: far_enough(names), every=0.005)
        daemon = processes.read_record(names.daemon_record)
        assert daemon is not None
        os.kill(daemon.pid, signal.SIGKILL)
        _, errors = await asyncio.wait_for(up.communicate(), 20)
        assert up.returncode == 1
        assert b"daemon ended" in errors
    down = await stentor("lab", "down", "--name", name)
    assert down.code == 0, down.errors
    assert remains(name) == {}


async def test_killed_up_leaves_a_lab_that_down_removes(name: str) -> None:
    names = LabNames(name)
    async with coming_up(name) as up:
        await eventually(lambda: child_runs("nats")(names), every=0.005)
        up.kill()
    down = await stentor("lab", "down", "--name", name)
    assert down.code == 0, down.errors
    assert remains(name) == {}
    again = await stentor("lab", "down", "--name", name)
    assert again.code == 0, "there is nothing to remove, and that is fine"
