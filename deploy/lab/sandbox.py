"""A pod on this machine: its network namespace, its CNI attachment, its server process, and their record.

The record is a file, so that a kubelet that starts again takes over the pods of the one before it, and so
that ``exec`` finds pods with no daemon running. It is written before ADD is asked for (a crash in between
leads to DEL), and again with the result.

A pod with ``hostNetwork`` has its node's namespace and no attachment.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import logging
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import msgspec

from deploy.lab import kernelfs, namespaces, topology
from deploy.lab.cni import TRY_AGAIN_LATER, Attachment, CniRuntime
from deploy.lab.errors import CniPluginError, PodError
from deploy.lab.names import MARK, LabNames
from deploy.lab.pods import Pod
from deploy.lab.records import PodRecord, write_record
from deploy.lab.supervisor import bound_to_parent
from deploy.lab.topology import HostPlan, IpFamily

log = logging.getLogger(__name__)

POD_SERVER = Path(__file__).resolve().parent / "podserver.py"
INTERFACE = "eth0"
SERVER_START_SECONDS = 20.0
SERVER_STOP_SECONDS = 2.0


@dataclass(frozen=True, kw_only=True)
class NodeContext:
    """What the pods of one node have in common."""

    names: LabNames
    host: HostPlan
    ip_family: IpFamily
    cgroup_root: Path
    cni: CniRuntime

    @property
    def records(self) -> Path:
        """Where the records of its pods are."""
        return self.names.node_state(self.host.name) / "pods"


class Sandbox:
    """One pod's share of this machine. Never used by two tasks at once."""

    def __init__(self, context: NodeContext, record: PodRecord) -> None:
        self.context = context
        self.record = record
        self._process: asyncio.subprocess.Process | None = None

    @classmethod
    def new(cls, context: NodeContext, pod: Pod) -> Sandbox:
        """Of a pod that was not here before. Makes nothing yet."""
        uid = pod.metadata.uid
        names, node = context.names, context.host
        return cls(
            context,
            PodRecord(
                uid=uid,
                namespace=pod.metadata.namespace,
                name=pod.metadata.name,
                node=node.name,
                network_namespace=node.namespace if pod.spec.host_network else names.pod_namespace(uid),
                cgroup=str(names.pod_cgroup(node.name, uid, root=context.cgroup_root)),
            ),
        )

    @property
    def ips(self) -> tuple[str, ...]:
        """The pod's addresses; empty before it is attached."""
        return self.context.host.ips if self._on_host else self.record.ips

    @property
    def running(self) -> bool:
        """Whether the server process runs."""
        return self._process is not None and self._process.returncode is None

    async def attach(self) -> None:
        """Makes the namespace and has the CNI plugin connect it.

        An attachment that a former kubelet made is kept when CHECK finds it whole. Raises CniPluginError; it
        may then be tried again.
        """
        await asyncio.to_thread(kernelfs.make_directory, Path(self.record.cgroup))
        if self._on_host:
            self._save()
            return
        if self.record.container_id and await self._still_attached():
            return
        await self._detach()
        attempt = self.record.attempt + 1
        container_id = hashlib.sha256(f"{self.record.uid}/{attempt}".encode()).hexdigest()
        self.record = msgspec.structs.replace(self.record, attempt=attempt, container_id=container_id)
        self._save()
        await asyncio.to_thread(
            topology.build_pod_namespace,
            self.record.network_namespace,
            ip_family=self.context.ip_family,
        )
        result = await self.context.cni.add(self._attachment)
        self.record = msgspec.structs.replace(self.record, result=result)
        if not self.record.ips:
            raise CniPluginError(command="ADD", code=TRY_AGAIN_LATER, message="the result has no address")
        self._save()

    async def start(self, pod: Pod, *, started_at: str) -> None:
        """Starts the server and returns when it listens.

        Raises PodError with the server's own words.
        """
        spec = {
            "pod": pod.metadata.name,
            "namespace": pod.metadata.namespace,
            "node": self.context.host.name,
            "ports": pod.server_ports(),
        }
        log_file = self._record_file.with_suffix(".log")
        with log_file.open("wb") as errors:
            process = await asyncio.create_subprocess_exec(
                *bound_to_parent(
                    (sys.executable, "-I", "-S", str(POD_SERVER), msgspec.json.encode(spec).decode()),
                    namespace=self.record.network_namespace,
                ),
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=errors,
                env={MARK: str(self.context.names.state)},
            )
        self._process = process
        (Path(self.record.cgroup) / "cgroup.procs").write_text(str(process.pid))
        try:
            said = await asyncio.wait_for(_first_line(process), SERVER_START_SECONDS)
        except TimeoutError:
            said = b""
        if said != b"ready\n":
            await self.stop()
            words = log_file.read_text(errors="replace").strip()
            raise PodError(f"{pod.title}: its server did not start: {words or 'no word from it'}")
        self.record = msgspec.structs.replace(self.record, started_at=started_at)
        self._save()

    async def ended(self) -> int:
        """Waits for the server to end; its exit code."""
        return 0 if self._process is None else await self._process.wait()

    async def stop(self) -> None:
        """Ends the server."""
        if self._process is None:
            return
        with contextlib.suppress(ProcessLookupError):
            self._process.send_signal(signal.SIGTERM)
        try:
            await asyncio.wait_for(self._process.wait(), SERVER_STOP_SECONDS)
        except TimeoutError:
            with contextlib.suppress(ProcessLookupError):
                self._process.kill()
            await self._process.wait()
        self._process = None

    async def remove(self) -> None:
        """Ends the server and undoes everything; may be repeated. Raises CniPluginError when DEL fails."""
        await self.stop()
        await self._detach()
        await asyncio.to_thread(kernelfs.remove_cgroup, Path(self.record.cgroup))
        self._record_file.unlink(missing_ok=True)
        self._record_file.with_suffix(".log").unlink(missing_ok=True)

    @property
    def _on_host(self) -> bool:
        return self.record.network_namespace == self.context.host.namespace

    @property
    def _attachment(self) -> Attachment:
        return Attachment(
            container_id=self.record.container_id,
            namespace=self.record.network_namespace,
            ifname=INTERFACE,
            arguments={
                "IgnoreUnknown": "1",
                "K8S_POD_NAMESPACE": self.record.namespace,
                "K8S_POD_NAME": self.record.name,
                "K8S_POD_INFRA_CONTAINER_ID": self.record.container_id,
                "K8S_POD_UID": self.record.uid,
            },
        )

    async def _still_attached(self) -> bool:
        if self.record.result is None or namespaces.inode(self.record.network_namespace) is None:
            return False
        try:
            await self.context.cni.check(self._attachment, result=self.record.result)
        except CniPluginError as error:
            if error.code == TRY_AGAIN_LATER:
                raise
            log.warning("Pod %s/%s is attached anew: %s", self.record.namespace, self.record.name, error)
            return False
        return True

    async def _detach(self) -> None:
        if self._on_host:
            return
        if self.record.container_id:
            await self.context.cni.delete(self._attachment, result=self.record.result)
        await asyncio.to_thread(namespaces.remove, self.record.network_namespace)
        if self.record.container_id:
            self.record = msgspec.structs.replace(self.record, container_id="", result=None)
            self._save()

    @property
    def _record_file(self) -> Path:
        return self.context.records / f"{hashlib.sha256(self.record.uid.encode()).hexdigest()[:12]}.json"

    def _save(self) -> None:
        write_record(self._record_file, self.record)


async def _first_line(process: asyncio.subprocess.Process) -> bytes:
    return b"" if process.stdout is None else await process.stdout.readline()
