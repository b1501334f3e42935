"""What `stentor lab` commands do: each calls :mod:`deploy.lab.client` and prints the outcome.

Refusals of the lab become exit code 2 when something around the command is missing (no such lab, not root, a
name that cannot be used) and 1 when the lab tried and failed.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Coroutine, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeVar

from deploy.bootstrap.layout import layout_of_this_machine
from deploy.bootstrap.machine import shortcomings
from deploy.cli.errors import FAILED, CliError, UnfitError, Unmet
from deploy.cli.lab_state import lab_kubeconfig, lab_record, lab_settings
from deploy.cli.output import Format, counted, progress, say, say_json, say_table, styled
from deploy.cli.shapes import PodItem
from deploy.lab import client
from deploy.lab.errors import LabError, LabExistsError, LabNameError, LabNotFoundError, MachineError
from deploy.lab.names import LabNames, namespace_path
from deploy.lab.pods import PodView
from deploy.lab.state import Phase

T = TypeVar("T")

FOLLOW_SECONDS = 0.2
"""Between two looks at a log that is followed."""


@contextmanager
def lab_errors() -> Iterator[None]:
    """Turns what the lab raises into errors of the command line."""
    try:
        yield
    except (LabExistsError, LabNameError, LabNotFoundError, MachineError) as error:
        raise UnfitError(sentence(error)) from error
    except LabError as error:
        raise Unmet(sentence(error)) from error
    except PermissionError as error:
        raise UnfitError(f"labs belong to root: run this as root ({error}).") from error


def sentence(error: Exception) -> str:
    """The error's text with a full stop."""
    return str(error).rstrip(".") + "."


def ask(request: Coroutine[Any, Any, T], *, what: str) -> T:
    """The answer of the lab; ``what`` is told when it takes long."""
    with lab_errors(), progress(only_terminals=True) as shown:
        shown.update(what)
        return asyncio.run(request)


def require_root() -> None:
    """Raises :class:`UnfitError` for anybody else, before anything is begun."""
    if os.geteuid() != 0:
        raise UnfitError("labs are made of network namespaces and eBPF programs: run this as root (sudo).")


def require_fit_machine() -> None:
    """Raises :class:`UnfitError` naming what the machine lacks by now, though it was set up once."""
    missing = shortcomings(layout_of_this_machine(system=""))
    if missing:
        raise UnfitError(" ".join(missing))


def up(
    name: str,
    *,
    nodes: int,
    manifests: Sequence[Path],
    kubeconfig: Path | None,
    enable_on: str,
    ip_family: str,
) -> int:
    """Make a lab."""
    require_root()
    require_fit_machine()
    with lab_errors(), progress(patience=0) as shown:
        made = asyncio.run(
            client.up(
                name,
                nodes=nodes,
                manifests=manifests,
                kubeconfig=None if kubeconfig is None else str(kubeconfig),
                enable_on=enable_on,
                ip_family=ip_family,
                tell=shown.update,
            )
        )
    size = f"{counted(nodes, 'node', 'nodes')}, {counted(len(made.pods), 'pod', 'pods')}"
    say(f"lab {name} is {made.phase}: {size}")
    if made.phase is not Phase.READY:
        raise Unmet(
            f"lab {name} is not ready: {made.problem}; `stentor lab logs SERVICE --name {name}` tells more, "
            f"`stentor lab down --name {name}` removes it."
        )
    return 0


def down(name: str) -> int:
    """Remove a lab."""
    require_root()
    with lab_errors(), progress() as shown:
        was_there = asyncio.run(client.down(name, tell=shown.update))
    say(f"lab {name} is removed" if was_there else f"there is no lab {name}, and nothing of one")
    return 0


def status(name: str, *, output: Format) -> int:
    """Print a lab's processes."""
    found = ask(client.status(name), what=f"asking lab {name}")
    if output is Format.JSON:
        say_json(found)
        return 0 if found.phase is Phase.READY else FAILED
    say(f"lab {name}: {found.phase}" + (f" ({found.problem})" if found.problem else ""))
    rows = [
        (
            child.name,
            styled(child.state, "green" if child.ready else "red"),
            "-" if child.ready is None else "yes" if child.ready else "no",
            str(child.pid or "-"),
            str(child.restarts),
            "-" if child.last_exit is None else str(child.last_exit),
        )
        for child in found.children
    ]
    say_table(
        ("PROCESS", "STATE", "READY", "PID", "RESTARTS", "LAST EXIT"), rows, empty="it runs no process."
    )
    say(f"{counted(len(found.pods), 'pod', 'pods')}, {sum(pod.ready for pod in found.pods)} ready")
    return 0 if found.phase is Phase.READY else FAILED


def pod_items(views: Sequence[PodView], *, identities: dict[tuple[str, str], int]) -> list[PodItem]:
    """Pods as they are listed, by namespace and name."""
    return [
        PodItem(
            namespace=view.namespace,
            name=view.name,
            node=view.node,
            ips=view.ips,
            netns=str(namespace_path(view.network_namespace)),
            identity=identities.get((view.namespace, view.name), 0),
            ready=view.ready,
        )
        for view in sorted(views, key=lambda view: (view.namespace, view.name))
    ]


async def pod_identities(name: str) -> dict[tuple[str, str], int]:
    """Identity of each pod by namespace and name; empty when NATS does not answer."""
    from deploy.cli.cluster import read_bucket
    from deploy.cli.connection import open_bus
    from shared.contract.identity import EndpointRecord
    from shared.contract.names import Bucket

    try:
        async with open_bus(lab_settings(name)) as bus:
            read = await read_bucket(bus, Bucket.ENDPOINTS, as_type=EndpointRecord)
    except CliError as error:
        say(f"identities are not known: {error}", stderr=True)
        return {}
    return {(record.namespace, record.name): record.identity for record in read.values.values()}


async def read_pods(name: str) -> list[PodItem]:
    """The lab's pods with their identities."""
    views = await client.pods(name)
    return pod_items(views, identities=await pod_identities(name))


def pods(name: str, *, output: Format) -> int:
    """Print the pods."""
    items = ask(read_pods(name), what=f"asking lab {name}")
    if output is Format.JSON:
        say_json(items)
        return 0
    rows = [
        (
            item.namespace,
            item.name,
            item.node,
            ",".join(item.ips) or "-",
            str(item.identity or "-"),
            styled("yes", "green") if item.ready else styled("no", "red"),
            Path(item.netns).name,
        )
        for item in items
    ]
    say_table(("NAMESPACE", "NAME", "NODE", "IP", "IDENTITY", "READY", "NETNS"), rows, empty="no pod runs.")
    return 0


def change(name: str, *, path: Path, delete: bool) -> int:
    """Apply or delete manifests."""
    request = client.delete(name, path) if delete else client.apply(name, path)
    for done in ask(request, what=f"{'deleting' if delete else 'applying'} what {path} describes"):
        where = f"{done.namespace}/" if done.namespace else ""
        say(f"{done.kind} {where}{done.name} {done.action}")
    return 0


def execute(name: str, *, pod: str, namespace: str, command: Sequence[str]) -> int:
    """Become the command, in the pod: its exit code, signals and terminal are the command's own."""
    require_root()
    with lab_errors():
        argv = client.exec_command(name, pod, command, namespace=namespace)
    sys.stdout.flush()
    try:
        os.execvp(argv[0], argv)
    except OSError as error:
        raise UnfitError(f"{argv[0]} cannot be started: {error.strerror}; install it.") from error


def kubeconfig(name: str, *, content: bool) -> int:
    """Print where the kubeconfig is, or what is in it."""
    path = lab_kubeconfig(name)
    if path is None:
        raise UnfitError(f"lab {name} has no API server yet: wait for `stentor lab up`.")
    try:
        sys.stdout.write(path.read_text() if content else f"{path}\n")
    except OSError as error:
        raise UnfitError(f"kubeconfig {path}: {error.strerror}.") from error
    return 0


def logs(name: str, *, service: str, follow: bool) -> int:
    """Print a log, and with ``follow`` what is added to it."""
    lab_record(name)
    folder = LabNames(name).logs
    path = folder / f"{service}.log"
    if path.parent != folder or not path.is_file():
        there = ", ".join(sorted(log.stem for log in folder.glob("*.log"))) or "none"
        raise UnfitError(f"lab {name} has no log of {service!r}; there are logs of {there}.")
    asyncio.run(_print_log(path, follow=follow))
    return 0


async def _print_log(path: Path, *, follow: bool) -> None:
    with path.open(errors="replace") as file:
        while True:
            while text := file.read(1 << 16):
                sys.stdout.write(text)
            sys.stdout.flush()
            if not follow:
                return
            # Another process appends to a plain file: nothing tells of it but looking.
            await asyncio.sleep(FOLLOW_SECONDS)


def service(name: str, *, service: str, action: str) -> int:
    """Stop, start or kill one process of the lab."""
    actions = {"stop": client.stop_child, "start": client.start_child, "kill": client.kill_child}
    done = {"stop": "stopped", "start": "started", "kill": "killed"}
    before = ask(actions[action](name, service), what=f"waiting for {service} to {action}")
    say(f"{before.name} is {done[action]}")
    return 0
