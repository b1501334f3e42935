"""Pods as the lab's kubelet sees them: what it reads of a Pod, and the status it writes.

Pure: no part of this touches the machine or the API server.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import msgspec

from deploy.lab.errors import PodError

READY_ANNOTATION = "lab.stentor.io/ready"
"""A pod with the value ``"false"`` is reported as not ready though it runs, as if a probe had failed."""

OWNED_CONDITIONS = ("PodReadyToStartContainers", "Initialized", "ContainersReady", "Ready")
"""Conditions that the kubelet writes; others (``PodScheduled``) are left as they are."""


class ContainerPort(msgspec.Struct, frozen=True, rename="camel"):
    """``spec.containers[].ports[]``."""

    container_port: int
    protocol: str = "TCP"
    name: str = ""


class Container(msgspec.Struct, frozen=True):
    """``spec.containers[]``."""

    name: str
    image: str = ""
    ports: tuple[ContainerPort, ...] = ()


class Metadata(msgspec.Struct, frozen=True, rename="camel"):
    """``metadata``."""

    name: str
    namespace: str
    uid: str
    annotations: dict[str, str] | None = None
    deletion_timestamp: str | None = None


class Spec(msgspec.Struct, frozen=True, rename="camel"):
    """``spec``."""

    containers: tuple[Container, ...]
    node_name: str = ""
    host_network: bool = False
    restart_policy: str = "Always"


class Condition(msgspec.Struct, frozen=True, rename="camel", omit_defaults=True):
    """``status.conditions[]``."""

    type: str
    status: str
    reason: str = ""
    message: str = ""
    last_transition_time: str | None = None
    last_probe_time: str | None = None
    observed_generation: int = 0


class Status(msgspec.Struct, frozen=True, rename="camel"):
    """``status``."""

    phase: str = "Pending"
    conditions: tuple[Condition, ...] = ()


class Pod(msgspec.Struct, frozen=True):
    """A Pod, as far as the kubelet reads it."""

    metadata: Metadata
    spec: Spec
    status: Status = Status()

    @property
    def title(self) -> str:
        """For logs and errors."""
        return f"Pod {self.metadata.namespace}/{self.metadata.name}"

    @property
    def finished(self) -> bool:
        """Its containers have ended for good."""
        return self.status.phase in ("Succeeded", "Failed")

    @property
    def wants_ready(self) -> bool:
        """False when its annotation asks to be reported as not ready."""
        return (self.metadata.annotations or {}).get(READY_ANNOTATION) != "false"

    def server_ports(self) -> list[dict[str, Any]]:
        """The ports its server opens: every declared TCP and UDP one, once.

        Raises PodError naming a port that two containers declare.
        """
        ports: dict[tuple[int, str], str] = {}
        for container in self.spec.containers:
            for port in container.ports:
                key = (port.container_port, port.protocol)
                if key in ports:
                    raise PodError(
                        f"{self.title}: spec.containers: port {port.container_port}/{port.protocol} is "
                        f"declared by {ports[key]} and by {container.name}; one pod can open it once"
                    )
                ports[key] = container.name
        # The kernel of a lab may lack SCTP sockets; such a port is declared, not served.
        return [{"port": port, "protocol": kind} for port, kind in ports if kind in ("TCP", "UDP")]


def read_pod(document: dict[str, Any]) -> Pod:
    """The Pod in an object of the API server.

    Raises PodError naming the object and the field.
    """
    try:
        return msgspec.convert(document, Pod, strict=True)
    except msgspec.ValidationError as error:
        metadata = document.get("metadata") or {}
        raise PodError(f"Pod {metadata.get('namespace')}/{metadata.get('name')}: {error}") from error


class PodView(msgspec.Struct, frozen=True, kw_only=True):
    """A pod's state on its node, as the kubelet has it."""

    namespace: str
    name: str
    uid: str
    node: str
    network_namespace: str
    cgroup: str
    ips: tuple[str, ...] = ()
    ready: bool = False
    restarts: int = 0
    started_at: str = ""
    problem: str = ""
    """Why it does not run; empty when it does."""


def now() -> str:
    """The time as Kubernetes writes it (RFC 3339, seconds)."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def running_status(pod: Pod, *, view: PodView, host_ips: tuple[str, ...]) -> dict[str, Any]:
    """``status`` of a pod whose server runs."""
    ready = view.ready and pod.wants_ready
    return {
        "phase": "Running",
        "hostIP": host_ips[0],
        "hostIPs": [{"ip": ip} for ip in host_ips],
        "podIP": view.ips[0],
        "podIPs": [{"ip": ip} for ip in view.ips],
        "startTime": view.started_at,
        "conditions": _conditions(pod, sandbox=True, ready=ready, reason="ContainersNotReady", message=""),
        "containerStatuses": [
            {
                **_container(container, view=view),
                "ready": ready,
                "started": True,
                "state": {"running": {"startedAt": view.started_at}},
            }
            for container in pod.spec.containers
        ],
    }


def waiting_status(
    pod: Pod, *, view: PodView, host_ips: tuple[str, ...], reason: str, message: str
) -> dict[str, Any]:
    """``status`` of a pod that does not run yet, or not at this moment."""
    status: dict[str, Any] = {
        "phase": "Running" if view.ips else "Pending",
        "hostIP": host_ips[0],
        "hostIPs": [{"ip": ip} for ip in host_ips],
        "conditions": _conditions(pod, sandbox=bool(view.ips), ready=False, reason=reason, message=message),
        "containerStatuses": [
            {
                **_container(container, view=view),
                "ready": False,
                "started": False,
                "state": {"waiting": {"reason": reason, "message": message}},
            }
            for container in pod.spec.containers
        ],
    }
    if view.started_at:
        status["startTime"] = view.started_at
    if view.ips:
        status |= {"podIP": view.ips[0], "podIPs": [{"ip": ip} for ip in view.ips]}
    return status


def finished_status(pod: Pod, *, view: PodView, host_ips: tuple[str, ...], exit_code: int) -> dict[str, Any]:
    """``status`` of a pod whose restart policy lets it end."""
    succeeded = exit_code == 0
    reason = "Completed" if succeeded else "Error"
    return {
        "phase": "Succeeded" if succeeded else "Failed",
        "hostIP": host_ips[0],
        "podIP": view.ips[0] if view.ips else "",
        "podIPs": [{"ip": ip} for ip in view.ips],
        "startTime": view.started_at,
        "conditions": _conditions(pod, sandbox=False, ready=False, reason="PodCompleted", message=""),
        "containerStatuses": [
            {
                **_container(container, view=view),
                "ready": False,
                "started": False,
                "state": {"terminated": {"exitCode": exit_code, "reason": reason, "finishedAt": now()}},
            }
            for container in pod.spec.containers
        ],
    }


def _container(container: Container, *, view: PodView) -> dict[str, Any]:
    return {
        "name": container.name,
        "image": container.image,
        "imageID": f"stentor-lab://{container.image}",
        "containerID": f"stentor-lab://{view.uid}",
        "restartCount": view.restarts,
    }


def _conditions(pod: Pod, *, sandbox: bool, ready: bool, reason: str, message: str) -> list[dict[str, Any]]:
    values = {
        "PodReadyToStartContainers": sandbox,
        "Initialized": True,
        "ContainersReady": ready,
        "Ready": ready,
    }
    before = {condition.type: condition for condition in pod.status.conditions}
    written = [
        msgspec.to_builtins(condition)
        for condition in pod.status.conditions
        if condition.type not in OWNED_CONDITIONS
    ]
    for kind in OWNED_CONDITIONS:
        status = "True" if values[kind] else "False"
        old = before.get(kind)
        same = old is not None and old.status == status and old.last_transition_time
        condition: dict[str, Any] = {
            "type": kind,
            "status": status,
            "lastTransitionTime": old.last_transition_time if old is not None and same else now(),
        }
        if not values[kind]:
            condition |= {"reason": reason, "message": message}
        written.append(condition)
    return written
