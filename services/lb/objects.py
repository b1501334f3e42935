"""The fields of Services and EndpointSlices that frontends and backends depend on.

Decoded JSON objects become narrow immutable structs; an object that does not fit is refused by name and
JSON path with :class:`ObjectRefused`.
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from ipaddress import ip_address
from typing import Annotated, Any, NamedTuple

import msgspec

from shared.contract.base import Protocol
from shared.contract.service import Backend, ServiceKind
from shared.kubernetes import KubernetesStruct, read_object

SERVICE_NAME_LABEL = "kubernetes.io/service-name"
"""On an EndpointSlice: the Service whose backends it lists."""
PROXY_NAME_LABEL = "service.kubernetes.io/service-proxy-name"
"""On a Service: another proxy than the cluster's own is in charge of it."""
DEFAULT_AFFINITY_SECONDS = 10800
"""``sessionAffinityConfig.clientIP.timeoutSeconds`` when absent (core/v1)."""

Port = Annotated[int, msgspec.Meta(ge=1, le=65535)]
NodePort = Annotated[int, msgspec.Meta(ge=0, le=65535)]
AffinitySeconds = Annotated[int, msgspec.Meta(ge=1, le=86400)]


class _ServiceType(StrEnum):
    CLUSTER_IP = "ClusterIP"
    NODE_PORT = "NodePort"
    LOAD_BALANCER = "LoadBalancer"
    EXTERNAL_NAME = "ExternalName"


class _TransportProtocol(StrEnum):
    TCP = "TCP"
    UDP = "UDP"
    SCTP = "SCTP"


class _AddressType(StrEnum):
    IPV4 = "IPv4"
    IPV6 = "IPv6"
    FQDN = "FQDN"


class _Affinity(StrEnum):
    NONE = "None"
    CLIENT_IP = "ClientIP"


class _TrafficPolicy(StrEnum):
    CLUSTER = "Cluster"
    LOCAL = "Local"


class _Metadata(KubernetesStruct, frozen=True, kw_only=True):
    uid: str = ""
    labels: dict[str, str] | None = None


class _ServicePort(KubernetesStruct, frozen=True, kw_only=True):
    port: Port
    name: str | None = None
    protocol: _TransportProtocol | None = None
    node_port: NodePort | None = None
    app_protocol: str | None = None


class _ClientIp(KubernetesStruct, frozen=True, kw_only=True):
    timeout_seconds: AffinitySeconds | None = None


class _AffinityConfig(KubernetesStruct, frozen=True, kw_only=True):
    client_ip: _ClientIp | None = msgspec.field(default=None, name="clientIP")


class _ServiceSpec(KubernetesStruct, frozen=True, kw_only=True):
    type: _ServiceType | None = None
    cluster_ip: str | None = msgspec.field(default=None, name="clusterIP")
    cluster_ips: tuple[str, ...] | None = msgspec.field(default=None, name="clusterIPs")
    external_ips: tuple[str, ...] | None = msgspec.field(default=None, name="externalIPs")
    ports: tuple[_ServicePort, ...] | None = None
    session_affinity: _Affinity | None = None
    session_affinity_config: _AffinityConfig | None = None
    internal_traffic_policy: _TrafficPolicy | None = None
    external_traffic_policy: _TrafficPolicy | None = None
    publish_not_ready_addresses: bool | None = None


class _Ingress(KubernetesStruct, frozen=True, kw_only=True):
    ip: str | None = None
    ip_mode: str | None = None


class _LoadBalancer(KubernetesStruct, frozen=True, kw_only=True):
    ingress: tuple[_Ingress, ...] | None = None


class _ServiceStatus(KubernetesStruct, frozen=True, kw_only=True):
    load_balancer: _LoadBalancer | None = None


class _Service(KubernetesStruct, frozen=True, kw_only=True):
    metadata: _Metadata
    spec: _ServiceSpec
    status: _ServiceStatus | None = None


class _Conditions(KubernetesStruct, frozen=True, kw_only=True):
    ready: bool | None = None
    serving: bool | None = None
    terminating: bool | None = None


class _TargetRef(KubernetesStruct, frozen=True, kw_only=True):
    kind: str | None = None
    namespace: str | None = None
    name: str | None = None


class _Endpoint(KubernetesStruct, frozen=True, kw_only=True):
    addresses: Annotated[tuple[str, ...], msgspec.Meta(min_length=1)]
    conditions: _Conditions | None = None
    target_ref: _TargetRef | None = None
    node_name: str | None = None
    zone: str | None = None


class _SlicePort(KubernetesStruct, frozen=True, kw_only=True):
    name: str | None = None
    protocol: _TransportProtocol | None = None
    port: Port | None = None


class _Labelled(KubernetesStruct, frozen=True, kw_only=True):
    metadata: _Metadata


class _EndpointSlice(KubernetesStruct, frozen=True, kw_only=True):
    metadata: _Metadata
    address_type: _AddressType
    endpoints: tuple[_Endpoint, ...] | None = None
    ports: tuple[_SlicePort, ...] | None = None


class ObjectName(NamedTuple):
    """Namespace and name."""

    namespace: str
    name: str


class FrontendPort(msgspec.Struct, frozen=True, kw_only=True):
    """One entry of ``spec.ports``."""

    name: str
    protocol: Protocol
    port: int
    node_port: int
    app_protocol: str


class Service(msgspec.Struct, frozen=True, kw_only=True):
    """A Service that has frontends."""

    namespace: str
    name: str
    uid: str
    kind: ServiceKind
    cluster_ips: tuple[str, ...]
    external_ips: tuple[str, ...]
    load_balancer_ips: tuple[str, ...]
    ports: tuple[FrontendPort, ...]
    affinity_seconds: int
    internal_local: bool
    external_local: bool
    publish_not_ready: bool


class SlicePortName(NamedTuple):
    """How a Service's port finds its number in a slice."""

    name: str
    protocol: Protocol


class EndpointSlice(msgspec.Struct, frozen=True, kw_only=True):
    """A slice as backends for each port it names."""

    service: ObjectName | None
    """None: it belongs to no Service."""
    backends: dict[SlicePortName, tuple[Backend, ...]]


def read_service(data: Mapping[str, Any], *, namespace: str, name: str) -> Service | None:
    """A ``v1`` Service, None for one without frontends here; raises :class:`ObjectRefused`.

    Without frontends are: headless ones, ExternalName, and those that name another proxy.
    """

    def make(raw: _Service) -> Service | None:
        spec = raw.spec
        kind = spec.type or _ServiceType.CLUSTER_IP
        cluster_ips = spec.cluster_ips or ((spec.cluster_ip,) if spec.cluster_ip else ())
        foreign = PROXY_NAME_LABEL in (raw.metadata.labels or {})
        if kind is _ServiceType.EXTERNAL_NAME or "None" in cluster_ips or foreign:
            return None
        return Service(
            namespace=namespace,
            name=name,
            uid=raw.metadata.uid,
            kind=ServiceKind(kind.value),
            cluster_ips=_frontend_ips(cluster_ips, field="spec.clusterIPs"),
            external_ips=_frontend_ips(spec.external_ips or (), field="spec.externalIPs"),
            load_balancer_ips=_frontend_ips(_ingress_ips(raw), field="status.loadBalancer.ingress"),
            ports=_frontend_ports(spec),
            affinity_seconds=_affinity_seconds(spec),
            internal_local=spec.internal_traffic_policy is _TrafficPolicy.LOCAL,
            external_local=spec.external_traffic_policy is _TrafficPolicy.LOCAL,
            publish_not_ready=bool(spec.publish_not_ready_addresses),
        )

    return read_object(data, as_type=_Service, make=make, kind="Service", namespace=namespace, name=name)


def _frontend_ports(spec: _ServiceSpec) -> tuple[FrontendPort, ...]:
    ports: dict[tuple[Protocol, int], FrontendPort] = {}
    for index, raw in enumerate(spec.ports or ()):
        port = FrontendPort(
            name=raw.name or "",
            protocol=Protocol(raw.protocol or _TransportProtocol.TCP),
            port=raw.port,
            node_port=raw.node_port or 0,
            app_protocol=raw.app_protocol or "",
        )
        if ports.setdefault((port.protocol, port.port), port) is not port:
            raise ValueError(f"spec.ports[{index}]: {port.protocol} {port.port} is there already")
    return tuple(ports.values())


def _affinity_seconds(spec: _ServiceSpec) -> int:
    if spec.session_affinity is not _Affinity.CLIENT_IP:
        return 0
    config = spec.session_affinity_config
    told = config.client_ip.timeout_seconds if config and config.client_ip else None
    return told or DEFAULT_AFFINITY_SECONDS


def _ingress_ips(raw: _Service) -> tuple[str, ...]:
    """Addresses to serve on nodes; with ipMode ``Proxy`` packets must go to the load balancer itself."""
    balancer = raw.status.load_balancer if raw.status else None
    ingress = balancer.ingress if balancer else None
    return tuple(entry.ip for entry in ingress or () if entry.ip and entry.ip_mode != "Proxy")


def _frontend_ips(addresses: tuple[str, ...], *, field: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(_canonical(address, field=field) for address in addresses if address))


def _canonical(address: str, *, field: str) -> str:
    """The address in canonical form; refuses those that mean another host on every node, as core/v1 does."""
    try:
        ip = ip_address(address)
    except ValueError as error:
        raise ValueError(f"{field}: {error}") from error
    if ip.is_loopback or ip.is_unspecified or ip.is_multicast or ip.is_link_local:
        raise ValueError(f"{field}: {ip} is loopback, unspecified, multicast or link-local")
    return str(ip)


def read_slice(data: Mapping[str, Any], *, namespace: str, name: str) -> EndpointSlice:
    """A ``discovery.k8s.io/v1`` EndpointSlice; raises :class:`ObjectRefused`.

    Of an endpoint's addresses the first counts. Absent conditions: ready, serving, not terminating. A port
    without a number (any port) has no backends, because a Service cannot choose one.
    """

    def make(raw: _EndpointSlice) -> EndpointSlice:
        owner = (raw.metadata.labels or {}).get(SERVICE_NAME_LABEL)
        backends: dict[SlicePortName, tuple[Backend, ...]] = {}
        if raw.address_type is not _AddressType.FQDN:
            for port in raw.ports or ():
                if port.port is not None:
                    protocol = Protocol(port.protocol or _TransportProtocol.TCP)
                    backends[SlicePortName(port.name or "", protocol)] = _backends(raw, port.port)
        return EndpointSlice(service=ObjectName(namespace, owner) if owner else None, backends=backends)

    return read_object(
        data, as_type=_EndpointSlice, make=make, kind="EndpointSlice", namespace=namespace, name=name
    )


def owner_of_slice(data: Mapping[str, Any], *, namespace: str) -> ObjectName | None:
    """The Service of a slice that cannot be read otherwise, None when even that cannot."""
    try:
        labels = msgspec.convert(data, type=_Labelled).metadata.labels or {}
    except msgspec.ValidationError:
        return None
    owner = labels.get(SERVICE_NAME_LABEL)
    return ObjectName(namespace, owner) if owner else None


def _backends(raw: _EndpointSlice, port: int) -> tuple[Backend, ...]:
    backends = []
    version = 6 if raw.address_type is _AddressType.IPV6 else 4
    for index, endpoint in enumerate(raw.endpoints or ()):
        field = f"endpoints[{index}].addresses[0]"
        ip = _canonical(endpoint.addresses[0], field=field)
        if ip_address(ip).version != version:
            raise ValueError(f"{field}: {ip} is no {raw.address_type} address")
        conditions = endpoint.conditions or _Conditions()
        target = endpoint.target_ref or _TargetRef()
        is_pod = target.kind == "Pod"
        backends.append(
            Backend(
                ip=ip,
                port=port,
                node=endpoint.node_name or "",
                zone=endpoint.zone or "",
                namespace=(target.namespace or "") if is_pod else "",
                pod=(target.name or "") if is_pod else "",
                ready=conditions.ready is not False,
                serving=conditions.serving is not False,
                terminating=bool(conditions.terminating),
            )
        )
    return tuple(backends)
