"""Changes of a NetworkPolicy, one after another: how long until both nodes' kernels enforce each.

A change is in force when the policy service has said which revision holds this resourceVersion (bucket
``policy-status``) and every node has said that its kernel holds that revision (bucket ``realised``): what a
user of ``stentor policy wait`` would be told. The moments are those at which the benchmark heard of it.

The policy alternates between two ports, once by ``kubectl apply`` as its own process, once by a PUT on an
open connection.
"""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path

import yaml

from bench.figures import Figure, Samples
from bench.load import at_rest, since, usage
from bench.shown import Shown
from deploy.cli.demo import MANIFESTS, POLICY, POLICY_FILE
from deploy.cli.errors import Unmet
from shared.bus import Bus
from shared.contract.names import Bucket
from shared.contract.node import Realised
from shared.contract.policy import PolicyStatus
from shared.kubernetes import NETWORK_POLICIES, Kubernetes, Object, watch

PATIENCE_SECONDS = 30.0
PORTS = (80, 8080)
PAUSE_SECONDS = 0.1
"""Between changes by PUT: none is to wait for the cleaning up of what the last one left unused."""
NAMESPACE, NAME = POLICY


class InForce:
    """Hears of versions of the policy; the tasks of :func:`listening` must run."""

    def __init__(self, nodes: int) -> None:
        self._nodes = nodes
        self._accepted: dict[str, float] = {}
        self._published: dict[str, tuple[int, float]] = {}
        self._realised: dict[str, list[tuple[int, float]]] = {}
        self._changed = asyncio.Condition()

    async def watch(self, api: Kubernetes) -> None:
        """Hears when the API server has a version."""
        async for batch in watch(api, NETWORK_POLICIES, namespace=NAMESPACE):
            for change in batch.objects:
                self._accepted.setdefault(change.resource_version, time.perf_counter())
            await self._tell()

    async def follow_statuses(self, bus: Bus) -> None:
        """Hears which revision holds a version."""
        store = await bus.bucket(Bucket.POLICY_STATUS, as_type=PolicyStatus)
        async with aclosing(store.follow()) as batches:
            async for batch in batches:
                for entry in batch.entries:
                    status = entry.value
                    if status is not None and status.policy.name == NAME:
                        self._published.setdefault(
                            status.resource_version, (status.revision, time.perf_counter())
                        )
                await self._tell()

    async def follow_nodes(self, bus: Bus) -> None:
        """Hears which revision each kernel holds."""
        store = await bus.bucket(Bucket.REALISED, as_type=Realised)
        async with aclosing(store.follow()) as batches:
            async for batch in batches:
                for entry in batch.entries:
                    if entry.value is not None:
                        known = self._realised.setdefault(entry.key, [])
                        if not known or known[-1][0] < entry.value.policy_revision:
                            known.append((entry.value.policy_revision, time.perf_counter()))
                await self._tell()

    async def wait(self, version: str) -> tuple[float, float, float]:
        """When this version was accepted, published and in force everywhere (``time.perf_counter``)."""
        try:
            async with asyncio.timeout(PATIENCE_SECONDS), self._changed:
                await self._changed.wait_for(lambda: self._done(version) is not None)
        except TimeoutError:
            raise Unmet(f"the policy was not in force after {PATIENCE_SECONDS:g} s.") from None
        done = self._done(version)
        if done is None:
            raise AssertionError(version)
        return self._accepted[version], self._published[version][1], done

    def _done(self, version: str) -> float | None:
        if version not in self._published or version not in self._accepted:
            return None
        revision, moment = self._published[version]
        firsts = [
            next((at for held, at in known if held >= revision), None) for known in self._realised.values()
        ]
        times = [at for at in firsts if at is not None]
        return max(moment, *times) if len(times) == self._nodes else None

    async def _tell(self) -> None:
        async with self._changed:
            self._changed.notify_all()


@asynccontextmanager
async def listening(api: Kubernetes, bus: Bus, *, nodes: int) -> AsyncIterator[InForce]:
    """Hears of versions during the context."""
    in_force = InForce(nodes)
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(in_force.watch(api), name="watch policies"),
            group.create_task(in_force.follow_statuses(bus), name="follow policy statuses"),
            group.create_task(in_force.follow_nodes(bus), name="follow realised revisions"),
        ]
        try:
            yield in_force
        finally:
            for task in tasks:
                task.cancel()


class PolicyChanges:
    """The changes of one run, and the samples they give."""

    def __init__(
        self, api: Kubernetes, in_force: InForce, *, kubeconfig: Path, count: int, patience: float
    ) -> None:
        self._api = api
        self._in_force = in_force
        self._kubeconfig = kubeconfig
        self._count = count
        self._patience = patience
        self._command = f"stentor bench lab --pods 0 --changes {count} --demos 0"
        self._whole = Samples("kubectl apply: start to in force on both nodes", "ms")
        self._kubectl = Samples("kubectl apply: start to exit", "ms")
        self._after_exit = Samples("kubectl apply: exit to in force", "ms")
        self._after_accept = Samples("kubectl apply: accepted by API server to in force", "ms")
        self._put = Samples("PUT: sent to in force", "ms")
        self._after_put = Samples("PUT: answered to in force", "ms")
        self._publishing = Samples("PUT: accepted to status on NATS", "ms")

    async def make(self, shown: Shown) -> None:
        """All changes of both kinds."""
        kubectl = find_kubectl()
        if kubectl is None:
            shown.tell("kubectl is not installed: only PUT is measured")
        else:
            await self._by_kubectl(kubectl, shown)
        await self._by_put(shown)

    def figures(self) -> list[Figure | None]:
        """What was measured."""
        samples = (
            self._whole,
            self._kubectl,
            self._after_exit,
            self._after_accept,
            self._put,
            self._after_put,
            self._publishing,
        )
        return [each.figure(command=self._command) for each in samples]

    async def _by_kubectl(self, kubectl: str, shown: Shown) -> None:
        with (
            tempfile.TemporaryDirectory() as folder,
            shown.part("policy: kubectl apply", total=self._count) as advance,
        ):
            files = [Path(folder) / f"{port}.yaml" for port in PORTS]
            for file, port in zip(files, PORTS, strict=True):
                file.write_text(yaml.safe_dump(_policy(port)))
            # The first fills kubectl's cache of the API server's resources.
            for number in range(-1, self._count):
                await at_rest(patience=self._patience)
                before = usage()
                began = time.perf_counter()
                version = await self._apply(kubectl, files[number % 2], cache=Path(folder) / "cache")
                exited = time.perf_counter()
                accepted, _, done = await self._in_force.wait(version)
                quiet = since(before).quiet
                if number >= 0:
                    self._whole.add((done - began) * 1000, quiet=quiet)
                    self._kubectl.add((exited - began) * 1000, quiet=quiet)
                    self._after_exit.add((done - exited) * 1000, quiet=quiet)
                    self._after_accept.add((done - accepted) * 1000, quiet=quiet)
                    advance()

    async def _apply(self, kubectl: str, file: Path, *, cache: Path) -> str:
        process = await asyncio.create_subprocess_exec(
            kubectl,
            *("apply", "-f", str(file), "--kubeconfig", str(self._kubeconfig), "--cache-dir", str(cache)),
            *("-o", "jsonpath={.metadata.resourceVersion}"),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        output, errors = await process.communicate()
        if process.returncode != 0:
            raise Unmet(f"kubectl apply failed: {errors.decode(errors='replace').strip()}.")
        return output.decode().strip()

    async def _by_put(self, shown: Shown) -> None:
        path = NETWORK_POLICIES.path(namespace=NAMESPACE, name=NAME)
        with shown.part("policy: PUT", total=self._count) as advance:
            for _ in range(self._count):
                body = await self._current(path)
                # By the object itself: the PUT must change something whatever was there before.
                body["spec"] = _policy(PORTS[_port_of(body) == PORTS[0]])["spec"]
                await asyncio.sleep(PAUSE_SECONDS)
                await at_rest(patience=self._patience)
                before = usage()
                began = time.perf_counter()
                answer = await self._api.request("PUT", path, body=body)
                answered = time.perf_counter()
                accepted, published, done = await self._in_force.wait(answer["metadata"]["resourceVersion"])
                quiet = since(before).quiet
                self._put.add((done - began) * 1000, quiet=quiet)
                self._after_put.add((done - answered) * 1000, quiet=quiet)
                self._publishing.add((published - accepted) * 1000, quiet=quiet)
                advance()

    async def _current(self, path: str) -> Object:
        return await self._api.request("GET", path)


def find_kubectl() -> str | None:
    """The one beside this Python, else the system's."""
    beside = Path(sys.executable).with_name("kubectl")
    return str(beside) if beside.is_file() else shutil.which("kubectl")


def _policy(port: int) -> Object:
    body: Object = yaml.safe_load((MANIFESTS / POLICY_FILE).read_text())
    body["spec"]["ingress"][0]["ports"][0]["port"] = port
    return body


def _port_of(body: Object) -> int:
    return int(body["spec"]["ingress"][0]["ports"][0]["port"])
