"""What the daemon and its clients tell each other, and what is kept of a lab in its state directory."""

from __future__ import annotations

import os
from enum import StrEnum
from pathlib import Path

import msgspec

from deploy.lab.pods import PodView
from deploy.lab.supervisor import ChildStatus
from deploy.lab.topology import IpFamily, Plan

SERVICES = ("identity", "policy", "lb", "datapath")
"""The services that a lab runs; the last once for each node."""


class EnableOn(StrEnum):
    """On which nodes policy is enforced."""

    ALL = "all"
    """The kubelets annotate every node."""
    ANNOTATED = "annotated"
    """Nobody annotates but the user."""


class LabOptions(msgspec.Struct, frozen=True, kw_only=True):
    """How a lab was asked for."""

    name: str = "lab"
    nodes: int = 2
    outside: int = 0
    """Hosts on the underlay that are not in the cluster."""
    ip_family: IpFamily = IpFamily.V4
    enable_on: EnableOn = EnableOn.ALL
    kubeconfig: str | None = None
    """Of a real API server; None: the lab's own."""
    datapath_args: tuple[str, ...] = ()
    without: tuple[str, ...] = ()
    """Services of SERVICES that the lab does not start, to be run by hand."""


class LabRecord(msgspec.Struct, frozen=True, kw_only=True):
    """``lab.json``: what was made."""

    options: LabOptions
    plan: Plan
    ports: dict[str, int] = msgspec.field(default_factory=dict)
    """Loopback ports: of ``nats``, of each service's HTTP by the child's name."""
    kubeconfig: str = ""


class Phase(StrEnum):
    """How far a lab is."""

    STARTING = "starting"
    READY = "ready"
    FAILED = "failed"


class LabStatus(msgspec.Struct, frozen=True, kw_only=True):
    """Answer of ``GET /v1/status``."""

    record: LabRecord
    phase: Phase
    problem: str = ""
    children: tuple[ChildStatus, ...] = ()
    pods: tuple[PodView, ...] = ()


class Progress(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """One line that the daemon tells ``up`` while it starts; the last has ``phase`` ready or failed."""

    text: str
    phase: Phase = Phase.STARTING


class ChildRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Body of ``POST /v1/children/<name>/kill``."""

    signal: str = "KILL"
    """Name of a signal without ``SIG``."""


class WaitRequest(msgspec.Struct, frozen=True, kw_only=True):
    """Body of ``POST /v1/wait``."""

    seconds: float = 60.0


class WaitReply(msgspec.Struct, frozen=True, kw_only=True):
    """What is not ready yet, in sentences; empty when all is."""

    waiting: tuple[str, ...] = ()


class AppliedObject(msgspec.Struct, frozen=True, kw_only=True):
    """What became of one object of a manifest."""

    kind: str
    name: str
    namespace: str = ""
    action: str
    """``created``, ``configured``, ``unchanged``, ``deleted`` or ``absent``."""


class Refusal(msgspec.Struct, frozen=True, kw_only=True):
    """Body of a response with a status other than 200."""

    error: str


def write_private(path: Path, data: bytes) -> None:
    """Writes a file of mode 0600, whole or not at all."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(handle, "wb") as file:
        file.write(data)
    temporary.rename(path)


def read_lab(path: Path) -> LabRecord | None:
    """The record of a lab; None when there is none that can be read."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=LabRecord)
    except (FileNotFoundError, msgspec.DecodeError):
        return None
