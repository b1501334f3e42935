"""Every command of `stentor lab` as a user types it: a process, its exit code, and what it prints."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from deploy.cli.probing import PROGRAM
from deploy.lab import client, namespaces
from deploy.lab.names import LabNames
from tests.packet.agents import job, tried, tried_in
from tests.packet.labs import (
    DEMO,
    KUBECTL,
    Finished,
    Lab,
    eventually,
    remains,
    run,
    stentor,
    stentor_under_way,
)
from tests.packet.manifests import Object, pod
from tests.packet.runs import lab_name

NS = "typed"
PROCESSES = ["nats", "identity", "policy", "lb", "datapath-node-1"]


@pytest.fixture(scope="module")
def up(guardian: None, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Lab, Finished]]:
    """A lab made by `lab up` of a directory and a file, and what that printed."""
    name = lab_name("c")
    objects = [
        {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NS}},
        pod("echo", namespace=NS, node="node-1", ports=["8080", "53/UDP"], app="echo"),
    ]
    manifest = written(tmp_path_factory.mktemp("manifests") / "echo.yaml", *objects)
    given = ("--manifests", str(DEMO), "--manifests", str(manifest))
    try:
        done = asyncio.run(stentor("lab", "up", "--nodes", "1", *given, "--name", name))
        assert done.code == 0, done.errors
        yield Lab(name), done
    finally:
        asyncio.run(client.down(name))


@pytest.fixture
def lab(up: tuple[Lab, Finished]) -> Lab:
    """That lab, for tests that leave it as they found it."""
    return up[0]


@pytest.fixture
async def name() -> AsyncIterator[str]:
    """A name for a lab of the test's own."""
    made = lab_name("k")
    try:
        yield made
    finally:
        await client.down(made)


def written(path: Path, *objects: Object) -> Path:
    """Objects as a manifest."""
    path.write_text("\n---\n".join(map(json.dumps, objects)))
    return path


async def typed(lab: Lab, *arguments: str, text: str = "") -> str:
    """What ``stentor lab ARGUMENTS`` prints, which must succeed and complain of nothing."""
    done = await stentor("lab", *arguments, text=text, STENTOR_LAB=lab.name)
    assert done.code == 0, done.errors
    assert "stentor: " not in done.errors, "on standard error it may say that it is waiting, no more"
    return done.output


async def failed(lab: Lab, *arguments: str, code: int, text: str = "") -> str:
    """What ``stentor lab ARGUMENTS`` complains of, which must fail and print nothing else."""
    done = await stentor("lab", *arguments, text=text, STENTOR_LAB=lab.name)
    assert (done.code, done.output) == (code, ""), done.errors
    return done.errors


async def pods(lab: Lab) -> dict[str, dict[str, Any]]:
    """What ``lab pods -o json`` says, by the names of pods and of the Deployments that they are of."""
    listed = json.loads(await typed(lab, "pods", "-o", "json"))
    return {re.sub(r"-[a-z0-9]+-[a-z0-9]{5}$", "", item["name"]): item for item in listed}


async def children(lab: Lab) -> dict[str, dict[str, Any]]:
    """The processes that ``lab status -o json`` tells of."""
    status = json.loads(await typed(lab, "status", "-o", "json"))
    return {child["name"]: child for child in status["children"]}


# -- looking ---------------------------------------------------------------------------------------


def test_up_tells_how_far_it_is_and_what_it_has_made(up: tuple[Lab, Finished]) -> None:
    lab, done = up
    assert re.fullmatch(rf"lab {lab.name} is ready: 1 nodes?, 6 pods\n", done.output)
    told = done.errors.splitlines()
    assert {"Deployment backend created", "Pod echo created", "waiting for the pods"} <= set(told)
    assert len(told) == len(set(told)), "each step once"


async def test_up_of_a_running_lab_is_refused(lab: Lab) -> None:
    before = await pods(lab)
    assert f"lab {lab.name} is running" in await failed(lab, "up", code=2)
    assert await pods(lab) == before


async def test_status_names_every_process(lab: Lab) -> None:
    lines = (await typed(lab, "status")).splitlines()
    assert lines[0] == f"lab {lab.name}: ready"
    assert lines[-1] == "6 pods, 6 ready"
    rows = [line.split() for line in lines[2:-1]]
    assert [row[:3] for row in rows] == [[process, "running", "yes"] for process in PROCESSES]

    told = json.loads(await typed(lab, "status", "-o", "json"))
    assert (told["phase"], told["problem"]) == ("ready", "")
    assert [child["name"] for child in told["children"]] == PROCESSES
    assert [str(child["pid"]) for child in told["children"]] == [row[3] for row in rows]
    assert len(told["pods"]) == 6
    assert told["record"]["options"]["nodes"] == 1


async def test_pods_tells_all_of_each(lab: Lab) -> None:
    listed = json.loads(await typed(lab, "pods", "-o", "json"))
    assert [(item["namespace"], item["name"]) for item in listed] == sorted(
        (item["metadata"]["namespace"], item["metadata"]["name"])
        for item in (await lab.get("pods", "-A"))["items"]
    )
    for item in listed:
        assert list(item) == ["namespace", "name", "node", "ips", "netns", "identity", "ready"]
        assert (item["node"], item["ready"]) == ("node-1", True)
        netns = Path(item["netns"])
        (ip,) = item["ips"]
        # The namespace is that pod's: it reaches itself there by its own address and name.
        (each,) = await tried_in(netns.name, job("new", ip, 8080 if item["name"] == "echo" else 80))
        assert (each.outcome, each.pod, each.client) == ("open", item["name"], ip)
    identities = {
        (item["namespace"], item["name"]): item["identity"]
        for item in json.loads((await lab.cli("endpoint", "list", "-o", "json")).output)
    }
    assert {(item["namespace"], item["name"]): item["identity"] for item in listed} == identities
    assert all(identities.values())
    assert len(set(identities.values())) == 4, "one for each of frontends, backends, other and echo"

    table = [line.split() for line in (await typed(lab, "pods")).splitlines()]
    assert table[0] == ["NAMESPACE", "NAME", "NODE", "IP", "IDENTITY", "READY", "NETNS"]
    assert [row[1:5] for row in table[1:]] == [
        [item["name"], "node-1", item["ips"][0], str(item["identity"])] for item in listed
    ]


async def test_logs_are_those_of_the_process(lab: Lab) -> None:
    for process in ("datapath-node-1", "daemon"):
        printed = await typed(lab, "logs", process)
        assert printed
        assert (lab.names.logs / f"{process}.log").read_text().startswith(printed)
    complaint = await failed(lab, "logs", "nobody", code=2)
    assert "daemon, datapath-node-1, identity, lb, nats, policy" in complaint
    assert "no log of '../daemon'" in await failed(lab, "logs", "../daemon", code=2)


async def test_logs_follow_until_interrupted(lab: Lab) -> None:
    async with stentor_under_way("lab", "logs", "daemon", "-f", "--name", lab.name) as following:
        assert following.stdout is not None
        assert b"network of 1 nodes" in await following.stdout.readline()
        await typed(lab, "service", "kill", "lb")
        async with asyncio.timeout(20):
            while b"lb ended with -9" not in await following.stdout.readline():
                pass
        following.send_signal(signal.SIGINT)
        _, errors = await following.communicate()
        assert (following.returncode, errors) == (130, b"")
    await lab.child_ready("lb")


# -- exec ------------------------------------------------------------------------------------------


async def test_exec_is_as_transparent_as_a_shell(lab: Lab) -> None:
    script = "cat; echo complaint >&2; exit 7"
    done = await stentor("lab", "exec", "other", "--name", lab.name, "--", "sh", "-c", script, text="said\n")
    assert done == Finished(7, "said\n", "complaint\n")
    done = await stentor("lab", "exec", "--name", lab.name, f"{NS}/echo", "--", "sh", "-c", "kill -9 $$")
    assert done.code == -signal.SIGKILL
    odd = ["--name", "-o", "two words", "", "*", "$HOME", "'", "--"]
    show = ["-I", "-S", "-c", "import json, sys; print(json.dumps(sys.argv[1:]))"]
    assert json.loads(await typed(lab, "exec", "other", "--", sys.executable, *show, *odd)) == odd


async def test_exec_is_in_the_pod_and_under_its_policy(lab: Lab) -> None:
    frontend, service = lab.ip("frontend"), await lab.service_ip("backend", namespace="default")
    for source, target, answerer in (
        ("frontend", service, "backend-"),
        ("default/other", frontend, "frontend-"),
        ("default/other", service, ""),
    ):
        probe = json.dumps([{"id": "1", "ip": target, "port": 80}])
        said = await typed(lab, "exec", source, "--", sys.executable, "-I", "-S", str(PROGRAM), text=probe)
        (found,) = json.loads(said)
        if answerer:
            assert found["answer"]["pod"].startswith(answerer)
            assert found["answer"]["client"]["ip"] == lab.ip(source.removeprefix("default/"))
        else:
            assert found["outcome"] == "denied"


async def test_exec_that_cannot_be(lab: Lab) -> None:
    assert "nosuchprogram" in await failed(lab, "exec", "other", "--", "nosuchprogram", code=127)
    assert "/etc/passwd" in await failed(lab, "exec", "other", "--", "/etc/passwd", code=126)
    assert f"no running pod {NS}/other" in await failed(lab, "exec", f"{NS}/other", "--", "true", code=2)


# -- changing --------------------------------------------------------------------------------------


async def test_apply_and_delete_tell_what_became_of_each_object(lab: Lab, tmp_path: Path) -> None:
    box, peer = (pod(name, namespace=NS, node="node-1", app=name) for name in ("box", "peer"))
    written(tmp_path / "1-box.yaml", box)
    written(tmp_path / "2-peer.yml", peer)
    written(tmp_path / "ignored.txt", pod("ignored", namespace=NS, node="node-1"))
    both = ("-f", str(tmp_path))
    assert await typed(lab, "apply", *both) == f"Pod {NS}/box created\nPod {NS}/peer created\n"
    await lab.pods_ready("box", "peer", namespace=NS)
    (each,) = await tried(lab, "box", job("new", lab.ip("peer", namespace=NS)), namespace=NS)
    assert each.outcome == "open"

    box["metadata"]["labels"]["app"] = "case"
    written(tmp_path / "1-box.yaml", box)
    assert await typed(lab, "apply", *both) == f"Pod {NS}/box configured\nPod {NS}/peer unchanged\n"
    said = await typed(lab, "delete", "-f", "-", text=json.dumps(peer))
    assert said == f"Pod {NS}/peer deleted\n"
    await lab.kubectl("wait", "-n", NS, "--for=delete", "pod/peer", "--timeout=30s")
    assert await typed(lab, "delete", *both) == f"Pod {NS}/peer absent\nPod {NS}/box deleted\n"
    await lab.kubectl("wait", "-n", NS, "--for=delete", "pod/box", "--timeout=30s")
    assert not {"box", "peer"} & (await pods(lab)).keys()


async def test_manifest_that_cannot_be_applied_is_named(lab: Lab) -> None:
    assert "cannot read /nowhere" in await failed(lab, "apply", "-f", "/nowhere", code=1)
    unnamed = json.dumps({"apiVersion": "v1", "kind": "Pod", "metadata": {}})
    assert "document 1: metadata.name" in await failed(lab, "apply", "-f", "-", code=1, text=unnamed)


async def test_service_stops_starts_and_is_killed(lab: Lab) -> None:
    before = await children(lab)
    try:
        assert (await typed(lab, "service", "stop", "policy")).startswith("policy is ")
        stopped = (await children(lab))["policy"]
        assert (stopped["state"], stopped["ready"], stopped["last_exit"]) == ("held", False, 0)
        table = [line.split()[:4] for line in (await typed(lab, "status")).splitlines()]
        assert ["policy", "held", "no", "-"] in table
        assert "policy is not running" in await failed(lab, "service", "kill", "policy", code=1)

        assert (await typed(lab, "service", "start", "policy")).startswith("policy is ")
        await lab.child_ready("policy")
        started = (await children(lab))["policy"]
        assert started["pid"] != before["policy"]["pid"]

        assert "policy" in await typed(lab, "service", "kill", "policy")
        await eventually(lambda: not Path(f"/proc/{started['pid']}").exists())
    finally:
        await client.start_child(lab.name, "policy")
        await lab.child_ready("policy")
    again = (await children(lab))["policy"]
    assert (again["last_exit"], again["restarts"]) == (-signal.SIGKILL, started["restarts"] + 1)
    unknown = await failed(lab, "service", "stop", "nobody", code=1)
    assert "no child 'nobody'; there are nats, identity, policy, lb, datapath-node-1" in unknown
    after = await children(lab)
    assert {child for child in before if after[child]["pid"] != before[child]["pid"]} == {"policy"}


# -- kubectl ---------------------------------------------------------------------------------------


async def test_printed_kubeconfig_serves_kubectl(lab: Lab, tmp_path: Path) -> None:
    path = (await typed(lab, "kubeconfig")).removesuffix("\n")
    assert await typed(lab, "kubeconfig", "--content") == Path(path).read_text()
    assert Path(path).stat().st_mode & 0o777 == 0o600
    environment = {"KUBECONFIG": path, "KUBECACHEDIR": str(tmp_path)}

    async def kubectl(*arguments: str, text: str = "") -> str:
        done = await run([str(KUBECTL), *arguments], text=text, env=environment)
        assert (done.code, done.errors) == (0, ""), arguments
        return done.output

    async def is_frontend() -> bool:
        listed = await pods(lab)
        found: bool = listed["mine"]["identity"] == listed["frontend"]["identity"]
        return found

    mine = json.dumps(pod("mine", namespace="default", node="node-1", app="other"))
    assert await kubectl("apply", "-f", "-", text=mine) == "pod/mine created\n"
    assert "condition met" in await kubectl("wait", "--for=condition=Ready", "pod/mine", "--timeout=30s")
    listed = await pods(lab)
    assert listed["mine"]["identity"] == listed["other"]["identity"]
    (ip,) = listed["mine"]["ips"]
    wide = await kubectl("get", "pod", "mine", "--no-headers", "-o", "wide")
    assert wide.split()[:3] + wide.split()[-4:-2] == ["mine", "1/1", "Running", ip, "node-1"]
    assert ip in await kubectl("describe", "pod", "mine")

    await kubectl("label", "pod", "mine", "app=frontend", "--overwrite")
    await eventually(is_frontend)
    await lab.well()
    backend = await lab.service_ip("backend", namespace="default")
    (each,) = await tried(lab, "mine", job("new", backend))
    assert each.outcome == "open", "the policy of the demo admits frontends"

    await kubectl("annotate", "pod", "mine", "lab.stentor.io/ready=false")
    await kubectl("wait", "--for=condition=Ready=false", "pod/mine", "--timeout=30s")
    assert (await pods(lab))["mine"]["ready"] is False

    assert await kubectl("delete", "-f", "-", text=mine) == 'pod "mine" deleted from default namespace\n'
    assert namespaces.inode(Path(listed["mine"]["netns"]).name) is None
    assert "mine" not in await pods(lab)


# -- the end ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 130)], ids=["SIGKILL", "Ctrl-C"]
)
async def test_up_that_ends_while_pods_start_leaves_what_down_removes(
    name: str, number: signal.Signals, code: int
) -> None:
    names = LabNames(name)
    records = names.node_state("node-1") / "pods"
    arguments = ("lab", "up", "--nodes", "1", "--manifests", str(DEMO), "--name", name)
    async with stentor_under_way(*arguments) as process:
        await eventually(lambda: records.is_dir() and any(records.iterdir()), every=0.005)
        os.killpg(process.pid, number)
        _, errors = await process.communicate()
        assert process.returncode == code
        assert b"Traceback" not in errors
    assert client.is_running(name), "the daemon does not depend on the command that started it"
    for _ in range(2):
        down = await stentor("lab", "down", "--name", name)
        assert down.code == 0, down.errors
        assert name in down.output
        assert remains(name) == {}
    status = await stentor("lab", "status", "--name", name)
    assert (status.code, status.output) == (2, "")
    assert f"lab {name} is not running" in status.errors
