"""``Table`` answers: what ``kubectl get`` prints, column by column (``meta.k8s.io/v1`` Table).

Columns of priority 1 are shown with ``-o wide`` only. Kinds without a row here print NAME and AGE; custom
resources print what their definition says.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Any, NamedTuple

from .resources import PrinterColumn, ResourceType
from .store import Object
from .subresources import selector_text


class Column(NamedTuple):
    """One printed column: its title, how to read its cell, its type and whether only ``-o wide`` shows it."""

    name: str
    cell: Callable[[Object], Any]
    type: str = "string"
    wide: bool = False


def table(
    objects: Iterable[Object], *, resource: ResourceType, metadata: Object, include: str = "Metadata"
) -> Object:
    """A Table of ``objects``. ``include`` is the request's ``includeObject``: None, Metadata or Object."""
    columns = _columns(resource)
    return {
        "kind": "Table",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": metadata,
        "columnDefinitions": [
            {
                "name": column.name,
                "type": column.type,
                "format": "name" if column.name == "Name" else "",
                "description": "",
                "priority": int(column.wide),
            }
            for column in columns
        ],
        "rows": [
            {"cells": [column.cell(item) for column in columns]} | _included(item, include)
            for item in objects
        ],
    }


def _included(item: Object, include: str) -> Object:
    if include == "None":
        return {}
    if include == "Object":
        return {"object": item}
    partial = {
        "kind": "PartialObjectMetadata",
        "apiVersion": "meta.k8s.io/v1",
        "metadata": item["metadata"],
    }
    return {"object": partial}


def _columns(resource: ResourceType) -> list[Column]:
    name = Column("Name", lambda item: item["metadata"]["name"])
    if not resource.built_in:
        custom = [_custom(column) for column in resource.columns]
        return [name, *custom] if resource.columns else [name, _AGE]
    if resource.kind == "Event":
        return _EVENT
    shown = _BY_KIND.get(resource.kind, [])
    if _AGE in shown:
        return [name, *shown]
    return [name, *(c for c in shown if not c.wide), _AGE, *(c for c in shown if c.wide)]


def _custom(column: PrinterColumn) -> Column:
    def cell(item: Object) -> Any:
        value = _at(item, *column.path.split("."))
        if column.type == "date":
            return _age(value)
        return value if value is None or isinstance(value, (str, int, float)) else str(value)

    kind = "string" if column.type == "date" else column.type
    return Column(column.name, cell, kind, column.priority > 0)


def _at(item: Any, *path: str) -> Any:
    for step in path:
        item = item.get(step) if isinstance(item, dict) else None
    return item


def _items(item: Any, *path: str) -> list[Any]:
    found = _at(item, *path)
    return found if isinstance(found, list) else []


def _field(*path: str, absent: Any = "<none>") -> Callable[[Object], Any]:
    def cell(item: Object) -> Any:
        value = _at(item, *path)
        return absent if value is None or value == "" else value

    return cell


def _labels(*path: str) -> Callable[[Object], str]:
    def cell(item: Object) -> str:
        labels = _at(item, *path) or {}
        return ",".join(f"{key}={value}" for key, value in sorted(labels.items())) or "<none>"

    return cell


def _count(*path: str) -> Callable[[Object], int]:
    return lambda item: len(_at(item, *path) or ())


def _age(stamp: Any) -> str:
    if not isinstance(stamp, str):
        return "<unknown>"
    try:
        then = datetime.fromisoformat(stamp)
    except ValueError:
        return "<invalid>"
    seconds = max(0, int((datetime.now(UTC) - then).total_seconds()))
    minutes, hours, days = seconds // 60, seconds // 3600, seconds // 86400
    if seconds < 120:
        return f"{seconds}s"
    if minutes < 10:
        return f"{minutes}m{seconds % 60}s" if seconds % 60 else f"{minutes}m"
    if hours < 3:
        return f"{minutes}m"
    if hours < 48:
        return f"{hours}h{minutes % 60}m" if hours < 8 and minutes % 60 else f"{hours}h"
    return f"{days}d"


def _pod_ready(pod: Object) -> str:
    statuses = _items(pod, "status", "containerStatuses")
    total = len(_items(pod, "spec", "containers"))
    return f"{sum(status.get('ready') is True for status in statuses)}/{total}"


def _pod_status(pod: Object) -> str:
    if "deletionTimestamp" in pod["metadata"]:
        return "Terminating"
    for status in _items(pod, "status", "containerStatuses"):
        reason = _at(status, "state", "waiting", "reason") or _at(status, "state", "terminated", "reason")
        if reason:
            return str(reason)
    return str(_at(pod, "status", "reason") or _at(pod, "status", "phase") or "Unknown")


def _pod_restarts(pod: Object) -> str:
    return str(sum(s.get("restartCount", 0) for s in _items(pod, "status", "containerStatuses")))


def _service_external(service: Object) -> str:
    if _at(service, "spec", "type") == "ExternalName":
        return str(_at(service, "spec", "externalName"))
    ingress = _items(service, "status", "loadBalancer", "ingress")
    found = [entry.get("ip") or entry.get("hostname") for entry in ingress]
    found += _items(service, "spec", "externalIPs")
    if found:
        return ",".join(str(address) for address in found)
    return "<pending>" if _at(service, "spec", "type") == "LoadBalancer" else "<none>"


def _service_ports(service: Object) -> str:
    def shown(port: Object) -> str:
        node = f":{port['nodePort']}" if port.get("nodePort") else ""
        return f"{port['port']}{node}/{port.get('protocol', 'TCP')}"

    return ",".join(shown(port) for port in _items(service, "spec", "ports")) or "<none>"


def _containers(field: str) -> Callable[[Object], str]:
    def cell(item: Object) -> str:
        containers = _items(item, "spec", "template", "spec", "containers")
        return ",".join(str(container.get(field, "")) for container in containers)

    return cell


def _deployment_ready(item: Object) -> str:
    return f"{_at(item, 'status', 'readyReplicas') or 0}/{_at(item, 'spec', 'replicas') or 0}"


def _node_status(node: Object) -> str:
    ready = [c for c in _items(node, "status", "conditions") if c.get("type") == "Ready"]
    shown = (
        {"True": "Ready", "False": "NotReady"}.get(ready[0].get("status"), "Unknown") if ready else "Unknown"
    )
    return shown + (",SchedulingDisabled" if _at(node, "spec", "unschedulable") else "")


def _node_roles(node: Object) -> str:
    prefix = "node-role.kubernetes.io/"
    labels = node["metadata"].get("labels") or {}
    return ",".join(sorted(k.removeprefix(prefix) for k in labels if k.startswith(prefix))) or "<none>"


def _node_address(kind: str) -> Callable[[Object], str]:
    def cell(node: Object) -> str:
        found = [a["address"] for a in _items(node, "status", "addresses") if a.get("type") == kind]
        return str(found[0]) if found else "<none>"

    return cell


def _slice_ports(item: Object) -> str:
    return ",".join(str(port.get("port", "*")) for port in _items(item, "ports")) or "<unset>"


def _slice_endpoints(item: Object) -> str:
    found = [
        str(address) for endpoint in _items(item, "endpoints") for address in _items(endpoint, "addresses")
    ]
    return _shortened(found) or "<unset>"


def _endpoints(item: Object) -> str:
    found = [
        f"{address.get('ip')}:{port.get('port')}"
        for subset in _items(item, "subsets")
        for address in _items(subset, "addresses")
        for port in _items(subset, "ports")
    ]
    return _shortened(found) or "<none>"


def _shortened(values: list[str]) -> str:
    return ",".join(values[:3]) + (f" + {len(values) - 3} more..." if len(values) > 3 else "")


def _selector(*path: str) -> Callable[[Object], str]:
    return lambda item: selector_text(_at(item, *path)) or "<none>"


_AGE = Column("Age", lambda item: _age(item["metadata"].get("creationTimestamp")))

_WORKLOAD_WIDE = [
    Column("Containers", _containers("name"), wide=True),
    Column("Images", _containers("image"), wide=True),
    Column("Selector", _selector("spec", "selector"), wide=True),
]


def _node_info(title: str, field: str) -> Column:
    return Column(title, _field("status", "nodeInfo", field, absent="<unknown>"), wide=True)


_BY_KIND: dict[str, list[Column]] = {
    "Namespace": [Column("Status", _field("status", "phase"))],
    "Node": [
        Column("Status", _node_status),
        Column("Roles", _node_roles),
        _AGE,
        Column("Version", _field("status", "nodeInfo", "kubeletVersion", absent="")),
        Column("Internal-IP", _node_address("InternalIP"), wide=True),
        Column("External-IP", _node_address("ExternalIP"), wide=True),
        _node_info("OS-Image", "osImage"),
        _node_info("Kernel-Version", "kernelVersion"),
        _node_info("Container-Runtime", "containerRuntimeVersion"),
    ],
    "Pod": [
        Column("Ready", _pod_ready),
        Column("Status", _pod_status),
        Column("Restarts", _pod_restarts),
        Column("IP", _field("status", "podIP"), wide=True),
        Column("Node", _field("spec", "nodeName"), wide=True),
        Column("Nominated Node", _field("status", "nominatedNodeName"), wide=True),
        Column("Readiness Gates", lambda _pod: "<none>", wide=True),
    ],
    "Service": [
        Column("Type", _field("spec", "type")),
        Column("Cluster-IP", _field("spec", "clusterIP")),
        Column("External-IP", _service_external),
        Column("Port(s)", _service_ports),
        Column("Selector", _labels("spec", "selector"), wide=True),
    ],
    "Endpoints": [Column("Endpoints", _endpoints)],
    "ConfigMap": [Column("Data", _count("data"), "integer")],
    "Secret": [Column("Type", _field("type")), Column("Data", _count("data"), "integer")],
    "Deployment": [
        Column("Ready", _deployment_ready),
        Column("Up-to-date", _field("status", "updatedReplicas", absent=0), "integer"),
        Column("Available", _field("status", "availableReplicas", absent=0), "integer"),
        *_WORKLOAD_WIDE,
    ],
    "ReplicaSet": [
        Column("Desired", _field("spec", "replicas", absent=0), "integer"),
        Column("Current", _field("status", "replicas", absent=0), "integer"),
        Column("Ready", _field("status", "readyReplicas", absent=0), "integer"),
        *_WORKLOAD_WIDE,
    ],
    "EndpointSlice": [
        Column("AddressType", _field("addressType")),
        Column("Ports", _slice_ports),
        Column("Endpoints", _slice_endpoints),
    ],
    "NetworkPolicy": [Column("Pod-Selector", _selector("spec", "podSelector"))],
    "Lease": [Column("Holder", _field("spec", "holderIdentity", absent=""))],
    "CustomResourceDefinition": [
        Column("Created At", lambda item: item["metadata"].get("creationTimestamp", ""))
    ],
}

_EVENT = [
    Column("Last Seen", lambda e: _age(e.get("lastTimestamp") or e["metadata"].get("creationTimestamp"))),
    Column("Type", _field("type", absent="")),
    Column("Reason", _field("reason", absent="")),
    Column(
        "Object",
        lambda e: f"{_at(e, 'involvedObject', 'kind')}/{_at(e, 'involvedObject', 'name')}".lower(),
    ),
    Column("Message", _field("message", absent="")),
    Column("Name", lambda e: e["metadata"]["name"], wide=True),
]
