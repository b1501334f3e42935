"""The few checks made on every write, each naming the field it refuses.

Checked: names, the shape of metadata, and what the controllers and the address allocation could not work
without. Deliberately unchecked: the meaning of NetworkPolicies and custom policies. Refusing those by name is
the policy service's duty, so they must be storable here. Rules: Kubernetes "Object Names and IDs", "Labels
and Selectors".
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable
from typing import Any, TypeAlias

from .errors import FieldCause, Invalid
from .resources import ResourceType

Object: TypeAlias = dict[str, Any]

_SUBDOMAIN = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_LABEL = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_SERVICE_NAME = re.compile(r"[a-z]([-a-z0-9]*[a-z0-9])?")
_VALUE = re.compile(r"([A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?)?")
_ONE_LABEL_KINDS = frozenset({"Namespace"})
_SERVICE_TYPES = ("ClusterIP", "ExternalName", "LoadBalancer", "NodePort")
_PROTOCOLS = ("SCTP", "TCP", "UDP")


def validate(new: Object, *, resource: ResourceType, old: Object | None) -> None:
    """Raise ``Invalid`` naming every field of ``new`` that cannot be stored; ``old`` is what it replaces."""
    causes = _metadata(new["metadata"], resource)
    if resource.built_in and (check := _BY_KIND.get(resource.kind)) is not None:
        causes += check(new, old)
    if causes:
        raise Invalid.of(resource, new["metadata"].get("name") or "", causes)


def invalid(field: str, value: Any, why: str) -> FieldCause:
    """A field whose value is not acceptable."""
    shown = f'"{value}"' if isinstance(value, str) else str(value)
    return FieldCause(field, "FieldValueInvalid", f"Invalid value: {shown}: {why}")


def required(field: str, why: str = "") -> FieldCause:
    """A field that must be set and is not."""
    return FieldCause(field, "FieldValueRequired", "Required value" + (f": {why}" if why else ""))


def _unsupported(field: str, value: Any, supported: tuple[str, ...]) -> FieldCause:
    listed = ", ".join(f'"{item}"' for item in supported)
    return FieldCause(
        field, "FieldValueNotSupported", f'Unsupported value: "{value}": supported values: {listed}'
    )


def _metadata(metadata: Object, resource: ResourceType) -> list[FieldCause]:
    causes: list[FieldCause] = []
    name = metadata.get("name")
    if not name:
        causes.append(required("metadata.name", "name or generateName is required"))
    elif resource.kind == "Service" and resource.built_in:
        if not (_SERVICE_NAME.fullmatch(name) and len(name) <= 63):
            causes.append(invalid("metadata.name", name, "a DNS-1035 label: a-z, 0-9, '-', at most 63"))
    elif resource.kind in _ONE_LABEL_KINDS:
        if not (_LABEL.fullmatch(name) and len(name) <= 63):
            causes.append(invalid("metadata.name", name, "a lowercase RFC 1123 label is needed"))
    elif not (_SUBDOMAIN.fullmatch(name) and len(name) <= 253):
        causes.append(invalid("metadata.name", name, "a lowercase RFC 1123 subdomain is needed"))
    for field in ("labels", "annotations"):
        for key, value in (metadata.get(field) or {}).items():
            if not isinstance(value, str):
                causes.append(invalid(f"metadata.{field}", value, f"the value of {key!r} is not a string"))
            elif field == "labels" and not (_VALUE.fullmatch(value) and len(value) <= 63):
                causes.append(invalid("metadata.labels", value, f"not a label value (of key {key!r})"))
    return causes


def _items(parent: Object, name: str) -> list[Any]:
    items = parent.get(name)
    return items if isinstance(items, list) else []


def _pod(new: Object, old: Object | None) -> list[FieldCause]:
    causes = _pod_spec(new["spec"], "spec")
    if old is not None and (node := old["spec"].get("nodeName")) and new["spec"].get("nodeName") != node:
        causes.append(invalid("spec.nodeName", new["spec"].get("nodeName"), "field is immutable once set"))
    return causes


def _pod_spec(spec: Object, where: str) -> list[FieldCause]:
    causes: list[FieldCause] = []
    containers = _items(spec, "containers")
    if not containers:
        causes.append(required(f"{where}.containers"))
    names: set[str] = set()
    for index, container in enumerate(containers):
        field = f"{where}.containers[{index}]"
        name = container.get("name") if isinstance(container, dict) else None
        if not isinstance(name, str) or not name:
            causes.append(required(f"{field}.name"))
        elif name in names:
            causes.append(FieldCause(f"{field}.name", "FieldValueDuplicate", f'Duplicate value: "{name}"'))
        else:
            names.add(name)
    return causes


def _workload(new: Object, old: Object | None) -> list[FieldCause]:
    spec = new["spec"]
    causes: list[FieldCause] = []
    replicas = spec.get("replicas")
    if not isinstance(replicas, int) or replicas < 0:
        causes.append(invalid("spec.replicas", replicas, "must be greater than or equal to 0"))
    selector = spec.get("selector")
    if not isinstance(selector, dict) or not (
        selector.get("matchLabels") or selector.get("matchExpressions")
    ):
        causes.append(required("spec.selector"))
    else:
        labels = (spec["template"].get("metadata") or {}).get("labels") or {}
        wanted = selector.get("matchLabels") or {}
        if any(labels.get(key) != value for key, value in wanted.items()):
            why = "`selector` does not match template `labels`"
            causes.append(invalid("spec.template.metadata.labels", labels, why))
        if old is not None and selector != old["spec"].get("selector"):
            causes.append(invalid("spec.selector", selector, "field is immutable"))
    return causes + _pod_spec(spec["template"].get("spec") or {}, "spec.template.spec")


def _service(new: Object, old: Object | None) -> list[FieldCause]:
    spec = new["spec"]
    causes: list[FieldCause] = []
    if spec["type"] not in _SERVICE_TYPES:
        causes.append(_unsupported("spec.type", spec["type"], _SERVICE_TYPES))
    if spec["type"] == "ExternalName":
        if not spec.get("externalName"):
            causes.append(required("spec.externalName"))
        return causes
    ports = _items(spec, "ports")
    if not ports and spec.get("clusterIP") != "None":
        causes.append(required("spec.ports"))
    causes += _service_ports(ports)
    for index, address in enumerate(_items(spec, "clusterIPs")):
        if address != "None" and not _is_ip(address):
            causes.append(invalid(f"spec.clusterIPs[{index}]", address, "must be empty, 'None' or an IP"))
    if old is not None and old["spec"].get("clusterIP") and old["spec"]["type"] != "ExternalName":
        address = spec.get("clusterIP")
        if address != old["spec"]["clusterIP"]:
            causes.append(invalid("spec.clusterIPs[0]", address, "may not change once set"))
    return causes


def _service_ports(ports: list[Any]) -> list[FieldCause]:
    causes: list[FieldCause] = []
    names: set[str] = set()
    taken: set[tuple[Any, Any]] = set()
    for index, port in enumerate(ports):
        field = f"spec.ports[{index}]"
        number, protocol, name = port.get("port"), port.get("protocol"), port.get("name") or ""
        if not isinstance(number, int) or not 1 <= number <= 65535:
            causes.append(invalid(f"{field}.port", number, "must be between 1 and 65535, inclusive"))
        target = port.get("targetPort")
        if isinstance(target, int) and not 1 <= target <= 65535:
            causes.append(invalid(f"{field}.targetPort", target, "must be between 1 and 65535, inclusive"))
        if protocol not in _PROTOCOLS:
            causes.append(_unsupported(f"{field}.protocol", protocol, _PROTOCOLS))
        if len(ports) > 1 and not name:
            causes.append(required(f"{field}.name"))
        if (name and name in names) or (number, protocol) in taken:
            duplicate = name if name in names else f"{number}/{protocol}"
            causes.append(FieldCause(field, "FieldValueDuplicate", f'Duplicate value: "{duplicate}"'))
        names.add(name)
        taken.add((number, protocol))
    return causes


def _is_ip(text: Any) -> bool:
    try:
        ipaddress.ip_address(text)
    except ValueError:
        return False
    return True


def _endpoint_slice(new: Object, old: Object | None) -> list[FieldCause]:
    family = new.get("addressType")
    supported = ("FQDN", "IPv4", "IPv6")
    if family not in supported:
        return [_unsupported("addressType", family, supported)]
    if old is not None and old["addressType"] != family:
        return [invalid("addressType", family, "field is immutable")]
    return []


def _definition(new: Object, _old: Object | None) -> list[FieldCause]:
    spec, name = new["spec"], new["metadata"]["name"]
    names = spec["names"]
    causes = [
        required(f"spec.{field}")
        for field, value in (
            ("group", spec.get("group")),
            ("names.plural", names.get("plural")),
            ("names.kind", names.get("kind")),
            ("versions", _items(spec, "versions")),
        )
        if not value
    ]
    if spec.get("scope") not in ("Cluster", "Namespaced"):
        causes.append(_unsupported("spec.scope", spec.get("scope"), ("Cluster", "Namespaced")))
    if not causes and name != f"{names['plural']}.{spec['group']}":
        causes.append(invalid("metadata.name", name, 'must be spec.names.plural+"."+spec.group'))
    if sum(version.get("storage") is True for version in _items(spec, "versions")) != 1:
        causes.append(invalid("spec.versions", "", "must have exactly one version marked as storage version"))
    return causes


_BY_KIND: dict[str, Callable[[Object, Object | None], list[FieldCause]]] = {
    "Pod": _pod,
    "Deployment": _workload,
    "ReplicaSet": _workload,
    "Service": _service,
    "EndpointSlice": _endpoint_slice,
    "CustomResourceDefinition": _definition,
}
