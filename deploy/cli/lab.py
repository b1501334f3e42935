"""`stentor lab ...`: the flags and help texts; the work is in :mod:`deploy.cli.lab_commands`."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from deploy.cli.errors import EXIT_CODES
from deploy.cli.options import LAB_NAME, LabName, Output, namespaced
from deploy.cli.output import Format

HELP = {"help_option_names": ["-h", "--help"]}

lab_app = typer.Typer(
    help="A cluster on this machine. Real services, eBPF and packets, without Kubernetes. Needs root.",
    no_args_is_help=True,
    context_settings=HELP,
    epilog=EXIT_CODES,
)
service_app = typer.Typer(
    help="Stop, start and kill single services. To see what goes on without them.",
    no_args_is_help=True,
    context_settings=HELP,
    epilog=EXIT_CODES,
)
lab_app.add_typer(service_app, name="service")

Manifests = Annotated[
    Path, typer.Option("--filename", "-f", help="A file, a directory of them, or - for standard input.")
]
ServiceName = Annotated[
    str, typer.Argument(metavar="SERVICE", help="nats, identity, policy, lb or datapath-<node>.")
]


class EnableOn(StrEnum):
    """Which nodes enforce policy."""

    ALL = "all"
    ANNOTATED = "annotated"


class IpFamily(StrEnum):
    """Address families of nodes and pods."""

    V4 = "v4"
    V6 = "v6"
    DUAL = "dual"


@lab_app.command(epilog=EXIT_CODES)
def up(
    nodes: Annotated[int, typer.Option(min=1, max=100, help="How many nodes.", metavar="N")] = 2,
    name: LabName = LAB_NAME,
    manifests: Annotated[
        list[Path] | None,
        typer.Option(
            help="Apply these once it runs, and wait for the pods; may be repeated.", metavar="PATH"
        ),
    ] = None,
    kubeconfig: Annotated[
        Path | None,
        typer.Option(
            help="Use this API server instead of the lab's own: only kubelets run. "
            "Their Node objects stay in it after `down`.",
            metavar="PATH",
            exists=True,
            dir_okay=False,
        ),
    ] = None,
    enable_on: Annotated[
        EnableOn,
        typer.Option(help="Enforce on all nodes, or on those annotated azure.microsoft.com/use-cilium=true."),
    ] = EnableOn.ALL,
    ip_family: Annotated[
        IpFamily, typer.Option(help="Address families of nodes, pods and Services.")
    ] = IpFamily.V4,
) -> int:
    """Make a lab and return when all of it is ready."""
    from deploy.cli.lab_commands import up as run

    return run(
        name,
        nodes=nodes,
        manifests=manifests or [],
        kubeconfig=kubeconfig,
        enable_on=enable_on,
        ip_family=ip_family,
    )


@lab_app.command(epilog=EXIT_CODES)
def down(name: LabName = LAB_NAME) -> int:
    """Remove a lab and everything it made, also after a crash. Succeeds when there is none."""
    from deploy.cli.lab_commands import down as run

    return run(name)


@lab_app.command(epilog=EXIT_CODES)
def status(name: LabName = LAB_NAME, output: Output = Format.TABLE) -> int:
    """Show a lab's processes and how far it is. Exit code 1 when it is not ready.

    JSON: an object with record (options, plan, ports, kubeconfig), phase, problem, children and pods.
    """
    from deploy.cli.lab_commands import status as run

    return run(name, output=output)


@lab_app.command(epilog=EXIT_CODES)
def pods(name: LabName = LAB_NAME, output: Output = Format.TABLE) -> int:
    """List a lab's pods.

    JSON: an array of objects with namespace, name, node, ips, netns, identity and ready.
    """
    from deploy.cli.lab_commands import pods as run

    return run(name, output=output)


@lab_app.command(epilog=EXIT_CODES)
def apply(filename: Manifests, name: LabName = LAB_NAME) -> int:
    """Create what the manifests describe, or make it as they describe it."""
    from deploy.cli.lab_commands import change

    return change(name, path=filename, delete=False)


@lab_app.command(epilog=EXIT_CODES)
def delete(filename: Manifests, name: LabName = LAB_NAME) -> int:
    """Delete what the manifests name."""
    from deploy.cli.lab_commands import change

    return change(name, path=filename, delete=True)


@lab_app.command(
    "exec",
    epilog="The exit code is that of CMD; as in a shell 126 or 127 when it cannot be started; "
    "2 when there is no such pod or lab.",
)
def execute(
    pod: Annotated[
        str, typer.Argument(metavar="[NS/]POD", help="A pod, or the first of a workload (frontend).")
    ],
    command: Annotated[list[str], typer.Argument(metavar="-- CMD...", help="The command and its arguments.")],
    name: LabName = LAB_NAME,
) -> int:
    """Run a command in a pod's network namespace and cgroup."""
    namespace, pod_name = namespaced(pod, what="pod")
    from deploy.cli.lab_commands import execute as run

    return run(name, pod=pod_name, namespace=namespace, command=command)


@lab_app.command(epilog=EXIT_CODES)
def kubeconfig(
    name: LabName = LAB_NAME,
    content: Annotated[bool, typer.Option("--content", help="Print the file, not its path.")] = False,
) -> int:
    """Print the path of the lab's kubeconfig, for kubectl."""
    from deploy.cli.lab_commands import kubeconfig as run

    return run(name, content=content)


@lab_app.command(epilog=EXIT_CODES)
def logs(
    service: Annotated[
        str, typer.Argument(metavar="SERVICE", help="A service, datapath-<node>, nats or daemon.")
    ],
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until interrupted.")] = False,
    name: LabName = LAB_NAME,
) -> int:
    """Print what a process of the lab has logged."""
    from deploy.cli.lab_commands import logs as run

    return run(name, service=service, follow=follow)


@service_app.command(epilog=EXIT_CODES)
def stop(service: ServiceName, name: LabName = LAB_NAME) -> int:
    """End a service; it stays down until it is started."""
    from deploy.cli.lab_commands import service as run

    return run(name, service=service, action="stop")


@service_app.command(epilog=EXIT_CODES)
def start(service: ServiceName, name: LabName = LAB_NAME) -> int:
    """Start a service that was stopped."""
    from deploy.cli.lab_commands import service as run

    return run(name, service=service, action="start")


@service_app.command(epilog=EXIT_CODES)
def kill(service: ServiceName, name: LabName = LAB_NAME) -> int:
    """Kill a service with SIGKILL; the lab starts it again, as a cluster would."""
    from deploy.cli.lab_commands import service as run

    return run(name, service=service, action="kill")
