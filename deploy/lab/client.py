"""What the command line does with labs: bring one up, look at it, act on it, take it down.

Everything but ``up`` and ``down`` asks the lab's daemon over its unix socket; ``exec`` needs only the records
of pods, so that it works while the daemon, or everything else, is dead. Needs root. All errors are LabErrors.
"""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import aiohttp
import msgspec

from deploy.lab import kernelfs, processes
from deploy.lab.errors import LabError, LabExistsError, LabNotFoundError, ManifestError, NotReadyError
from deploy.lab.names import MARK, STATE_ROOT, LabNames, namespace_path
from deploy.lab.pods import PodView
from deploy.lab.records import read_records
from deploy.lab.state import (
    SERVICES,
    AppliedObject,
    ChildRequest,
    EnableOn,
    LabOptions,
    LabRecord,
    LabStatus,
    Phase,
    Progress,
    Refusal,
    WaitReply,
    WaitRequest,
    read_lab,
)
from deploy.lab.supervisor import ChildStatus
from deploy.lab.topology import IpFamily

T = TypeVar("T")

Tell = Callable[[str], None]

REPOSITORY = Path(__file__).resolve().parent.parent.parent
MARGIN_SECONDS = 10.0


def silent(text: str) -> None:
    """For callers who do not want to hear of progress."""


async def up(
    name: str = "lab",
    *,
    nodes: int = 2,
    manifests: Sequence[Path] = (),
    kubeconfig: str | None = None,
    ip_family: str = "v4",
    enable_on: str = "all",
    datapath_args: Sequence[str] = (),
    outside: int = 0,
    without: Sequence[str] = (),
    wait_seconds: float = 120.0,
    tell: Tell = silent,
) -> LabStatus:
    """Makes a lab, applies the manifests, and returns when all of it is ready.

    What a dead daemon left of a lab of this name is removed first. Raises LabExistsError when it is running,
    and NotReadyError when it does not become ready; it then stays to be looked at.
    """
    names = LabNames(name)
    options = LabOptions(
        name=name,
        nodes=nodes,
        outside=outside,
        ip_family=_choice(IpFamily, ip_family, field="ip_family"),
        enable_on=_choice(EnableOn, enable_on, field="enable_on"),
        kubeconfig=str(Path(kubeconfig).resolve()) if kubeconfig is not None else None,
        datapath_args=tuple(datapath_args),
        without=tuple(without),
    )
    unknown = sorted(set(without) - set(SERVICES))
    if unknown:
        raise LabError(f"without: no service {', '.join(unknown)}; there are {', '.join(SERVICES)}")
    texts = [_read_manifests(path) for path in manifests]
    if is_running(name):
        raise LabExistsError(f"lab {name} is running; `stentor lab down --name {name}` removes it")
    await down(name, tell=tell)
    kernelfs.make_directory(names.state)
    await _start_daemon(names, options, tell=tell)
    for text in texts:
        for applied in await _apply(name, text, action="apply"):
            tell(f"{applied.kind} {applied.name} {applied.action}")
    if texts:
        tell("waiting for the pods")
        await wait(name, seconds=wait_seconds)
    return await status(name)


async def down(name: str = "lab", *, tell: Tell = silent) -> bool:
    """Removes a lab in whatever state it is; whether there was anything of one."""
    # Here, not above: it loads the netlink library, which the other commands do not wait for.
    from deploy.lab.teardown import remove_lab

    return await asyncio.to_thread(remove_lab, LabNames(name), tell=tell)


async def status(name: str = "lab") -> LabStatus:
    """What the daemon says of the lab."""
    return await _ask(name, "GET", "/v1/status", answer=LabStatus)


async def pods(name: str = "lab") -> tuple[PodView, ...]:
    """The pods on all nodes."""
    return (await status(name)).pods


async def wait(name: str = "lab", *, seconds: float = 60.0) -> None:
    """Until all Deployments and Pods are ready.

    Raises NotReadyError naming those that are not.
    """
    reply = await _ask(
        name,
        "POST",
        "/v1/wait",
        body=msgspec.json.encode(WaitRequest(seconds=seconds)),
        answer=WaitReply,
        seconds=seconds,
    )
    if reply.waiting:
        raise NotReadyError(f"not ready after {seconds:g} s: " + "; ".join(reply.waiting))


async def apply(name: str, path: Path) -> list[AppliedObject]:
    """Applies the manifests of a file, or of all ``*.yaml`` and ``*.yml`` of a directory; ``-`` is stdin."""
    return await _apply(name, _read_manifests(path), action="apply")


async def delete(name: str, path: Path) -> list[AppliedObject]:
    """Deletes the objects that the manifests name."""
    return await _apply(name, _read_manifests(path), action="delete")


async def stop_child(name: str, child: str) -> ChildStatus:
    """Ends a child and holds it."""
    return await _ask(name, "POST", f"/v1/children/{child}/stop", answer=ChildStatus)


async def start_child(name: str, child: str) -> ChildStatus:
    """Starts a child that is held or paused."""
    return await _ask(name, "POST", f"/v1/children/{child}/start", answer=ChildStatus)


async def hold_child(name: str, child: str) -> ChildStatus:
    """Lets a child run, but not start again once it ends."""
    return await _ask(name, "POST", f"/v1/children/{child}/hold", answer=ChildStatus)


async def kill_child(name: str, child: str, *, number: signal.Signals = signal.SIGKILL) -> ChildStatus:
    """Sends a signal to a child; it is started again unless held."""
    body = msgspec.json.encode(ChildRequest(signal=number.name.removeprefix("SIG")))
    return await _ask(name, "POST", f"/v1/children/{child}/kill", body=body, answer=ChildStatus)


def labs() -> list[str]:
    """The names of all labs that left a state directory."""
    return sorted(path.name for path in STATE_ROOT.iterdir()) if STATE_ROOT.is_dir() else []


def is_running(name: str = "lab") -> bool:
    """Whether the lab's daemon lives."""
    daemon = processes.read_record(LabNames(name).daemon_record)
    return daemon is not None and processes.alive(daemon)


def record(name: str = "lab") -> LabRecord:
    """The lab's options, plan and ports, from its state directory."""
    found = read_lab(LabNames(name).record)
    if found is None:
        raise LabNotFoundError(f"there is no lab {name}; `stentor lab up --name {name}` makes it")
    return found


def kubeconfig(name: str = "lab") -> Path:
    """The kubeconfig of the lab's API server."""
    return Path(record(name).kubeconfig)


def exec_command(name: str, pod: str, command: Sequence[str], *, namespace: str = "default") -> list[str]:
    """The command line that runs ``command`` in a pod's network namespace and cgroup.

    ``pod`` is a pod's name or, for any pod of a workload, the beginning of one up to a hyphen (``frontend``).
    """
    found = find_pod(name, pod, namespace=namespace)
    enter = 'echo $$ > "$1/cgroup.procs" && shift && exec nsenter "$@"'
    return [
        *("sh", "-c", enter, "stentor-lab-exec", found.cgroup),
        *(f"--net={namespace_path(found.network_namespace)}", "--", *command),
    ]


def host_command(name: str, host: str, command: Sequence[str]) -> list[str]:
    """The command line that runs ``command`` in the network namespace of a node or outside host."""
    plan = record(name).plan
    for known in (*plan.nodes, *plan.outside):
        if known.name == host:
            return ["nsenter", f"--net={namespace_path(known.namespace)}", "--", *command]
    known_names = ", ".join(known.name for known in (*plan.nodes, *plan.outside))
    raise LabNotFoundError(f"lab {name} has no host {host}; it has {known_names}")


def find_pod(name: str, pod: str, *, namespace: str = "default") -> PodView:
    """A running pod by name, or the first of a workload, from the records on disk."""
    names = LabNames(name)
    nodes = record(name).plan.nodes
    found = [
        entry
        for node in nodes
        for entry in read_records(names.node_state(node.name) / "pods")
        if entry.namespace == namespace and entry.started_at
    ]
    # A pod with hostNetwork has no attachment that would tell its addresses: they are the node's.
    hosts = {node.namespace: node.ips for node in nodes}
    exact = [entry for entry in found if entry.name == pod]
    begun = sorted((entry for entry in found if entry.name.startswith(f"{pod}-")), key=lambda e: e.name)
    for entry in (*exact, *begun):
        return PodView(
            namespace=entry.namespace,
            name=entry.name,
            uid=entry.uid,
            node=entry.node,
            network_namespace=entry.network_namespace,
            cgroup=entry.cgroup,
            ips=hosts.get(entry.network_namespace, entry.ips),
            started_at=entry.started_at,
        )
    running = ", ".join(sorted(entry.name for entry in found)) or "none"
    raise LabNotFoundError(f"lab {name}: no running pod {namespace}/{pod}; running there: {running}")


async def _start_daemon(names: LabNames, options: LabOptions, *, tell: Tell) -> None:
    names.logs.mkdir(mode=0o700, parents=True, exist_ok=True)
    log_file = names.logs / "daemon.log"
    reading, writing = os.pipe()
    try:
        process = await asyncio.to_thread(_spawn_daemon, names, options, writing, log_file)
    finally:
        os.close(writing)
    last = await _follow(reading, tell=tell)
    if last is None:
        await asyncio.to_thread(process.wait)
        words = log_file.read_text(errors="replace").strip().splitlines()[-5:]
        raise NotReadyError(f"lab {options.name}: its daemon ended, see {log_file}: " + " / ".join(words))
    if last.phase is Phase.FAILED:
        raise NotReadyError(f"lab {options.name}: {last.text}")


def _spawn_daemon(
    names: LabNames, options: LabOptions, progress: int, log_file: Path
) -> subprocess.Popen[bytes]:
    # Not asyncio's: it would end the daemon together with the event loop that started it.
    with log_file.open("ab") as output:
        return subprocess.Popen(
            [
                sys.executable,
                *("-m", "deploy.lab.daemon"),
                *("--options", msgspec.json.encode(options).decode()),
                *("--progress-fd", str(progress)),
            ],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
            pass_fds=(progress,),
            start_new_session=True,
            cwd=REPOSITORY,
            env={
                **os.environ,
                MARK: str(names.state),
                "PYTHONPATH": str(REPOSITORY),
                "NO_PROXY": "127.0.0.1,localhost",
                "no_proxy": "127.0.0.1,localhost",
            },
        )


async def _follow(reading: int, *, tell: Tell) -> Progress | None:
    """The daemon's last word; None when it ended without one."""
    reader = asyncio.StreamReader()
    loop = asyncio.get_running_loop()
    transport, _ = await loop.connect_read_pipe(
        lambda: asyncio.StreamReaderProtocol(reader), os.fdopen(reading, "rb")
    )
    try:
        while line := await reader.readline():
            progress = msgspec.json.decode(line, type=Progress)
            if progress.phase is not Phase.STARTING:
                return progress
            tell(progress.text)
    finally:
        transport.close()
    return None


async def _apply(name: str, text: str, *, action: str) -> list[AppliedObject]:
    body = text.encode()
    path = f"/v1/manifests/{action}"
    return await _ask(name, "POST", path, body=body, answer=list[AppliedObject], seconds=60.0)


async def _ask(
    name: str,
    method: str,
    path: str,
    *,
    answer: type[T],
    body: bytes | None = None,
    seconds: float = 20.0,
) -> T:
    socket = LabNames(name).control_socket
    if not socket.exists():
        raise LabNotFoundError(f"lab {name} is not running; `stentor lab up --name {name}` starts it")
    timeout = aiohttp.ClientTimeout(total=seconds + MARGIN_SECONDS)
    try:
        async with (
            aiohttp.ClientSession(connector=aiohttp.UnixConnector(str(socket)), timeout=timeout) as session,
            session.request(method, f"http://lab{path}", data=body) as response,
        ):
            data = await response.read()
            failed = response.status != 200
    except (aiohttp.ClientError, OSError) as error:
        raise LabNotFoundError(f"lab {name}: its daemon does not answer at {socket}: {error}") from error
    if failed:
        raise LabError(f"lab {name}: {_refusal(data)}")
    return msgspec.json.decode(data, type=answer)


def _refusal(data: bytes) -> str:
    try:
        return msgspec.json.decode(data, type=Refusal).error
    except msgspec.DecodeError:
        return data.decode(errors="replace")


def _read_manifests(path: Path) -> str:
    try:
        if str(path) == "-":
            return sys.stdin.read()
        files = sorted([*path.glob("*.yaml"), *path.glob("*.yml")]) if path.is_dir() else [path]
        if not files:
            raise ManifestError(f"{path} holds no *.yaml file")
        return "\n---\n".join(file.read_text() for file in files)
    except (OSError, UnicodeDecodeError) as error:
        raise ManifestError(f"cannot read {path}: {error}") from error


def _choice(kind: Any, value: str, *, field: str) -> Any:
    try:
        return kind(value)
    except ValueError:
        raise LabError(f"{field}: {value!r} is none of {', '.join(kind)}") from None
