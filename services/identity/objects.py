"""The few fields of Pods, Namespaces and Nodes that identities depend on.

Decoded JSON objects become narrow immutable structs; an object that does not fit is refused by name and
JSON path with :class:`ObjectRefused`, and the caller keeps the last good one.
"""

from __future__ import annotations

from collections.abc import Mapping
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Any, NamedTuple

import msgspec

from shared.contract.base import Protocol
from shared.contract.identity import NamedPort
from shared.kubernetes import KubernetesStruct, read_object

USE_CILIUM_ANNOTATION = "azure.microsoft.com/use-cilium"
ZONE_LABEL = "topology.kubernetes.io/zone"
TEMPLATE_HASH_LABEL = "pod-template-hash"
TERMINAL_PHASES = frozenset({"Succeeded", "Failed"})
NODE_ADDRESS_TYPES = frozenset({"InternalIP", "ExternalIP"})

Network = IPv4Network | IPv6Network


class _Owner(KubernetesStruct, frozen=True, kw_only=True):
    kind: str
    name: str
    controller: bool | None = None


class _Metadata(KubernetesStruct, frozen=True, kw_only=True):
    uid: str = ""
    creation_timestamp: str | None = None
    deletion_timestamp: str | None = None
    labels: dict[str, str] | None = None
    annotations: dict[str, str] | None = None
    owner_references: tuple[_Owner, ...] | None = None


class _PodIp(KubernetesStruct, frozen=True, kw_only=True):
    ip: str | None = None


class _ContainerPort(KubernetesStruct, frozen=True, kw_only=True):
    container_port: int
    name: str | None = None
    protocol: str | None = None


class _Container(KubernetesStruct, frozen=True, kw_only=True):
    ports: tuple[_ContainerPort, ...] | None = None
    restart_policy: str | None = None


class _PodSpec(KubernetesStruct, frozen=True, kw_only=True):
    node_name: str | None = None
    containers: tuple[_Container, ...] | None = None
    init_containers: tuple[_Container, ...] | None = None
    host_network: bool | None = None
    service_account_name: str | None = None


class _PodStatus(KubernetesStruct, frozen=True, kw_only=True):
    phase: str | None = None
    pod_ip: str | None = msgspec.field(default=None, name="podIP")
    pod_ips: tuple[_PodIp, ...] | None = msgspec.field(default=None, name="podIPs")


class _Pod(KubernetesStruct, frozen=True, kw_only=True):
    metadata: _Metadata
    spec: _PodSpec
    status: _PodStatus | None = None


class _Namespace(KubernetesStruct, frozen=True, kw_only=True):
    metadata: _Metadata


class _NodeSpec(KubernetesStruct, frozen=True, kw_only=True):
    pod_cidr: str | None = msgspec.field(default=None, name="podCIDR")
    pod_cidrs: tuple[str, ...] | None = msgspec.field(default=None, name="podCIDRs")


class _NodeAddress(KubernetesStruct, frozen=True, kw_only=True):
    type: str
    address: str


class _NodeStatus(KubernetesStruct, frozen=True, kw_only=True):
    addresses: tuple[_NodeAddress, ...] | None = None


class _Node(KubernetesStruct, frozen=True, kw_only=True):
    metadata: _Metadata
    spec: _NodeSpec | None = None
    status: _NodeStatus | None = None


class PodName(NamedTuple):
    """Namespace and name: what identifies a pod at one time."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"Pod {self.namespace}/{self.name}"


class Pod(msgspec.Struct, frozen=True, kw_only=True):
    """A pod as far as identities go."""

    namespace: str
    name: str
    uid: str
    node: str
    """Empty until bound."""
    created: str
    """RFC 3339 with seconds, UTC: compares as text."""
    deleting: bool
    terminal: bool
    """Phase Succeeded or Failed: its addresses are free for others."""
    host_network: bool
    service_account: str
    labels: dict[str, str]
    named_ports: tuple[NamedPort, ...]
    """Of its containers and sidecars, sorted; of one name and protocol the first."""
    ips: tuple[str, ...]
    """``status.podIPs`` in canonical form."""
    workload: str
    workload_kind: str

    @property
    def key(self) -> PodName:
        """Namespace and name."""
        return PodName(self.namespace, self.name)

    @property
    def has_endpoint(self) -> bool:
        """Bound, running or about to, with a network namespace of its own."""
        return bool(self.node) and not self.terminal and not self.host_network


class Node(msgspec.Struct, frozen=True, kw_only=True):
    """A node as far as identities go."""

    name: str
    created: str
    addresses: tuple[str, ...]
    """InternalIP and ExternalIP in canonical form."""
    pod_cidrs: tuple[Network, ...]
    use_cilium: bool
    zone: str
    labels: dict[str, str]


def read_pod(data: Mapping[str, Any], *, namespace: str, name: str) -> Pod:
    """A ``v1`` Pod; raises :class:`ObjectRefused`."""

    def make(raw: _Pod) -> Pod:
        status = raw.status or _PodStatus()
        labels = raw.metadata.labels or {}
        ips = [entry.ip for entry in status.pod_ips or () if entry.ip] or (
            [status.pod_ip] if status.pod_ip else []
        )
        workload, workload_kind = _workload(raw.metadata, pod=name)
        return Pod(
            namespace=namespace,
            name=name,
            uid=raw.metadata.uid,
            node=raw.spec.node_name or "",
            created=raw.metadata.creation_timestamp or "",
            deleting=raw.metadata.deletion_timestamp is not None,
            terminal=status.phase in TERMINAL_PHASES,
            host_network=bool(raw.spec.host_network),
            service_account=raw.spec.service_account_name or "",
            labels=labels,
            named_ports=_named_ports(raw.spec),
            ips=tuple(dict.fromkeys(str(ip_address(ip)) for ip in ips)),
            workload=workload,
            workload_kind=workload_kind,
        )

    return read_object(data, as_type=_Pod, make=make, kind="Pod", namespace=namespace, name=name)


def read_namespace(data: Mapping[str, Any], *, name: str) -> dict[str, str]:
    """The labels of a ``v1`` Namespace; raises :class:`ObjectRefused`."""
    return read_object(
        data,
        as_type=_Namespace,
        make=lambda raw: raw.metadata.labels or {},
        kind="Namespace",
        namespace="",
        name=name,
    )


def read_node(data: Mapping[str, Any], *, name: str) -> Node:
    """A ``v1`` Node; raises :class:`ObjectRefused`."""

    def make(raw: _Node) -> Node:
        spec = raw.spec or _NodeSpec()
        status = raw.status or _NodeStatus()
        cidrs = spec.pod_cidrs or ((spec.pod_cidr,) if spec.pod_cidr else ())
        addresses = [entry.address for entry in status.addresses or () if entry.type in NODE_ADDRESS_TYPES]
        labels = raw.metadata.labels or {}
        return Node(
            name=name,
            created=raw.metadata.creation_timestamp or "",
            addresses=tuple(dict.fromkeys(str(ip_address(address)) for address in addresses)),
            pod_cidrs=tuple(ip_network(cidr, strict=False) for cidr in cidrs),
            use_cilium=(raw.metadata.annotations or {}).get(USE_CILIUM_ANNOTATION) == "true",
            zone=labels.get(ZONE_LABEL, ""),
            labels=labels,
        )

    return read_object(data, as_type=_Node, make=make, kind="Node", namespace="", name=name)


def _named_ports(spec: _PodSpec) -> tuple[NamedPort, ...]:
    sidecars = [each for each in spec.init_containers or () if each.restart_policy == "Always"]
    found: dict[tuple[Protocol, str], NamedPort] = {}
    for container in (*(spec.containers or ()), *sidecars):
        for port in container.ports or ():
            if port.name:
                protocol = Protocol(port.protocol or Protocol.TCP)
                named = NamedPort(protocol=protocol, name=port.name, port=port.container_port)
                found.setdefault((protocol, port.name), named)
    return tuple(sorted(found.values()))


def _workload(metadata: _Metadata, *, pod: str) -> tuple[str, str]:
    """Name and kind of what runs the pod: its controller, a Deployment in place of its ReplicaSet."""
    owner = next((owner for owner in metadata.owner_references or () if owner.controller), None)
    if owner is None:
        return pod, "Pod"
    template_hash = (metadata.labels or {}).get(TEMPLATE_HASH_LABEL, "")
    if owner.kind == "ReplicaSet" and template_hash and owner.name.endswith(f"-{template_hash}"):
        return owner.name.removesuffix(f"-{template_hash}"), "Deployment"
    return owner.name, owner.kind
