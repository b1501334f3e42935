"""A lab without an API server of its own: its kubelets and services work with the one of `--kubeconfig`."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from deploy.lab import client
from deploy.lab.apiserver import ApiServer
from deploy.lab.controllers import Controllers
from shared.kubernetes import NODES, Kubernetes
from tests.packet.agents import DENIED_SECONDS, job, tried
from tests.packet.labs import DEMO, Lab, remains, stentor
from tests.packet.manifests import from_pods, pod, policy
from tests.packet.runs import lab_name

NS = "given"
WORKLOADS = [
    argument
    for name in ("frontend-deployment", "backend-deployment", "backend-service")
    for argument in ("--manifests", str(DEMO / f"{name}.yaml"))
]


@pytest.fixture
async def lab() -> AsyncIterator[Lab]:
    """A lab that the test brings up."""
    name = lab_name("x")
    try:
        yield Lab(name)
    finally:
        await client.down(name)
    assert remains(name) == {}


@pytest.fixture
async def controllers(kubeconfig: Path) -> AsyncIterator[None]:
    """What else a control plane has: a scheduler, Deployments, EndpointSlices."""
    made = Controllers(kubeconfig=kubeconfig)
    work = asyncio.create_task(made.run(), name="controllers")
    try:
        await made.ready.wait()
        yield
    finally:
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)


async def up(lab: Lab, *arguments: str, kubeconfig: Path) -> str:
    """Brings the lab up; what it told meanwhile."""
    given = ("--name", lab.name, "--kubeconfig", str(kubeconfig))
    done = await stentor("lab", "up", *given, *arguments)
    assert done.code == 0, done.errors
    return done.errors


async def down(lab: Lab) -> None:
    """Takes it down."""
    done = await stentor("lab", "down", "--name", lab.name)
    assert done.code == 0, done.errors
    assert remains(lab.name) == {}


async def listed(api: Kubernetes, path: str) -> dict[str, dict[str, Any]]:
    """The objects of a kind, by name."""
    return {item["metadata"]["name"]: item for item in (await api.request("GET", path))["items"]}


async def test_kubelets_serve_the_given_api_server_and_nothing_replaces_it(
    lab: Lab, server: ApiServer, kubeconfig: Path, kubernetes: Kubernetes
) -> None:
    told = await up(lab, kubeconfig=kubeconfig)
    assert "API server" not in told
    assert (await stentor("lab", "kubeconfig", "--name", lab.name)).output == f"{kubeconfig}\n"
    assert not lab.names.kubeconfig.exists()
    nodes = await listed(kubernetes, NODES.path())
    assert {name: node["spec"]["podCIDR"] for name, node in nodes.items()} == {
        "node-1": "10.244.1.0/24",
        "node-2": "10.244.2.0/24",
    }

    await lab.kubectl("apply", "-f", str(DEMO / "frontend-deployment.yaml"))
    await lab.make_namespace(
        NS,
        pod("server", namespace=NS, node="node-1", app="server"),
        pod("friend", namespace=NS, node="node-2", app="friend"),
        pod("stranger", namespace=NS, node="node-2", app="stranger"),
        policy("door", namespace=NS, subject={"app": "server"}, peers=[from_pods(app="friend")]),
    )
    address = lab.ip("server", namespace=NS)
    bound = await listed(kubernetes, f"/api/v1/namespaces/{NS}/pods")
    assert bound["server"]["status"]["podIP"] == address
    assert set(await listed(kubernetes, "/api/v1/pods")) == set(bound), "Deployments are others' work"

    async def friends_alone_reach_it() -> None:
        (friend,) = await tried(lab, "friend", job("new", address), namespace=NS)
        assert (friend.outcome, friend.pod) == ("open", "server")
        stranger = job("new", address, patience=DENIED_SECONDS)
        assert (await tried(lab, "stranger", stranger, namespace=NS))[0].outcome == "denied"

    await friends_alone_reach_it()
    await server.stop()
    await friends_alone_reach_it()
    await down(lab)
    assert kubeconfig.exists()


async def test_down_leaves_the_cluster_as_if_its_machines_were_switched_off(
    lab: Lab, controllers: None, kubeconfig: Path, kubernetes: Kubernetes
) -> None:
    async def is_well() -> set[str]:
        """The names of pods, of which frontends reach backends through the Service."""
        told = json.loads((await stentor("lab", "pods", "-o", "json", "--name", lab.name)).output)
        assert [item["name"] for item in told if not item["ready"]] == []
        service = await lab.service_ip("backend", namespace="default")
        (each,) = await tried(lab, "frontend", job("new", service))
        assert each.outcome == "open"
        assert each.pod.startswith("backend-")
        return {item["name"] for item in told}

    arguments = ("--nodes", "1", *WORKLOADS)
    await up(lab, *arguments, kubeconfig=kubeconfig)
    before = await is_well()
    assert len(before) == 4
    await down(lab)
    assert set(await listed(kubernetes, NODES.path())) == {"node-1"}
    assert set(await listed(kubernetes, "/api/v1/pods")) == before

    await up(lab, *arguments, kubeconfig=kubeconfig)
    assert await is_well() == before, "the machines are on again, and their pods run again"
    await down(lab)


async def test_kubeconfig_without_a_cluster_is_told_and_leaves_nothing_after_down(
    lab: Lab, tmp_path: Path
) -> None:
    empty = tmp_path / "kubeconfig"
    empty.write_text("{}\n")
    done = await stentor("lab", "up", "--name", lab.name, "--kubeconfig", str(empty))
    assert (done.code, done.output) == (1, "")
    assert f"stentor: lab {lab.name}: kubeconfig {empty}: " in done.errors
    status = await stentor("lab", "status", "--name", lab.name)
    assert status.code == 1
    assert f"lab {lab.name}: failed (kubeconfig {empty}: " in status.output
    await down(lab)


async def test_api_server_that_is_away_is_told_at_once(lab: Lab, server: ApiServer, kubeconfig: Path) -> None:
    await server.stop()
    done = await stentor("lab", "up", "--name", lab.name, "--kubeconfig", str(kubeconfig))
    assert (done.code, done.output) == (1, "")
    assert f"the API server of {kubeconfig} cannot be used: " in done.errors
    assert "waiting for the services" not in done.errors
    await down(lab)


async def test_machines_of_the_given_cluster_are_not_taken_for_the_labs(
    lab: Lab, kubeconfig: Path, kubernetes: Kubernetes
) -> None:
    runtime = {"nodeInfo": {"containerRuntimeVersion": "containerd://2.1.4"}}
    await kubernetes.create(NODES, {"metadata": {"name": "node-2"}})
    await kubernetes.patch_status(NODES, runtime, name="node-2")
    before = await listed(kubernetes, NODES.path())
    done = await stentor("lab", "up", "--name", lab.name, "--kubeconfig", str(kubeconfig))
    assert (done.code, done.output) == (1, "")
    assert f"the cluster of {kubeconfig} has machines of its own named node-2" in done.errors
    assert await listed(kubernetes, NODES.path()) == before
    await down(lab)
