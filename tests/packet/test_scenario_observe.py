"""Flows: what `stentor observe` prints is what any NATS client hears, and nothing is missing in it."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from deploy.lab.supervisor import bound_to_parent
from tests.packet.agents import DENIED_SECONDS, job, tried
from tests.packet.labs import REPOSITORY, Lab, eventually
from tests.packet.manifests import Object, from_pods, pod, policy, service

NS = "seen"
Flow = dict[str, Any]


def door() -> Object:
    """Rule 0 admits nobody who is there, rule 1 clients on two ports."""
    made = policy("door", namespace=NS, subject={"app": "server"}, peers=[from_pods(app="nobody")])
    made["spec"]["ingress"].append(
        {
            "from": [from_pods(app="client")],
            "ports": [{"port": 8080, "protocol": "TCP"}, {"port": 53, "protocol": "UDP"}],
        }
    )
    return made


@pytest.fixture(scope="module")
def seen(lab: Lab) -> Iterator[str]:
    """A server behind a Service, open for one of two clients on the other node; its address."""
    objects = [
        pod("server", namespace=NS, node="node-1", ports=["8080", "53/UDP"], app="server"),
        pod("client", namespace=NS, node="node-2", app="client"),
        pod("stranger", namespace=NS, node="node-2", app="stranger"),
        service("front", namespace=NS, ports=["80:8080"], app="server"),
        door(),
    ]
    with lab.lasting_namespace(NS, *objects):
        asyncio.run(lab.service_ip("front", namespace=NS))
        yield lab.ip("server", namespace=NS)


@asynccontextmanager
async def observed(lab: Lab, *options: str) -> AsyncIterator[list[Flow]]:
    """What ``stentor observe --follow -o json`` prints, once it prints."""
    argv = (sys.executable, "-m", "deploy.cli", "observe", "--follow", "-o", "json", *options)
    process = await asyncio.create_subprocess_exec(
        *bound_to_parent(argv, namespace=None),
        stdout=asyncio.subprocess.PIPE,
        cwd=REPOSITORY,
        env={**os.environ, "STENTOR_LAB": lab.name},
    )
    lines: list[Flow] = []

    async def read(stream: asyncio.StreamReader) -> None:
        while line := await stream.readline():
            lines.append(json.loads(line))

    assert process.stdout is not None
    reading = asyncio.create_task(read(process.stdout), name="observe")
    try:

        async def prints() -> bool:
            await tried(lab, "stranger", job("new", lab.ip("client", namespace=NS)), namespace=NS)
            return bool(lines)

        await eventually(prints, every=0.2)
        yield lines
    finally:
        process.kill()
        await process.wait()
        await reading


def about(flows: list[Flow], source: str, destination: str, **fields: Any) -> list[Flow]:
    """Flows from one pod to another with these fields."""
    return [
        flow
        for flow in flows
        if (flow["source"]["pod"], flow["destination"]["pod"]) == (source, destination)
        and all(flow[name] == value for name, value in fields.items())
    ]


def by_node(flows: list[Flow], destination: str) -> list[Flow]:
    """Flows to a pod; of their order only that of each node's own is promised."""
    return sorted(
        (flow for flow in flows if flow["destination"]["pod"] == destination),
        key=lambda flow: str(flow["node"]),
    )


async def test_observe_prints_what_a_nats_client_hears(lab: Lab, seen: str) -> None:
    front = await lab.service_ip("front", namespace=NS)
    async with observed(lab) as printed, lab.heard("flow.>") as heard:
        jobs = (job("new", front), job("udp", seen, 53), job("ping", seen, patience=0.4))
        await tried(lab, "client", *jobs, namespace=NS)
        await tried(lab, "stranger", job("new", seen, 8080, patience=DENIED_SECONDS), namespace=NS)
        await eventually(lambda: about(heard, "stranger", "server", verdict="dropped"))
        await eventually(lambda: about(printed, "stranger", "server", verdict="dropped"))
        mine = by_node(heard, "server")
        assert len(mine) >= 6  # forwarded: TCP and UDP on both nodes; dropped: ICMP and TCP
        assert mine == by_node(printed, "server")


async def test_forwarded_flow_is_complete(lab: Lab, seen: str) -> None:
    front = await lab.service_ip("front", namespace=NS)
    began = datetime.now(UTC)
    async with lab.heard("flow.*.forwarded") as flows:
        (each,) = await tried(lab, "client", job("new", front), namespace=NS)
        assert each.outcome == "open"
        (left,) = await eventually(lambda: about(flows, "client", "server", direction="egress"))
        (came,) = await eventually(lambda: about(flows, "client", "server", direction="ingress"))
    pods = {
        item["name"]: item
        for item in json.loads((await lab.cli("endpoint", "list", "-o", "json")).output)
        if item["namespace"] == NS
    }
    assert (left["node"], came["node"]) == ("node-2", "node-1")
    for flow in (left, came):
        time = datetime.fromisoformat(flow["time"][:26] + "+00:00")
        assert began - timedelta(seconds=1) < time < datetime.now(UTC)
        assert (flow["v"], flow["verdict"], flow["protocol"]) == (1, "forwarded", "TCP")
        assert (flow["is_reply"], flow["drop_reason"], flow["tcp_flags"]) == (False, None, ["SYN"])
        assert flow["bytes"] > 0
        source, destination = flow["source"], flow["destination"]
        assert source["port"] > 1024
        assert (source["ip"], destination["ip"]) == (lab.ip("client", namespace=NS), seen)
        assert destination["port"] == 8080
        for end, name, node in ((source, "client", "node-2"), (destination, "server", "node-1")):
            assert (end["namespace"], end["pod"], end["node"]) == (NS, name, node)
            assert end["identity"] == pods[name]["identity"] > 255
            assert {f"k8s:app={name}", f"k8s:io.kubernetes.pod.namespace={NS}"} <= set(end["labels"])
    assert left["service"] == {"ip": front, "port": 80, "namespace": NS, "name": "front"}
    assert left["policy"] is None, "no policy selects the client"
    assert came["policy"]["policies"] == [{"kind": "NetworkPolicy", "namespace": NS, "name": "door"}]
    assert came["policy"]["rule"] == 1
    assert came["policy"]["revision"] > 0


async def test_dropped_flow_names_reason_and_policy(lab: Lab, seen: str) -> None:
    async with lab.heard("flow.*.dropped") as flows:
        tries = await tried(
            lab,
            "stranger",
            job("new", seen, 8080, patience=DENIED_SECONDS),
            job("udp", seen, 53, patience=DENIED_SECONDS),
            job("ping", seen, patience=DENIED_SECONDS),
            namespace=NS,
        )
        assert {each.outcome for each in tries} == {"denied"}
        for protocol, port in (("TCP", 8080), ("UDP", 53), ("ICMP", None)):
            flow = (
                await eventually(
                    lambda protocol=protocol: about(flows, "stranger", "server", protocol=protocol)  # type: ignore[misc]
                )
            )[0]
            assert (flow["verdict"], flow["direction"], flow["node"]) == ("dropped", "ingress", "node-1")
            assert flow["drop_reason"] == {"code": 133, "name": "POLICY_DENIED"}
            assert flow["policy"]["policies"] == [{"kind": "NetworkPolicy", "namespace": NS, "name": "door"}]
            assert flow["policy"]["rule"] is None, "no rule denied it; none allowed it"
            if port is None:
                assert (flow["icmp_type"], flow["icmp_code"]) == (8, 0)
            else:
                assert flow["destination"]["port"] == port


async def test_filters_of_observe_keep_the_rest_away(lab: Lab, seen: str) -> None:
    # Its own traffic, that of the stranger, makes it print.
    async with observed(lab, "--pod", f"{NS}/stranger", "--verdict", "forwarded") as printed:
        await tried(lab, "client", job("new", seen, 8080), namespace=NS)
        await tried(lab, "stranger", job("new", seen, 8080, patience=DENIED_SECONDS), namespace=NS)
        before = len(printed)
        await tried(lab, "stranger", job("new", lab.ip("client", namespace=NS)), namespace=NS)
        await eventually(lambda: len(printed) > before)
        assert {flow["verdict"] for flow in printed} == {"forwarded"}
        assert {flow["source"]["pod"] for flow in printed} == {"stranger"}
