"""`stentor demo`: a network policy taking effect, with real pods and packets.

Makes a lab, shows who reaches whom, applies the policy, waits until it is in force everywhere, and shows it
again with the flows. Succeeds only if both matrices are as they must be and a dropped flow named the policy.
The lab is removed however the story ends, also on Ctrl-C or SIGTERM, unless it is to be kept.
"""

from __future__ import annotations

import asyncio
import os
import signal
import time
from collections.abc import Mapping, Sequence
from contextlib import aclosing
from pathlib import Path

from deploy.cli.cluster import Cluster, read_cluster
from deploy.cli.connection import open_bus
from deploy.cli.errors import INTERRUPTED, UnfitError, Unmet
from deploy.cli.flowtext import flow_line
from deploy.cli.lab_commands import lab_errors, read_pods, require_fit_machine, require_root
from deploy.cli.lab_state import DEFAULT_LAB, LAB_VARIABLE, lab_kubeconfig, lab_runs, lab_settings
from deploy.cli.matrix import Matrix, Outcome, Pods, Probe, expected_after, expected_before, judge, plan
from deploy.cli.observe import FlowFilter, flows
from deploy.cli.output import Progress, progress, say, say_table, styled
from deploy.cli.policy_wait import network_policies, refusal
from deploy.cli.probing import run_probes
from deploy.cli.shapes import PodItem
from deploy.cli.status import behind, endpoint_problems, latest_revisions
from deploy.cli.waiting import wait_for_policies
from deploy.lab import client
from deploy.lab.errors import LabExistsError
from shared.bus import Bus
from shared.contract.base import Direction
from shared.contract.flow import Flow, Verdict
from shared.contract.names import Bucket, service_key
from shared.contract.node import Realised
from shared.contract.service import ServiceRecord

MANIFESTS = Path(__file__).resolve().parents[1] / "manifests" / "demo"
WORKLOADS = (
    "frontend-deployment.yaml",
    "backend-deployment.yaml",
    "backend-service.yaml",
    "other-pod.yaml",
)
POLICY_FILE = "frontend-to-backend-allow.yaml"
POLICY = ("default", "allow-frontend-to-backend")
NAMESPACE, SERVICE = "default", "backend"
REPLICAS = 2
READY_SECONDS = 30.0
FLOW_SECONDS = 5.0


class Story:
    """One run of the demo in a lab of its own."""

    def __init__(self, lab: str, *, shown: Progress) -> None:
        self.lab = lab
        self.faults: list[str] = []
        self._shown = shown
        self._step = 0
        self._began = time.monotonic()

    def step(self, text: str) -> None:
        """Begins a chapter."""
        self._shown.clear()
        self._step += 1
        line = styled(f"[{self._step}] ", "bold cyan").append(styled(text, "bold"))
        say(line.append(styled(f"  ({time.monotonic() - self._began:.0f} s)", "dim")))

    async def tell(self) -> None:
        """From the making of the lab to the last matrix."""
        self.step(f"a lab of two nodes, with frontends, backends and another pod: {self.lab}")
        files = [MANIFESTS / name for name in WORKLOADS]
        await client.up(self.lab, nodes=2, manifests=files, tell=self._shown.update)
        async with open_bus(lab_settings(self.lab)) as bus:
            service_ip = await self._until_served(bus)
            pods = self._pods(await read_pods(self.lab))
            probes = plan(pods, service_ip=service_ip)
            self.step("before any policy: everybody reaches everybody")
            expected = {probe.id: expected_before(probe) for probe in probes}
            self._say_matrix(await self._probe(pods, probes, expected))
            self.step(f"NetworkPolicy {'/'.join(POLICY)}: only frontends may reach backends, on port 80")
            say((MANIFESTS / POLICY_FILE).read_text().rstrip(), style="dim")
            await client.apply(self.lab, MANIFESTS / POLICY_FILE)
            await self._until_in_force(bus)
            self.step("the same connections again, and what the nodes tell of them (first of each kind)")
            expected = {probe.id: expected_after(probe, part=pods.part(probe.source)) for probe in probes}
            standing, named = asyncio.Event(), asyncio.Event()
            async with asyncio.TaskGroup() as group:
                listening = group.create_task(self._show_flows(bus, pods, standing, named), name="flows")
                await standing.wait()
                matrix = await self._probe(pods, probes, expected)
                await self._until_named(named)
                listening.cancel()
            self._say_matrix(matrix)

    def _pods(self, items: Sequence[PodItem]) -> Pods:
        named = {
            part: [item for item in items if item.namespace == NAMESPACE and item.name.startswith(part)]
            for part in ("frontend", "backend", "other")
        }
        return Pods(frontend=named["frontend"], backend=named["backend"], other=named["other"])

    async def _until_served(self, bus: Bus) -> str:
        """The Service's address, once every node serves it and knows every pod."""
        self._shown.update("waiting until every node knows every pod and the Service")
        reason = "no node has reported"
        store = await bus.bucket(Bucket.REALISED, as_type=Realised)
        try:
            async with asyncio.timeout(READY_SECONDS), aclosing(store.follow()) as batches:
                async for _ in batches:
                    cluster = await read_cluster(bus)
                    found = not_served(cluster)
                    if found is None:
                        return _service(cluster).cluster_ips[0]
                    reason = found
        except TimeoutError:
            raise Unmet(f"the demo's pods were not served after {READY_SECONDS:g} s: {reason}.") from None
        raise Unmet(f"the demo's pods cannot be served: {reason}.")

    async def _until_in_force(self, bus: Bus) -> None:
        began = time.monotonic()
        latest = "waiting to begin"
        self._shown.clear()
        # Shown only when it takes long: as a rule this is over in milliseconds.
        with progress() as patient:

            def tell(text: str) -> None:
                nonlocal latest
                latest = text
                patient.update(text)

            async with network_policies(lab_kubeconfig(self.lab)) as list_policies:
                try:
                    async with asyncio.timeout(READY_SECONDS):
                        outcome = await wait_for_policies(
                            bus, only=POLICY, list_policies=list_policies, tell=tell
                        )
                except TimeoutError:
                    raise Unmet(
                        f"the policy was not in force after {READY_SECONDS:g} s, still {latest}."
                    ) from None
        for status in outcome.refused:
            raise Unmet(f"{refusal(status)}.")
        took = (time.monotonic() - began) * 1000
        where = f"on {outcome.nodes} nodes (revision {outcome.revision})"
        say(f"in force {where} after {took:.0f} ms", style="green")

    async def _probe(self, pods: Pods, probes: Sequence[Probe], expected: Mapping[str, Outcome]) -> Matrix:
        results = await run_probes(self.lab, probes)
        outcomes = {probe.id: judge(probe, results.get(probe.id)) for probe in probes}
        return Matrix(pods=pods, probes=probes, outcomes=outcomes, expected=expected)

    def _say_matrix(self, matrix: Matrix) -> None:
        self._shown.clear()
        say()
        say_table(matrix.columns(), matrix.rows(), empty="no pod runs.")
        say(matrix.legend(), style="dim")
        say()
        self.faults += matrix.faults()

    async def _show_flows(self, bus: Bus, pods: Pods, standing: asyncio.Event, named: asyncio.Event) -> None:
        """Print the first flow of each kind, for ever; ``named`` is set once a drop named the policy."""
        kinds: set[tuple[str, str, int, Verdict]] = set()
        names = {item.name for item in pods.every}
        async with aclosing(flows(bus, wanted=FlowFilter(), ready=standing)) as messages:
            async for flow in messages:
                # A packet that crosses nodes is told twice; the policy is one for ingress.
                if not isinstance(flow, Flow) or flow.is_reply or flow.direction is not Direction.INGRESS:
                    continue
                source, destination = flow.source, flow.destination
                if source.pod not in names or destination.pod not in names:
                    continue
                parts = pods.part(source.pod), pods.part(destination.pod)
                kind = (*parts, destination.port, flow.verdict)
                if kind not in kinds:
                    kinds.add(kind)
                    say(flow_line(flow))
                if flow.verdict is not Verdict.DROPPED:
                    continue
                if names_policy(flow):
                    named.set()
                else:
                    self.faults.append(f"a drop does not name policy {'/'.join(POLICY)}: {flow_line(flow)}")

    async def _until_named(self, named: asyncio.Event) -> None:
        try:
            async with asyncio.timeout(FLOW_SECONDS):
                await named.wait()
        except TimeoutError:
            self.faults.append(f"no dropped flow named policy {'/'.join(POLICY)} within {FLOW_SECONDS:g} s")


def names_policy(flow: Flow) -> bool:
    """Whether the demo's policy is said to have decided."""
    policies = flow.policy.policies if flow.policy else ()
    return POLICY in {(ref.namespace, ref.name) for ref in policies}


def _service(cluster: Cluster) -> ServiceRecord:
    record = cluster.services.values.get(service_key(namespace=NAMESPACE, name=SERVICE))
    if not isinstance(record, ServiceRecord):
        raise Unmet(f"Service {NAMESPACE}/{SERVICE} was not published by the lb service.")
    return record


def not_served(cluster: Cluster) -> str | None:
    """Why the demo's connections cannot be tried yet; None when they can."""
    key = service_key(namespace=NAMESPACE, name=SERVICE)
    if key not in cluster.services.values:
        return f"Service {NAMESPACE}/{SERVICE} is not published"
    ready = sum(backend.ready for port in _service(cluster).ports for backend in port.backends)
    if ready < REPLICAS:
        return f"Service {NAMESPACE}/{SERVICE} has {ready} of {REPLICAS} backends"
    records = cluster.realised_by_node()
    latest = latest_revisions(cluster)
    for node in cluster.node_names():
        if node not in records:
            return f"node {node} has not reported"
        if late := behind(records[node], latest=latest):
            return f"node {node} {late[0]}"
    problems = endpoint_problems(cluster)
    return problems[0] if problems else None


def free_name(wanted: str | None) -> str:
    """The name asked for, or the first that no lab has."""
    if wanted is not None:
        return wanted
    first = os.environ.get(LAB_VARIABLE) or DEFAULT_LAB
    number, name = 1, first
    while name in client.labs() or lab_runs(name):
        number += 1
        name = f"{first}{number}"
    return name


async def play(lab: str, *, keep: bool) -> tuple[Story, bool]:
    """Tell the story, then remove the lab; returns it and whether it was interrupted."""
    with progress(patience=0) as shown:
        story = Story(lab, shown=shown)
        work = asyncio.create_task(story.tell(), name="demo")
        interrupted = False

        def interrupt() -> None:
            nonlocal interrupted
            if interrupted:
                say("the lab is being removed; this takes a few seconds", stderr=True)
            interrupted = True
            work.cancel()

        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, interrupt)
        try:
            await asyncio.wait([work])
        finally:
            shown.clear()
            taken = not work.cancelled() and isinstance(work.exception(), LabExistsError)
            if not keep and not taken:
                await client.down(lab, tell=shown.update)
        if not work.cancelled():
            work.result()
    return story, interrupted


def demo(*, name: str | None, keep: bool) -> int:
    """Run the demo; 0 only if everything was as it must be."""
    require_root()
    require_fit_machine()
    began = time.monotonic()
    with lab_errors():
        lab = free_name(name)
        if lab_runs(lab):
            raise UnfitError(f"lab {lab} is running already: choose another --name, or remove it.")
        story, interrupted = asyncio.run(play(lab, keep=keep))
    if interrupted:
        return INTERRUPTED
    if keep:
        say(
            f"the lab stays: `stentor lab pods --name {lab}`, `stentor status --lab {lab}`, "
            f"`stentor lab down --name {lab}`"
        )
    if story.faults:
        raise Unmet("not as it must be: " + "; ".join(story.faults) + ".")
    took = time.monotonic() - began
    say(f"every connection was allowed or denied as it must be ({took:.0f} s in all)", style="bold green")
    return 0
