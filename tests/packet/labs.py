"""Labs for scenario tests: real services, NATS, kernel and packets, driven by kubectl and the command line.

Everything a lab makes carries the name of the run (:mod:`tests.packet.runs`). Programs that tests start in it
die with the test process.
"""

from __future__ import annotations

import asyncio
import json
import os
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nats

from deploy.cli.cluster import Cluster, read_cluster
from deploy.cli.connection import open_bus
from deploy.cli.lab_state import lab_settings
from deploy.cli.policy_wait import network_policies
from deploy.cli.status import gather
from deploy.cli.waiting import wait_for_policies
from deploy.lab import client, kernelfs, namespaces, processes
from deploy.lab.names import BPFFS, LabNames
from deploy.lab.pods import PodView
from deploy.lab.state import EnableOn, Phase
from deploy.lab.supervisor import ChildState, bound_to_parent
from deploy.lab.topology import UPLINK, IpFamily
from deploy.nats import NatsLayout
from services.datapath.endpoints import HOST_IFNAME_PREFIX
from services.datapath.kernel.maps import KernelMap
from shared.bus import Bus
from tests.packet.manifests import Object, namespace

REPOSITORY = Path(__file__).resolve().parents[2]
DEMO = REPOSITORY / "deploy" / "manifests" / "demo"
KUBECTL = Path(sys.executable).parent / "kubectl"
PATIENCE_SECONDS = 30.0
"""For what takes a moment, on a machine that is busy with something else."""


async def eventually(
    check: Callable[[], Any], *, seconds: float = PATIENCE_SECONDS, every: float = 0.02
) -> Any:
    """The first true result of ``check``; fails with the last one."""
    result: Any = None
    deadline = time.monotonic() + seconds
    while True:
        result = check()
        if isinstance(result, Awaitable):
            result = await result
        if result:
            return result
        assert time.monotonic() < deadline, f"not within {seconds:g} s; the last result was {result!r}"
        await asyncio.sleep(every)


@dataclass(frozen=True)
class Finished:
    """A program that has ended."""

    code: int
    output: str
    errors: str


async def run(command: list[str], *, text: str = "", env: dict[str, str] | None = None) -> Finished:
    """Runs a program to its end."""
    process = await asyncio.create_subprocess_exec(
        *bound_to_parent(tuple(command), namespace=None),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=REPOSITORY,
        env={**os.environ, **(env or {})},
    )
    try:
        output, errors = await process.communicate(text.encode())
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return Finished(process.returncode or 0, output.decode(), errors.decode())


async def stentor(*arguments: str, text: str = "", **variables: str) -> Finished:
    """The program from beginning to end, as a user runs it; ``text`` is its standard input."""
    return await run([sys.executable, "-m", "deploy.cli", *arguments], text=text, env=variables)


@asynccontextmanager
async def stentor_under_way(*arguments: str, **variables: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """The program at work, in a process group of its own like a shell's job; killed if it has not ended."""
    process = await asyncio.create_subprocess_exec(
        *bound_to_parent((sys.executable, "-m", "deploy.cli", *arguments), namespace=None),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        cwd=REPOSITORY,
        env={**os.environ, **variables},
        start_new_session=True,
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.wait()


def remains(name: str) -> dict[str, object]:
    """All that there is of a lab on this machine, by kind."""
    names = LabNames(name)
    found = {
        "namespaces": namespaces.names(names.prefix),
        "state": [names.state] if names.state.exists() else [],
        "pins": list((BPFFS / "stentor").glob(f"{name}-*")),
        "cgroups": [path for root in kernelfs.mounted("cgroup2") for path in root.glob(f"stentor/{name}-*")],
        "processes": processes.marked(names.state),
    }
    return {kind: each for kind, each in found.items() if each}


@contextmanager
def running_lab(
    name: str,
    *,
    nodes: int = 2,
    outside: int = 0,
    enable_on: EnableOn = EnableOn.ALL,
    ip_family: IpFamily = IpFamily.V4,
    datapath_args: tuple[str, ...] = (),
) -> Iterator[Lab]:
    """A lab that is ready; removed in the end. For fixtures of any scope: it uses its own event loop only."""
    try:
        status = asyncio.run(
            client.up(
                name,
                nodes=nodes,
                outside=outside,
                enable_on=enable_on.value,
                ip_family=ip_family.value,
                datapath_args=datapath_args,
            )
        )
        assert status.phase is Phase.READY
        yield Lab(name)
    finally:
        asyncio.run(client.down(name))


class Lab:
    """A running lab."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.names = LabNames(name)

    # -- the user's tools ----------------------------------------------------------------------------

    async def cli(self, *arguments: str) -> Finished:
        """``stentor ARGUMENTS``, about this lab."""
        return await run(
            [sys.executable, "-m", "deploy.cli", *arguments], env={"STENTOR_LAB": self.name, "COLUMNS": "200"}
        )

    async def kubectl(self, *arguments: str, text: str = "") -> str:
        """The output of kubectl, which must succeed."""
        where = ("--kubeconfig", str(client.kubeconfig(self.name)))
        cache = ("--cache-dir", str(self.names.state / "kubectl"))
        done = await run([str(KUBECTL), *where, *cache, *arguments], text=text)
        assert done.code == 0, f"kubectl {' '.join(arguments)}: {done.errors}"
        return done.output

    async def apply(self, *objects: Object) -> None:
        """``kubectl apply``."""
        await self.kubectl("apply", "-f", "-", text=_documents(objects))

    async def delete(self, *objects: Object) -> None:
        """``kubectl delete``, waiting until they are gone."""
        await self.kubectl("delete", "-f", "-", text=_documents(objects))

    async def get(self, *arguments: str) -> Any:
        """``kubectl get -o json``."""
        return json.loads(await self.kubectl("get", *arguments, "-o", "json"))

    async def pods_ready(self, *pods: str, namespace: str, seconds: int = 60) -> None:
        """Waits for these pods, or all of a namespace."""
        waiting: set[str] = set()

        async def are_ready() -> bool:
            nonlocal waiting
            # Not kubectl's own wait, which looks at one pod after the other, and at few of them in a second.
            items = (await self.get("pods", "-n", namespace))["items"]
            ready = {each["metadata"]["name"] for each in items if _is_ready(each)}
            waiting = (set(pods) or {each["metadata"]["name"] for each in items}) - ready
            return bool(items) and not waiting

        try:
            await eventually(are_ready, seconds=seconds, every=0.1)
        except AssertionError:
            told = ", ".join(sorted(waiting)) or "none is there"
            raise AssertionError(f"pods of {namespace} not ready after {seconds} s: {told}") from None

    async def policies_in_force(self) -> None:
        """What ``stentor policy wait`` waits for, without a process of its own."""
        awaited = "nothing"

        def tell(text: str) -> None:
            nonlocal awaited
            awaited = text

        async with self.bus() as bus, network_policies(client.kubeconfig(self.name)) as list_policies:
            try:
                async with asyncio.timeout(PATIENCE_SECONDS):
                    done = await wait_for_policies(bus, only=None, list_policies=list_policies, tell=tell)
            except TimeoutError:
                raise AssertionError(f"after {PATIENCE_SECONDS:g} s still {awaited}") from None
        assert done.refused == ()

    async def make_namespace(self, name: str, *objects: Object, **labels: str) -> None:
        """A namespace with objects, all its pods ready and its policies in force."""
        await self.apply(namespace(name, **labels), *objects)
        if pods := sum(item["kind"] == "Pod" for item in objects):
            # Each is a few processes to start: many take longer than few.
            await self.pods_ready(namespace=name, seconds=60 + pods)
        if any(item["kind"] == "NetworkPolicy" for item in objects):
            await self.policies_in_force()

    async def remove_namespace(self, name: str) -> None:
        """Removes a namespace, if there is one, and returns when all that was in it is gone."""
        await self.kubectl("delete", "namespace", name, "--ignore-not-found")

    @asynccontextmanager
    async def namespace(self, name: str, *objects: Object, **labels: str) -> AsyncIterator[str]:
        """As :meth:`make_namespace`; gone in the end."""
        try:
            await self.make_namespace(name, *objects, **labels)
            yield name
        finally:
            await self.remove_namespace(name)

    @contextmanager
    def lasting_namespace(self, name: str, *objects: Object, **labels: str) -> Iterator[str]:
        """The same for fixtures that serve several tests: uses no event loop but its own."""
        try:
            asyncio.run(self.make_namespace(name, *objects, **labels))
            yield name
        finally:
            asyncio.run(self.remove_namespace(name))

    # -- what there is -------------------------------------------------------------------------------

    def pod(self, name: str, *, namespace: str = "default") -> PodView:
        """A running pod by name, or the first of a workload."""
        return client.find_pod(self.name, name, namespace=namespace)

    def ip(self, name: str, *, namespace: str = "default") -> str:
        """A pod's address."""
        return self.pod(name, namespace=namespace).ips[0]

    def node_ip(self, node: str) -> str:
        """A node's address."""
        return next(host.ips[0] for host in client.record(self.name).plan.nodes if host.name == node)

    @property
    def nodes(self) -> list[str]:
        """The nodes' names."""
        return [host.name for host in client.record(self.name).plan.nodes]

    async def service_ip(self, name: str, *, namespace: str) -> str:
        """A Service's address, once every node's kernel has the Service."""
        found: str = (await self.get("service", name, "-n", namespace))["spec"]["clusterIP"]
        await self.well()
        return found

    @contextmanager
    def map(self, node: str, name: str, *, key: int, value: int) -> Iterator[KernelMap]:
        """A node's pinned map; sizes of key and value in bytes."""
        (folder,) = self.names.bpffs(node).glob("maps-*")
        opened = KernelMap(name, path=folder / name, key_size=key, value_size=value)
        try:
            yield opened
        finally:
            opened.close()

    # -- NATS ----------------------------------------------------------------------------------------

    @asynccontextmanager
    async def bus(self) -> AsyncIterator[Bus]:
        """A connection of one who only reads."""
        async with open_bus(lab_settings(self.name)) as bus:
            yield bus

    async def cluster(self) -> Cluster:
        """What all buckets say."""
        async with self.bus() as bus:
            return await read_cluster(bus)

    async def well(self, *, seconds: float = PATIENCE_SECONDS) -> None:
        """Waits until nothing is amiss: every node holds the latest of everything. See ``stentor status``."""
        problems: tuple[str, ...] = ()

        async def no_problem() -> bool:
            nonlocal problems
            problems = (await gather(bus)).problems
            return not problems

        async with self.bus() as bus:
            try:
                await eventually(no_problem, seconds=seconds)
            except AssertionError:
                raise AssertionError(f"after {seconds:g} s: " + "; ".join(problems)) from None

    @asynccontextmanager
    async def heard(
        self, subject: str, *, keep: Callable[[dict[str, Any]], bool] = lambda message: True
    ) -> AsyncIterator[list[dict[str, Any]]]:
        """What an ordinary NATS client with the reader's password hears and keeps, from now on."""
        found: list[dict[str, Any]] = []
        layout = NatsLayout.below(self.names.nats)
        connection = await nats.connect(
            f"nats://127.0.0.1:{client.record(self.name).ports['nats']}",
            user="reader",
            password=layout.password_file("reader").read_text().strip(),
            inbox_prefix=b"_INBOX.reader",
        )

        async def take(message: Any) -> None:
            told = json.loads(message.data)
            if keep(told):
                found.append(told)

        try:
            await connection.subscribe(f"stentor.{self.name}.{subject}", cb=take)
            await connection.flush()
            yield found
        finally:
            await connection.close()

    # -- processes -----------------------------------------------------------------------------------

    @asynccontextmanager
    async def killed(self, child: str) -> AsyncIterator[None]:
        """A child of the lab dies by SIGKILL and stays dead inside the context."""
        await client.hold_child(self.name, child)
        await client.kill_child(self.name, child)

        async def is_down() -> bool:
            return (await self._child(child)).state is ChildState.HELD

        try:
            await eventually(is_down)
            yield
        finally:
            await client.start_child(self.name, child)

    async def child_ready(self, child: str) -> None:
        """Waits until a child of the lab says that it is ready."""

        async def ready() -> bool:
            return (await self._child(child)).ready is True

        await eventually(ready, every=0.1)

    async def _child(self, name: str) -> Any:
        children = (await client.status(self.name)).children
        return next(child for child in children if child.name == name)


def _is_ready(pod: Object) -> bool:
    conditions = pod.get("status", {}).get("conditions", [])
    return any(each["type"] == "Ready" and each["status"] == "True" for each in conditions)


def _documents(objects: tuple[Object, ...]) -> str:
    """As one YAML stream, of which JSON is a part."""
    return "\n---\n".join(map(json.dumps, objects))


def in_node(lab: Lab, node: str, *command: str) -> str:
    """The output of a program in a node's network namespace."""
    argv = client.host_command(lab.name, node, command)
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def interfaces(lab: Lab, node: str) -> list[str]:
    """A node's uplink and the host sides of its pods' links."""
    links = json.loads(in_node(lab, node, "ip", "-json", "link", "show"))
    names = [str(link["ifname"]) for link in links]
    return [name for name in names if name == UPLINK or name.startswith(HOST_IFNAME_PREFIX)]


def programs(lab: Lab, node: str) -> dict[tuple[str, str], int]:
    """The tc programs on a node: (interface, side) to the program's id in the kernel."""
    found = {}
    for name in interfaces(lab, node):
        for side in ("ingress", "egress"):
            shown = in_node(lab, node, "tc", "-json", "filter", "show", "dev", name, side)
            listed = json.loads(shown or "[]")
            for entry in listed:
                if "prog" in entry.get("options", {}):
                    found[name, side] = int(entry["options"]["prog"]["id"])
    return found
