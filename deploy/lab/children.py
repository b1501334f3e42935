"""The command lines of the lab's child processes: nats-server, the control services, one datapath per node.

Pure, but for the NATS configuration and passwords, which :mod:`deploy.nats` writes.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from deploy.lab.names import LabNames
from deploy.lab.state import LabRecord
from deploy.lab.supervisor import ChildSpec, python
from deploy.lab.topology import HostPlan
from deploy.nats import NatsLayout, datapath_user, write_configuration

NATS = "nats"
CONTROL_SERVICES = ("identity", "policy", "lb")
NODE_NATS_PORT = 4222
"""Where a node's datapath finds NATS on its own loopback."""
NODE_HTTP_PORT = 9190
"""Where a node's datapath serves health and metrics on its own loopback."""

REPOSITORY = Path(__file__).resolve().parent.parent.parent


def datapath_child(node: str) -> str:
    """The name of a node's datapath among the children."""
    return f"datapath-{node}"


def wanted_ports(record: LabRecord) -> tuple[str, ...]:
    """The names for which the lab needs a port on the machine's loopback."""
    services = [name for name in CONTROL_SERVICES if name not in record.options.without]
    datapaths = [
        datapath_child(node.name) for node in record.plan.nodes if "datapath" not in record.options.without
    ]
    return (NATS, *services, *datapaths)


def write_nats(names: LabNames, record: LabRecord) -> NatsLayout:
    """Configuration and password files of the lab's NATS."""
    return write_configuration(
        names.nats,
        cluster=names.lab,
        nodes=[node.name for node in record.plan.nodes],
        port=record.ports[NATS],
    )


def nats_child(layout: NatsLayout, *, port: int) -> ChildSpec:
    """nats-server; the first of the children."""
    return ChildSpec(
        name=NATS,
        argv=("nats-server", "--config", str(layout.configuration)),
        stage=0,
        ready_url=f"tcp://127.0.0.1:{port}",
    )


def service_children(names: LabNames, record: LabRecord, layout: NatsLayout) -> Iterator[ChildSpec]:
    """The services that the lab is to run."""
    for name in CONTROL_SERVICES:
        if name not in record.options.without:
            port = record.ports[name]
            yield ChildSpec(
                name=name,
                argv=python(
                    "-m", f"services.{name}", *_common(names, nats_port=record.ports[NATS], port=port)
                ),
                env={
                    **_environment(user=name, layout=layout),
                    "STENTOR_KUBECONFIG": record.kubeconfig,
                },
                stage=1,
                ready_url=_ready_url(port),
            )
    if "datapath" not in record.options.without:
        for node in record.plan.nodes:
            yield _datapath(names, record, layout, node)


def _datapath(names: LabNames, record: LabRecord, layout: NatsLayout, node: HostPlan) -> ChildSpec:
    child = datapath_child(node.name)
    return ChildSpec(
        name=child,
        argv=python(
            "-m",
            "services.datapath",
            *("--node", node.name),
            *("--cni-socket", str(names.cni_socket(node.name))),
            *("--bpffs", str(names.bpffs(node.name))),
            *("--state-dir", str(names.node_state(node.name) / "datapath")),
            *("--enable-on", record.options.enable_on),
            *_common(names, nats_port=NODE_NATS_PORT, port=NODE_HTTP_PORT),
            *record.options.datapath_args,
        ),
        env=_environment(user=datapath_user(node.name), layout=layout),
        namespace=node.namespace,
        stage=2,
        ready_url=_ready_url(record.ports[child]),
    )


def _common(names: LabNames, *, nats_port: int, port: int) -> tuple[str, ...]:
    return (
        *("--nats-url", f"nats://127.0.0.1:{nats_port}"),
        *("--cluster", names.lab),
        *("--listen", f"127.0.0.1:{port}"),
    )


def _environment(*, user: str, layout: NatsLayout) -> dict[str, str]:
    return {
        "PYTHONPATH": str(REPOSITORY),
        "STENTOR_NATS_USER": user,
        "STENTOR_NATS_PASSWORD_FILE": str(layout.password_file(user)),
        # The lab's addresses are all on loopback; a proxy of the user's environment cannot reach them.
        "NO_PROXY": "127.0.0.1,localhost",
        "no_proxy": "127.0.0.1,localhost",
    }


def _ready_url(port: int) -> str:
    return f"http://127.0.0.1:{port}/readyz"
