"""A whole lab but for the services: real daemon, API server, kubelets, CNI plugin, NATS and namespaces."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import subprocess
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from deploy.lab import client, namespaces, processes
from deploy.lab.errors import LabError, LabExistsError, LabNotFoundError, ManifestError, NotReadyError
from deploy.lab.names import LabNames
from deploy.lab.pods import PodView
from deploy.lab.state import SERVICES, Phase
from tests.packet.agents import Try, job, tried
from tests.packet.lab_fabric import LinkingDatapath
from tests.packet.labs import DEMO, Lab, eventually, remains
from tests.packet.runs import lab_name


@pytest.fixture
def name() -> Iterator[str]:
    made = lab_name("d")
    yield made
    asyncio.run(client.down(made))
    assert remains(made) == {}


@asynccontextmanager
async def lab(name: str, **options: Any) -> AsyncIterator[dict[str, LinkingDatapath]]:
    """A lab whose nodes have the test's datapath."""
    status = await client.up(name, without=SERVICES, **options)
    assert status.phase is Phase.READY
    async with contextlib.AsyncExitStack() as stack:
        yield {
            node.name: await serving(stack, LinkingDatapath(LabNames(name), node))
            for node in status.record.plan.nodes
        }


async def serving(stack: contextlib.AsyncExitStack, datapath: LinkingDatapath) -> LinkingDatapath:
    await stack.enter_async_context(datapath)
    return datapath


async def run(command: list[str]) -> str:
    process = await asyncio.create_subprocess_exec(*command, stdout=subprocess.PIPE)
    output, _ = await process.communicate()
    assert process.returncode == 0, command
    return output.decode()


async def get(name: str, source: str, ip: str) -> Try:
    """What the server at an address answers to a pod."""
    (each,) = await tried(Lab(name), source, job("new", ip))
    assert each.outcome == "open", each
    return each


async def pod(name: str, of: str) -> PodView:
    """The first pod of a workload."""
    return next(view for view in await client.pods(name) if view.name.split("-")[0] == of)


async def kubectl(name: str, *arguments: str) -> str:
    return await Lab(name).kubectl(*arguments)


async def test_demo_runs_and_pods_talk(name: str) -> None:
    told: list[str] = []
    async with lab(name, tell=told.append):
        assert any("network" in line for line in told)
        await client.apply(name, DEMO)
        await client.wait(name, seconds=30)
        views = await client.pods(name)
        assert len(views) == 5
        assert all(view.ready and view.ips and not view.problem for view in views)
        assert {view.node for view in views} == {"node-1", "node-2"}
        assert len({view.ips for view in views}) == 5
        for node in ("node-1", "node-2"):
            here = [view for view in views if view.node == node]
            source, target = here[0], here[1]
            answer = await get(name, source.name, target.ips[0])
            assert (answer.pod, answer.answer["node"]) == (target.name, node)
            assert answer.client == source.ips[0]
        pods = json.loads(await kubectl(name, "get", "pods", "-o", "json"))["items"]
        assert {item["status"]["phase"] for item in pods} == {"Running"}
        assert {item["status"]["podIP"] for item in pods} == {view.ips[0] for view in views}
        nodes = json.loads(await kubectl(name, "get", "nodes", "-o", "json"))["items"]
        assert [item["spec"]["podCIDR"] for item in nodes] == ["10.244.1.0/24", "10.244.2.0/24"]
        assert all(
            item["metadata"]["annotations"]["azure.microsoft.com/use-cilium"] == "true" for item in nodes
        )
        slices = json.loads(await kubectl(name, "get", "endpointslices", "-o", "json"))["items"]
        backends = {view.ips[0] for view in views if view.name.startswith("backend-")}
        assert {end["addresses"][0] for item in slices for end in item["endpoints"]} == backends


async def test_pods_wait_for_the_datapath_and_say_so(name: str) -> None:
    await client.up(name, nodes=1, without=SERVICES)
    await client.apply(name, DEMO / "other-pod.yaml")
    with pytest.raises(NotReadyError, match=r"Pod default/other.*datapath"):
        await client.wait(name, seconds=2)
    waiting = json.loads(await kubectl(name, "get", "pod", "other", "-o", "json"))["status"]
    assert waiting["phase"] == "Pending"
    assert "datapath" in waiting["containerStatuses"][0]["state"]["waiting"]["message"]
    with pytest.raises(LabNotFoundError, match="no running pod default/other"):
        client.exec_command(name, "other", ["true"])
    async with LinkingDatapath(LabNames(name), client.record(name).plan.nodes[0]):
        await client.wait(name, seconds=15)


async def test_deleted_pod_is_taken_down_whole(name: str) -> None:
    async with lab(name, nodes=1) as datapaths:
        await client.apply(name, DEMO / "other-pod.yaml")
        await client.wait(name, seconds=15)
        view = await pod(name, "other")
        inode = namespaces.inode(view.network_namespace)
        assert inode is not None
        assert len(processes.in_namespaces({inode})) == 1
        await kubectl(name, "delete", "pod", "other")
        assert datapaths["node-1"].operations[-1] == "del"
        assert datapaths["node-1"].given == {}
        assert namespaces.inode(view.network_namespace) is None
        assert not Path(view.cgroup).exists()
        assert await client.pods(name) == ()


async def test_del_that_fails_is_repeated_before_the_pod_goes(name: str) -> None:
    async with lab(name, nodes=1) as datapaths:
        await client.apply(name, DEMO / "other-pod.yaml")
        await client.wait(name, seconds=15)
        datapaths["node-1"].refuse = (500, {"code": 5, "msg": "cannot write the map"})
        await kubectl(name, "delete", "pod", "other", "--wait=false")
        await eventually(lambda: datapaths["node-1"].operations.count("del") >= 2)
        assert "other" in await kubectl(name, "get", "pods", "-o", "name")
        datapaths["node-1"].refuse = None
        await kubectl(name, "wait", "--for=delete", "pod/other", "--timeout=20s")


async def test_server_that_dies_is_started_again(name: str) -> None:
    async with lab(name, nodes=1):
        await client.apply(name, DEMO / "other-pod.yaml")
        await client.wait(name, seconds=15)
        view = await pod(name, "other")
        inode = namespaces.inode(view.network_namespace)
        assert inode is not None
        (server,) = processes.in_namespaces({inode})
        processes.kill_all([server])
        await eventually(lambda: any(p != server for p in processes.in_namespaces({inode})))
        await kubectl(
            name, "wait", "pod/other", "--for=jsonpath={.status.containerStatuses[0].restartCount}=1"
        )
        await client.wait(name, seconds=15)
        again = await pod(name, "other")
        assert again.ips == view.ips
        assert again.restarts == 1


async def test_host_network_pod_has_its_nodes_address(name: str) -> None:
    manifest = LabNames(name).state.parent / f"{name}.yaml"
    manifest.parent.mkdir(parents=True, exist_ok=True)
    manifest.write_text(
        "apiVersion: v1\nkind: Pod\nmetadata: {name: agent}\n"
        "spec: {hostNetwork: true, containers: [{name: a, image: i, ports: [{containerPort: 80}]}]}\n"
    )
    try:
        async with lab(name, nodes=1) as datapaths:
            await client.apply(name, manifest)
            await client.wait(name, seconds=15)
            view = await pod(name, "agent")
            assert view.ips == client.record(name).plan.nodes[0].ips
            assert client.find_pod(name, "agent").ips == view.ips
            assert datapaths["node-1"].requests == []
            await kubectl(name, "delete", "pod", "agent")
            assert namespaces.inode(client.record(name).plan.nodes[0].namespace) is not None
    finally:
        manifest.unlink()


async def test_exec_is_in_the_pods_namespace_and_cgroup(name: str) -> None:
    async with lab(name, nodes=1, outside=1):
        await client.apply(name, DEMO / "frontend-deployment.yaml")
        await client.wait(name, seconds=15)
        view = await pod(name, "frontend")
        look = ["sh", "-c", "readlink /proc/self/ns/net; cat /proc/self/cgroup"]
        where = await run(client.exec_command(name, "frontend", look))
        inode = namespaces.inode(view.network_namespace)
        assert inode is not None
        assert f"net:[{inode[1]}]" in where
        assert f"{name}-node-1/p-" in where
        with pytest.raises(LabNotFoundError, match="running there: frontend-"):
            client.exec_command(name, "nobody", ["true"])
        outside = await run(client.host_command(name, "outside-1", ["ip", "-br", "addr"]))
        assert "172.30.0.201" in outside
        with pytest.raises(LabNotFoundError, match="it has node-1, outside-1"):
            client.host_command(name, "node-9", ["true"])


async def test_children_obey_the_control_api(name: str) -> None:
    async with lab(name, nodes=1):
        first = (await client.status(name)).children[0]
        assert (first.name, first.ready) == ("nats", True)
        await client.kill_child(name, "nats")
        await eventually(lambda: not Path(f"/proc/{first.pid}").exists())
        stopped = await client.stop_child(name, "nats")
        assert (stopped.state, stopped.last_exit) == ("held", -signal.SIGKILL)
        assert (await client.status(name)).children[0].ready is False
        await client.start_child(name, "nats")
        await client.hold_child(name, "nats")
        with pytest.raises(LabError, match="no child 'nobody'; there are nats"):
            await client.stop_child(name, "nobody")


async def test_running_lab_is_not_made_again(name: str) -> None:
    async with lab(name, nodes=1):
        with pytest.raises(LabExistsError, match="is running"):
            await client.up(name, nodes=1)
        assert client.is_running(name)


async def test_wrong_manifest_is_refused_and_the_lab_goes_on(name: str) -> None:
    with pytest.raises(ManifestError, match="cannot read /nowhere"):
        await client.up(name, manifests=[Path("/nowhere")])
    assert not client.is_running(name)


async def test_lab_that_is_not_there(name: str) -> None:
    with pytest.raises(LabNotFoundError, match="is not running"):
        await client.status(name)
    with pytest.raises(LabNotFoundError, match="there is no lab"):
        client.kubeconfig(name)
    await client.down(name)


async def test_down_after_the_daemon_was_killed(name: str) -> None:
    async with lab(name):
        await client.apply(name, DEMO)
        await client.wait(name, seconds=30)
        names = LabNames(name)
        daemon = processes.read_record(names.daemon_record)
        nats = (await client.status(name)).children[0]
        assert daemon is not None
        straggler = await asyncio.create_subprocess_exec(
            *client.exec_command(name, "other", ["sleep", "600"])
        )
        processes.kill_all([daemon])
        await eventually(lambda: not processes.alive(daemon))
        # Its children die with it; namespaces and what runs in them by other hands stay.
        await eventually(lambda: processes.identify(nats.pid) is None)
        assert not client.is_running(name)
        assert straggler.returncode is None
        (names.bpffs("node-1") / "v1").mkdir()
        await asyncio.gather(client.down(name), client.down(name))
        assert await asyncio.wait_for(straggler.wait(), 5) == -signal.SIGKILL
    assert remains(name) == {}
    await client.down(name)


async def test_up_clears_what_a_killed_daemon_left(name: str) -> None:
    async with lab(name, nodes=3):
        daemon = processes.read_record(LabNames(name).daemon_record)
        assert daemon is not None
        processes.kill_all([daemon])
        await eventually(lambda: not client.is_running(name))
    async with lab(name, nodes=1):
        assert namespaces.inode(LabNames(name).node_namespace("node-3")) is None


async def test_two_labs_at_once(name: str) -> None:
    other = f"{name}x"
    try:
        async with lab(name, nodes=1), lab(other, nodes=1):
            for each in (name, other):
                await client.apply(each, DEMO / "other-pod.yaml")
                await client.wait(each, seconds=15)
            assert (await pod(name, "other")).ips == (await pod(other, "other")).ips
            await client.down(other)
            assert remains(other) == {}
            view = await pod(name, "other")
            assert view.ready
            assert (await get(name, "other", view.ips[0])).pod == "other"
    finally:
        await client.down(other)


async def test_half_made_lab_is_removed(name: str) -> None:
    names = LabNames(name)
    names.state.mkdir(parents=True)
    names.daemon_record.write_text('{"pid": 1, "start_')
    names.processes.mkdir()
    processes.write_record(
        names.processes / "reused.json", processes.ProcessId(pid=os.getpid(), start_time=1)
    )
    namespaces.create(names.net_namespace)
    (names.bpffs("node-1") / "a" / "b").mkdir(parents=True)
    await client.down(name)
    assert remains(name) == {}
