"""`stentor bench policy`, the part about scale: a simulated cluster, and one node that is real.

A lab of one node runs the real services. Its pods are of namespaces that policies of the simulated cluster
select. Once they are there, the identity service is stopped and :mod:`bench.feeding` takes its place. Policy
service and datapath are then started from nothing, one after the other, in a lab of their own for each time;
in the last one policies and pods change one at a time.
"""

from __future__ import annotations

import asyncio
import shutil
import tempfile
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import yaml

from bench import simulation
from bench.feeding import as_identity, create_policies, feed_buckets, namespaces, realise_at_once
from bench.figures import Figure, Samples
from bench.fresh import fresh_lab
from bench.heard import Heard, hearing
from bench.load import at_rest, since, usage
from bench.processes import peak_mib, process_uses
from bench.report import Record
from bench.rows import count_rows
from bench.shown import Shown
from bench.simulation import Size
from deploy.cli.connection import open_bus
from deploy.cli.lab_state import lab_settings
from deploy.lab import client
from deploy.lab.names import LabNames
from shared.bus import Bus
from shared.contract.identity import IpEntry
from shared.contract.names import Bucket, ip_key
from shared.kubernetes import NETWORK_POLICIES, Kubernetes, Object, connect

NODE, DATAPATH = "node-1", "datapath-node-1"
PODS = 20
START_SECONDS = 120.0
CHANGE_SECONDS = 30.0
PAUSE_SECONDS = 0.2


@dataclass(frozen=True, kw_only=True)
class Scale:
    """What is measured; 0 leaves a part out."""

    size: Size
    starts: int
    changes: int
    patience: float

    @property
    def command(self) -> str:
        """The command that measures this part."""
        sizes = "".join(
            f" --{name} {value}" for name, value in vars(self.size).items() if value != getattr(Size, name)
        )
        return f"stentor bench policy --starts {self.starts} --changes {self.changes} --rounds 0{sizes}"


async def measure_scale(wanted: Scale, record: Record, *, shown: Shown) -> None:
    """In labs of its own, into ``record``."""
    starts = _Starts()
    with tempfile.TemporaryDirectory() as folder:
        manifest = Path(folder) / "pods.yaml"
        manifest.write_text(yaml.safe_dump_all([*namespaces(), *_pods()]))
        for number in range(wanted.starts):
            async with fresh_lab(nodes=1, manifests=[manifest], shown=shown) as lab:
                bench = _Bench(lab, wanted, record, shown=shown)
                await bench.measure(starts, last=number == wanted.starts - 1)


class _Starts:
    """Samples of all labs."""

    def __init__(self) -> None:
        self.policy = Samples("policy service: started to all policies published", "ms")
        self.datapath = Samples("datapath: started on an empty kernel to all realised", "ms")
        self.peak = Samples("policy service: most memory ever resident", "MiB")

    def figures(self, *, command: str) -> list[Figure | None]:
        """What was measured."""
        return [each.figure(command=command) for each in (self.policy, self.datapath, self.peak)]


class _Bench:
    def __init__(self, lab: str, wanted: Scale, record: Record, *, shown: Shown) -> None:
        self._lab = lab
        self._wanted = wanted
        self._record = record
        self._shown = shown

    async def measure(self, starts: _Starts, *, last: bool) -> None:
        lab, command = self._lab, self._wanted.command
        api = await connect(kubeconfig=str(client.kubeconfig(lab)))
        try:
            async with open_bus(lab_settings(lab)) as bus, hearing(bus, node=NODE) as heard:
                for child in ("identity", "policy", DATAPATH):
                    await client.stop_child(lab, child)
                async with as_identity(lab) as writer:
                    await self._feed(api, writer)
                    async with _running(realise_at_once(writer)):
                        ipcache = await writer.bucket(Bucket.IPCACHE, as_type=IpEntry)
                        await self._start(heard, starts, addresses=await ipcache.last_revision())
                        if last:
                            self._record.add(starts.figures(command=command))
                            await self._changes(api, heard)
                            await self._new_pods(writer, heard)
                            await self._rows(bus, heard)
                            self._record.processes += await process_uses(lab, command=command)
        finally:
            await api.close()

    async def _rows(self, bus: Bus, heard: Heard) -> None:
        if heard.record is not None:
            self._record.add(await count_rows(bus, heard.record, command=self._wanted.command))

    async def _feed(self, api: Kubernetes, writer: Bus) -> None:
        size = self._wanted.size
        total = simulation.NODES + size.identities + size.addresses
        with self._shown.part("telling NATS of identities and addresses", total=total) as advance:
            await feed_buckets(writer, size, advance=advance)
        with self._shown.part("creating policies", total=size.policies) as advance:
            await create_policies(api, simulation.policies(size), advance=advance)

    async def _start(self, heard: Heard, starts: _Starts, *, addresses: int) -> None:
        """``addresses`` is the last revision of the ipcache."""
        self._shown.tell("starting the policy service from nothing")
        await at_rest(patience=self._wanted.patience)
        heard.forget()
        before, began = usage(), time.perf_counter()
        await client.start_child(self._lab, "policy")
        commit = await heard.commit_of(self._wanted.size.policies, seconds=START_SECONDS)
        starts.policy.add((commit.at - began) * 1000, quiet=since(before).quiet)
        # What comes next would have to share the processors with the writing of all statuses.
        await heard.statuses(self._wanted.size.policies, seconds=START_SECONDS)
        self._shown.tell("starting the datapath on an empty kernel")
        shutil.rmtree(LabNames(self._lab).bpffs(NODE))
        await at_rest(patience=self._wanted.patience)
        before, began = usage(), time.perf_counter()
        await client.start_child(self._lab, DATAPATH)
        realised = max(
            await heard.policy(commit.revision, seconds=START_SECONDS),
            await heard.ipcache(addresses, seconds=START_SECONDS),
        )
        starts.datapath.add((realised - began) * 1000, quiet=since(before).quiet)
        for child in (await client.status(self._lab)).children:
            if child.name == "policy":
                starts.peak.add(peak_mib(child.pid), quiet=True)

    async def _changes(self, api: Kubernetes, heard: Heard) -> None:
        samples = {
            kind: Samples(f"policy {kind}: request sent to realised", "ms")
            for kind in ("added", "changed", "removed")
        }
        count = self._wanted.size.policies
        with self._shown.part("policies, one at a time", total=self._wanted.changes * 3) as advance:
            for number in range(self._wanted.changes):
                body = _changing(number)
                namespace, name = body["metadata"]["namespace"], body["metadata"]["name"]
                path = NETWORK_POLICIES.path(namespace=namespace, name=name)

                async def add(body: Object = body, namespace: str = namespace) -> float:
                    made = await api.create(NETWORK_POLICIES, body, namespace=namespace)
                    return await _in_force(made, heard)

                async def change(path: str = path) -> float:
                    changed = await api.request("GET", path)
                    changed["spec"]["ingress"][0]["ports"][0]["port"] = 81
                    return await _in_force(await api.request("PUT", path, body=changed), heard)

                async def remove(path: str = path) -> float:
                    await api.request("DELETE", path)
                    commit = await heard.commit_of(count, seconds=CHANGE_SECONDS)
                    return await heard.policy(commit.revision, seconds=CHANGE_SECONDS)

                for kind, act in (("added", add), ("changed", change), ("removed", remove)):
                    await asyncio.sleep(PAUSE_SECONDS)
                    await at_rest(patience=self._wanted.patience)
                    before, began = usage(), time.perf_counter()
                    done = await act()
                    samples[kind].add((done - began) * 1000, quiet=since(before).quiet)
                    advance()
        self._record.add(each.figure(command=self._wanted.command) for each in samples.values())

    async def _new_pods(self, writer: Bus, heard: Heard) -> None:
        samples = Samples("new pod of a known label set: told on NATS to realised", "ms")
        store = await writer.bucket(Bucket.IPCACHE, as_type=IpEntry)
        with self._shown.part("pods, one at a time", total=self._wanted.changes) as advance:
            for number in range(self._wanted.changes):
                entry = simulation.ip_entry(self._wanted.size.addresses + number, self._wanted.size)
                await asyncio.sleep(PAUSE_SECONDS)
                await at_rest(patience=self._wanted.patience)
                before, began = usage(), time.perf_counter()
                revision = await store.put(ip_key(entry.ip), entry)
                done = await heard.ipcache(revision, seconds=CHANGE_SECONDS)
                samples.add((done - began) * 1000, quiet=since(before).quiet)
                advance()
        self._record.add([samples.figure(command=self._wanted.command)])


@asynccontextmanager
async def _running(work: Coroutine[None, None, None]) -> AsyncIterator[None]:
    task = asyncio.ensure_future(work)
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])


async def _in_force(answer: Object, heard: Heard) -> float:
    version = await heard.version(answer["metadata"]["resourceVersion"], seconds=CHANGE_SECONDS)
    return max(version.at, await heard.policy(version.revision, seconds=CHANGE_SECONDS))


def _pods() -> list[Object]:
    """Real pods, each of another app and namespace of the simulated cluster."""
    return [
        {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": f"bench-{number}",
                "namespace": simulation.namespace_name(number),
                "labels": simulation.pod_labels(number),
            },
            "spec": {"nodeName": NODE, "containers": [{"name": "nginx", "image": "nginx:latest"}]},
        }
        for number in range(PODS)
    ]


def _changing(number: int) -> Object:
    """A policy that selects a real pod, with peers that other policies have too."""
    home = number % PODS
    choice = simulation.peers(Size())
    return simulation.policy(
        f"bench-{number}",
        namespace=simulation.namespace_name(home),
        subject={"matchLabels": simulation.pod_labels(home)},
        peers=[choice[(number * 3 + each) % len(choice)] for each in range(3)],
    )
