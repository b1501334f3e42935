"""What everything of one lab is called and where it lives.

A lab's name holds no hyphen, so that the prefix ``stl-<lab>-`` of one lab never begins that of another:
``down`` may remove all that carries its prefix. Two labs of different names share nothing.
"""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path

from deploy.lab.errors import LabNameError

STATE_ROOT = Path("/run/stentor/lab")
NETNS_ROOT = Path("/run/netns")
BPFFS = Path("/sys/fs/bpf")

PREFIX = "stl"
LAB_NAME = re.compile(r"[a-z][a-z0-9]{0,14}")

MARK = "STENTOR_LAB_STATE"
"""Environment variable that every process of a lab carries; its value is the lab's state directory."""


@dataclass(frozen=True)
class LabNames:
    """Names and paths of the lab ``lab``.

    Raises LabNameError for a name that is not 1 to 15 lower-case letters and digits, a letter first.
    """

    lab: str

    def __post_init__(self) -> None:
        if not LAB_NAME.fullmatch(self.lab):
            raise LabNameError(
                f"lab name {self.lab!r}: use 1 to 15 lower-case letters and digits, beginning with a letter"
            )

    @property
    def prefix(self) -> str:
        """What the names of all its network namespaces begin with."""
        return f"{PREFIX}-{self.lab}-"

    @property
    def net_namespace(self) -> str:
        """The namespace of the underlay's bridge."""
        return f"{self.prefix}net"

    def node_namespace(self, node: str) -> str:
        """The namespace of a node, or of a host outside of the cluster."""
        return f"{self.prefix}{node}"

    def pod_namespace(self, uid: str) -> str:
        """The namespace of the pod with this ``metadata.uid``."""
        return f"{self.prefix}p-{hashlib.sha256(uid.encode()).hexdigest()[:12]}"

    @property
    def state(self) -> Path:
        """The state directory, mode 0700."""
        return STATE_ROOT / self.lab

    @property
    def control_socket(self) -> Path:
        """Where the daemon answers."""
        return self.state / "lab.sock"

    @property
    def record(self) -> Path:
        """The lab's options, ports and plan, see :mod:`deploy.lab.state`."""
        return self.state / "lab.json"

    @property
    def daemon_record(self) -> Path:
        """The daemon's process."""
        return self.state / "daemon.json"

    @property
    def processes(self) -> Path:
        """One record for each child process."""
        return self.state / "processes"

    @property
    def logs(self) -> Path:
        """One file for each child, and the daemon's own."""
        return self.state / "logs"

    @property
    def kubeconfig(self) -> Path:
        """For any Kubernetes client, when the API server is the lab's own."""
        return self.state / "kubeconfig"

    @property
    def nats(self) -> Path:
        """Configuration, passwords and store of nats-server."""
        return self.state / "nats"

    @property
    def lock(self) -> Path:
        """Held by the lab's daemon while it lives."""
        return self.state / "daemon.lock"

    def node_state(self, node: str) -> Path:
        """A node's directory: CNI socket and configuration, pod records, datapath state."""
        return self.state / node

    def cni_socket(self, node: str) -> Path:
        """Where the node's datapath answers the CNI plugin."""
        return self.node_state(node) / "cni.sock"

    def bpffs(self, node: str) -> Path:
        """Where the node's datapath pins programs and maps."""
        return BPFFS / "stentor" / f"{self.lab}-{node}"

    def cgroup(self, node: str, *, root: Path) -> Path:
        """The node's cgroup (version 2) below the mount ``root``; its pods are children of it."""
        return root / "stentor" / f"{self.lab}-{node}"

    def pod_cgroup(self, node: str, uid: str, *, root: Path) -> Path:
        """The cgroup of a pod."""
        return self.cgroup(node, root=root) / self.pod_namespace(uid).removeprefix(self.prefix)


def namespace_path(namespace: str) -> Path:
    """Where a named network namespace is bound."""
    return NETNS_ROOT / namespace
