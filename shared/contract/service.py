"""What the lb service publishes: bucket ``services``, one record for each Kubernetes Service."""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum

import msgspec

from shared.contract.base import Message, Protocol
from shared.contract.names import COMMIT_KEY


class ServiceKind(StrEnum):
    """``spec.type`` of a Service that has frontends."""

    CLUSTER_IP = "ClusterIP"
    NODE_PORT = "NodePort"
    LOAD_BALANCER = "LoadBalancer"


class Backend(msgspec.Struct, frozen=True, kw_only=True, order=True):
    """One address and port that serves; conditions as in ``discovery.k8s.io/v1`` Endpoint."""

    ip: str
    port: int
    node: str = ""
    zone: str = ""
    namespace: str = ""
    pod: str = ""
    ready: bool = True
    serving: bool = True
    terminating: bool = False
    weight: int = 1


class ServicePort(msgspec.Struct, frozen=True, kw_only=True):
    """One port of a Service with the backends that serve it, sorted, without duplicates."""

    name: str
    protocol: Protocol
    port: int
    node_port: int = 0
    app_protocol: str = ""
    backends: tuple[Backend, ...] = ()


class ServiceRecord(Message, frozen=True, kw_only=True):
    """A Service. Frontends are every address of the record with every port."""

    namespace: str
    name: str
    uid: str
    kind: ServiceKind
    cluster_ips: tuple[str, ...] = ()
    external_ips: tuple[str, ...] = ()
    load_balancer_ips: tuple[str, ...] = ()
    ports: tuple[ServicePort, ...] = ()
    affinity_seconds: int = 0
    """0: no session affinity."""
    internal_local: bool = False
    external_local: bool = False


class ServicesSynced(Message, frozen=True, kw_only=True):
    """Key ``commit`` of ``services``: the records before it are complete; its sequence is the revision."""

    time: str
    services: int
    backends: int


SERVICE_TYPES: Mapping[str, type[Message]] = {"service": ServiceRecord, COMMIT_KEY: ServicesSynced}
"""Bucket ``services``: the message type by the first token of the key."""
