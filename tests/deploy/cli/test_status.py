"""`stentor status`: what is well, and each thing that can be wrong, by name."""

from __future__ import annotations

import asyncio
import json
import subprocess
from typing import Any

import pytest

from shared.contract.identity import EndpointRecord
from shared.contract.names import Bucket, pod_key
from shared.contract.policy import PolicyRef
from tests.deploy.cli.conftest import Run, Start
from tests.deploy.cli.world import BACKEND, NODES, World, refused


async def finish(
    running: asyncio.Future[subprocess.CompletedProcess[str]],
) -> subprocess.CompletedProcess[str]:
    return await asyncio.wait_for(running, timeout=30)


async def problems(start: Start) -> list[str]:
    """The problems of the report; checks that the exit code agrees with it."""
    done = await finish(start("status", "-o", "json"))
    report: dict[str, Any] = json.loads(done.stdout)
    assert report["well"] == (not report["problems"])
    assert done.returncode == (0 if report["well"] else 1)
    return list(report["problems"])


async def test_well(world: World, start: Start) -> None:
    await world.answer_health()
    assert await problems(start) == []


async def test_json_shape(world: World, start: Start) -> None:
    await world.answer_health()
    report = json.loads((await finish(start("status", "-o", "json"))).stdout)
    latest = {
        "policy": world.policy_revision,
        "services": world.services_revision,
        "ipcache": world.ipcache_revision,
    }
    assert report["latest"] == latest
    assert report["nodes"][0] == {
        "node": "node-1",
        "reported": True,
        "enforcing": True,
        "time": "2026-01-02T03:04:05.678901234Z",
        "revisions": latest,
        "endpoints": 2,
        "endpoints_ready": 2,
        "maps": {"policy": {"entries": 10, "capacity": 100}, "ct": {"entries": 1, "capacity": 1000}},
        "drift_repaired": 0,
    }
    assert report["services"][0] == {
        "v": 1,
        "service": "datapath",
        "instance": "i-1",
        "node": "node-1",
        "ready": True,
        "reasons": [],
        "uptime_seconds": 300.0,
        "resident_bytes": 52428800,
        "detail": {"things": 3},
    }
    counts = {name: report[name] for name in ("identities", "endpoints", "policies", "policies_refused")}
    assert counts == {"identities": 2, "endpoints": 4, "policies": 1, "policies_refused": 0}


async def test_table(world: World, start: Start) -> None:
    await world.answer_health()
    done = await finish(start("status"))
    assert done.returncode == 0
    assert done.stdout == (
        f"cluster {world.bus.cluster}: well\n"
        "\n"
        "SERVICE    NODE     READY   UPTIME   MEMORY   DETAIL\n"
        "datapath   node-1   yes     5m       50 MiB   things=3\n"
        "datapath   node-2   yes     5m       50 MiB   things=3\n"
        "identity   -        yes     5m       50 MiB   things=3\n"
        "lb         -        yes     5m       50 MiB   things=3\n"
        "policy     -        yes     5m       50 MiB   things=3\n"
        "\n"
        "NODE     ENFORCING   POLICY   SERVICES   IPCACHE   ENDPOINTS   FULLEST MAP\n"
        "node-1   yes         4/4      2/2        4/4       2/2         policy 10% (10/100)\n"
        "node-2   yes         4/4      2/2        4/4       2/2         policy 10% (10/100)\n"
        "\n"
        "2 identities, 4 endpoints, 1 policy\n"
    )


async def test_silent_services_are_named(world: World, start: Start) -> None:
    found = await problems(start)
    assert "service policy does not answer: nothing new of it reaches the nodes" in found
    assert "service datapath of node node-1 does not answer: traffic goes on as last realised" in found


async def test_service_that_is_not_ready(world: World, start: Start) -> None:
    await world.answer_health(unready="identity")
    assert await problems(start) == ["service identity is not ready: the API server is away"]


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"policy_revision": 3}, "node node-2: has realised policy revision 3, the latest is 4"),
        (
            {"policy_revision": 99},
            "node node-2: holds policy revision 99, but the bucket is only at 4: NATS has lost its data "
            "and the node keeps its last state",
        ),
        (
            {"services_revision": 99},
            "node node-2: holds services revision 99, but the bucket is only at 2: NATS has lost its data "
            "and the node keeps its last state",
        ),
        ({"enforcing": False}, "node node-2: does not enforce"),
        ({"entries": 95}, "node node-2: map policy is nearly full: 95 of 100 entries"),
        ({"problems": ("eth0 has lost its filter",)}, "node node-2: eth0 has lost its filter"),
    ],
)
async def test_node_that_is_not_well(
    world: World, start: Start, change: dict[str, Any], problem: str
) -> None:
    await world.answer_health()
    await world.realise("node-2", **change)
    assert await problems(start) == [problem]


async def test_publication_while_services_are_asked_is_no_loss(world: World, start: Start) -> None:
    """Nodes that keep up may hold more by the end than the bucket did at the beginning."""
    asked = asyncio.Event()
    await world.answer_health(told=asked.set)
    found = asyncio.create_task(problems(start))
    await asyncio.wait_for(asked.wait(), timeout=30)
    await world.publish_policy()
    for node in NODES:
        await world.realise(node)
    assert await found == []


async def test_endpoint_that_is_not_ready(world: World, start: Start) -> None:
    await world.answer_health()
    await world.realise("node-1", ready=False)
    assert "endpoint default/backend-a is not ready on its node node-1" in await problems(start)


async def test_endpoint_that_its_node_does_not_know(world: World, start: Start) -> None:
    await world.answer_health()
    late = EndpointRecord(node="node-1", namespace="default", name="late", uid="u-late", identity=BACKEND)
    await world.put(Bucket.ENDPOINTS, [(pod_key(node="node-1", namespace="default", pod="late"), late)])
    assert await problems(start) == ["endpoint default/late is unknown to its node node-1"]


async def test_node_without_a_datapath(world: World, start: Start) -> None:
    await world.answer_health(without="datapath@node-2")
    await world.put(Bucket.REALISED, [("node-2", None)])
    found = await problems(start)
    assert "node node-2: its datapath has not reported yet" in found
    assert "service datapath of node node-2 does not answer: traffic goes on as last realised" in found


async def test_refused_policy(world: World, start: Start) -> None:
    await world.answer_health()
    await world.put_status(refused(PolicyRef(kind="NetworkPolicy", namespace="prod", name="bad")))
    assert await problems(start) == ["policy prod/bad is refused: spec.ingress[0].ports[0].port: is 70000"]


async def test_entry_of_a_newer_version_is_named(world: World, start: Start) -> None:
    await world.answer_health()
    store = await world.bus.bucket(Bucket.IDENTITIES, as_type=EndpointRecord)
    newer = EndpointRecord(v=9, node="n", namespace="n", name="n", uid="n", identity=BACKEND)
    await store.put("1009", newer)
    assert [text for text in await problems(start) if text.startswith("cannot read 1009:")]


def test_empty_cluster(stentor: Run) -> None:
    done = stentor("status")
    assert done.returncode == 1
    assert "problem: no node is known" in done.stdout
    assert "problem: service policy has not published anything yet" in done.stdout
