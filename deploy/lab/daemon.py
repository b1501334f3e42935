"""The lab's one long-lived process: ``python -m deploy.lab.daemon --options JSON [--progress-fd N]``.

It makes the network, hosts the API server and its controllers (or uses a real API server), runs a kubelet for
each node and relays into the nodes, and supervises NATS and Stentor's services. It tells its progress as
lines of JSON on the given descriptor, which it closes once the lab is ready or has failed to become so; a lab
that failed stays up to be looked at.

SIGTERM, SIGINT and the control API's shutdown end it in order: datapaths, services, NATS. Whatever else ends
it takes its children along (PDEATHSIG) and leaves namespaces, pins and cgroups, which
:mod:`deploy.lab.teardown` removes. The machine's own network namespace is never changed.
"""

from __future__ import annotations

import argparse
import asyncio
import contextlib
import fcntl
import logging
import os
import shutil
import signal
import sys
from collections.abc import Sequence
from pathlib import Path

import msgspec
import uvloop

from deploy.lab import children, kernelfs, processes, readiness, topology
from deploy.lab.apiserver import ApiServer
from deploy.lab.cni import CniRuntime, stentor_list
from deploy.lab.control import serve_control
from deploy.lab.controllers import Controllers
from deploy.lab.errors import LabError, LabExistsError, MachineError, NotReadyError
from deploy.lab.kubelet import Kubelet
from deploy.lab.manifests import Applier
from deploy.lab.names import MARK, LabNames
from deploy.lab.node_object import is_machine
from deploy.lab.pods import PodView
from deploy.lab.relay import Place, Relay, free_port
from deploy.lab.sandbox import NodeContext
from deploy.lab.state import (
    AppliedObject,
    EnableOn,
    LabOptions,
    LabRecord,
    LabStatus,
    Phase,
    Progress,
    write_private,
)
from deploy.lab.supervisor import Child, Supervisor
from shared.kubernetes import NODES, Kubernetes, KubernetesError, connect

log = logging.getLogger(__name__)

PROGRAMS = ("nsenter", "setpriv", "mount", "nats-server")
START_SECONDS = 90.0


class _Stop(Exception):
    """Ends the daemon's task group."""


class ProgressPipe:
    """Tells ``up`` how far the lab is; once nobody listens it tells nobody."""

    def __init__(self, descriptor: int | None) -> None:
        self._descriptor = descriptor

    def tell(self, progress: Progress) -> None:
        """One line."""
        log.info("%s", progress.text)
        if self._descriptor is None:
            return
        try:
            os.write(self._descriptor, msgspec.json.encode(progress) + b"\n")
        except OSError:
            self.close()

    def close(self) -> None:
        """No more will follow."""
        if self._descriptor is not None:
            os.close(self._descriptor)
        self._descriptor = None


class Lab:
    """One lab, from its making to the end of its daemon."""

    def __init__(self, options: LabOptions, *, progress: ProgressPipe) -> None:
        self.names = LabNames(options.name)
        plan = topology.plan(
            self.names, nodes=options.nodes, ip_family=options.ip_family, outside=options.outside
        )
        self.record = LabRecord(options=options, plan=plan)
        self.phase = Phase.STARTING
        self.problem = ""
        self._progress = progress
        self._stop = asyncio.Event()
        self._supervisor: Supervisor | None = None
        self._kubelets: list[Kubelet] = []
        self._api: Kubernetes | None = None
        self._cgroup_root = Path("/")

    async def run(self) -> None:
        """Until it is told to stop, or a part fails that cannot be restarted."""
        try:
            async with asyncio.TaskGroup() as tasks, contextlib.AsyncExitStack() as parts:
                tasks.create_task(self._until_stopped(), name="stop")
                await parts.enter_async_context(serve_control(self, socket=self.names.control_socket))
                try:
                    await self._start(tasks, parts)
                except (LabError, KubernetesError, OSError) as error:
                    self._finish(Phase.FAILED, str(error))
                else:
                    self._finish(Phase.READY, "ready")
                await asyncio.Event().wait()
        except* _Stop:
            log.info("stopped")

    def shut_down(self) -> None:
        """Begins the orderly end."""
        self._stop.set()

    async def status(self) -> LabStatus:
        """The lab as it is."""
        supervised = self._supervisor.children if self._supervisor else ()
        return LabStatus(
            record=self.record,
            phase=self.phase,
            problem=self.problem,
            children=await readiness.child_statuses(supervised),
            pods=tuple(self._views()),
        )

    def child(self, name: str) -> Child:
        """A child by name."""
        if self._supervisor is None:
            raise LabError("the lab is not that far yet: it has no children")
        return self._supervisor.child(name)

    async def apply(self, text: str) -> list[AppliedObject]:
        """Applies manifests."""
        return await Applier(self._connected).apply(text)

    async def delete(self, text: str) -> list[AppliedObject]:
        """Deletes what manifests name."""
        return await Applier(self._connected).delete(text)

    async def wait(self, *, seconds: float) -> tuple[str, ...]:
        """Waits for all pods; why some are not ready."""
        api = self._connected
        return await readiness.wait_for_none(
            lambda: readiness.workload_reasons(api, self._views), seconds=seconds
        )

    @property
    def _connected(self) -> Kubernetes:
        if self._api is None:
            raise LabError("the lab is not that far yet: it has no API server")
        return self._api

    def _views(self) -> list[PodView]:
        return [view for kubelet in self._kubelets for view in kubelet.pods]

    async def _until_stopped(self) -> None:
        await self._stop.wait()
        raise _Stop

    def _tell(self, text: str) -> None:
        self._progress.tell(Progress(text=text))

    def _finish(self, phase: Phase, text: str) -> None:
        self.phase = phase
        self.problem = "" if phase is Phase.READY else text
        self._progress.tell(Progress(text=text, phase=phase))
        self._progress.close()

    async def _start(self, tasks: asyncio.TaskGroup, parts: contextlib.AsyncExitStack) -> None:
        check_machine()
        await self._make_network()
        await self._start_api_server(tasks, parts)
        self._save(ports={name: free_port() for name in children.wanted_ports(self.record)})
        supervisor = await self._start_children(tasks, parts)
        self._start_kubelets(tasks)
        self._tell("waiting for the services")
        await readiness.wait_until_ready(supervisor.children, seconds=START_SECONDS)
        for kubelet in self._kubelets:
            try:
                await asyncio.wait_for(kubelet.registered.wait(), START_SECONDS)
            except TimeoutError:
                raise NotReadyError(f"Node {kubelet.node} could not be written to the API server") from None

    async def _make_network(self) -> None:
        plan = self.record.plan
        self._tell(f"network of {len(plan.nodes)} nodes")
        await asyncio.to_thread(topology.build, plan)
        await asyncio.to_thread(kernelfs.ensure_bpffs)
        self._cgroup_root = await asyncio.to_thread(kernelfs.cgroup_root)
        for node in plan.nodes:
            kernelfs.make_directory(self.names.bpffs(node.name))
            kernelfs.make_directory(self.names.cgroup(node.name, root=self._cgroup_root))
            folder = self.names.node_state(node.name)
            (folder / "datapath").mkdir(mode=0o700, parents=True, exist_ok=True)
            network_list = stentor_list(socket=self.names.cni_socket(node.name))
            write_private(folder / "10-stentor.conflist", msgspec.json.encode(network_list))

    async def _start_api_server(self, tasks: asyncio.TaskGroup, parts: contextlib.AsyncExitStack) -> None:
        given = self.record.options.kubeconfig
        if given is None:
            self._tell("API server and controllers")
            families = self.record.plan.ip_family
            server = ApiServer(service_cidrs=families.choose(topology.SERVICES_V4, topology.SERVICES_V6))
            await server.start()
            parts.push_async_callback(server.stop)
            write_private(self.names.kubeconfig, server.kubeconfig().encode())
            controllers = Controllers(kubeconfig=self.names.kubeconfig)
            tasks.create_task(controllers.run(), name="controllers")
        self._save(kubeconfig=given or str(self.names.kubeconfig))
        self._api = await connect(kubeconfig=self.record.kubeconfig)
        parts.push_async_callback(self._api.close)
        if given is not None:
            nodes = [node.name for node in self.record.plan.nodes]
            await check_cluster(self._api, kubeconfig=given, nodes=nodes)

    async def _start_children(self, tasks: asyncio.TaskGroup, parts: contextlib.AsyncExitStack) -> Supervisor:
        ports = self.record.ports
        self._tell("NATS and services")
        layout = children.write_nats(self.names, self.record)
        for node in self.record.plan.nodes:
            inside = Place(namespace=node.namespace, port=children.NODE_NATS_PORT)
            outside = Place(namespace=None, port=ports[children.NATS])
            await parts.enter_async_context(Relay(f"{node.name} NATS", listen=inside, target=outside))
            child = children.datapath_child(node.name)
            if child in ports:
                inside = Place(namespace=node.namespace, port=children.NODE_HTTP_PORT)
                outside = Place(namespace=None, port=ports[child])
                await parts.enter_async_context(Relay(f"{node.name} HTTP", listen=outside, target=inside))
        supervisor = Supervisor(
            tasks, logs=self.names.logs, records=self.names.processes, env={MARK: str(self.names.state)}
        )
        await parts.enter_async_context(supervisor)
        supervisor.add(children.nats_child(layout, port=ports[children.NATS]))
        for spec in children.service_children(self.names, self.record, layout):
            supervisor.add(spec)
        self._supervisor = supervisor
        return supervisor

    def _start_kubelets(self, tasks: asyncio.TaskGroup) -> None:
        for node in self.record.plan.nodes:
            configuration = self.names.node_state(node.name) / "10-stentor.conflist"
            context = NodeContext(
                names=self.names,
                host=node,
                ip_family=self.record.plan.ip_family,
                cgroup_root=self._cgroup_root,
                cni=CniRuntime(configuration, node_namespace=node.namespace),
            )
            kubelet = Kubelet(
                context,
                api=self._connected,
                use_cilium=self.record.options.enable_on is EnableOn.ALL,
            )
            self._kubelets.append(kubelet)
            tasks.create_task(kubelet.run(), name=f"kubelet {node.name}")

    def _save(self, *, ports: dict[str, int] | None = None, kubeconfig: str | None = None) -> None:
        if ports is not None:
            self.record = msgspec.structs.replace(self.record, ports=ports)
        if kubeconfig is not None:
            self.record = msgspec.structs.replace(self.record, kubeconfig=kubeconfig)
        write_private(self.names.record, msgspec.json.encode(self.record))


def check_machine() -> None:
    """Raises MachineError naming what is missing."""
    if os.geteuid() != 0:
        raise MachineError("the lab makes network namespaces and loads eBPF: run it as root")
    missing = [program for program in PROGRAMS if shutil.which(program) is None]
    if missing:
        raise MachineError(f"these programs are not installed: {', '.join(missing)}; run ./stentor setup")


async def check_cluster(api: Kubernetes, *, kubeconfig: str, nodes: Sequence[str]) -> None:
    """Raises LabError when a given API server does not answer, or the lab's nodes are machines there."""
    try:
        listed = await api.request("GET", NODES.path())
    except KubernetesError as error:
        raise NotReadyError(f"the API server of {kubeconfig} cannot be used: {error}") from error
    taken = [
        item["metadata"]["name"]
        for item in listed.get("items") or []
        if item["metadata"]["name"] in nodes and is_machine(item)
    ]
    if taken:
        raise LabError(f"the cluster of {kubeconfig} has machines of its own named {', '.join(taken)}")


async def serve(options: LabOptions, *, progress: ProgressPipe) -> None:
    """Runs one lab in this process.

    Raises LabExistsError when another daemon has it.
    """
    names = LabNames(options.name)
    kernelfs.make_directory(names.state)
    with names.lock.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise LabExistsError(f"lab {options.name} is running; see `stentor lab status`") from None
        own = processes.identify(os.getpid())
        if own is not None:
            processes.write_record(names.daemon_record, own)
        lab = Lab(options, progress=progress)
        loop = asyncio.get_running_loop()
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, lab.shut_down)
        await lab.run()


def main() -> int:
    """Runs until the lab's end; the exit code."""
    parser = argparse.ArgumentParser(prog="stentor-lab-daemon")
    parser.add_argument("--options", required=True, help="LabOptions as JSON")
    parser.add_argument("--progress-fd", type=int, help="descriptor for lines of Progress")
    given = parser.parse_args()
    logging.basicConfig(
        level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s", stream=sys.stderr
    )
    if given.progress_fd is not None:
        os.set_inheritable(given.progress_fd, False)
    progress = ProgressPipe(given.progress_fd)
    try:
        options = msgspec.json.decode(given.options, type=LabOptions)
        uvloop.run(serve(options, progress=progress))
    except (LabError, ValueError) as error:
        progress.tell(Progress(text=str(error), phase=Phase.FAILED))
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
