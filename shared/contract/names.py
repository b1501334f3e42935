"""Names on NATS: buckets, keys inside them, and subjects.

Kubernetes names may hold dots, which separate tokens on NATS; ``token`` writes them as ``_``, which no
Kubernetes name holds, so the mapping is one to one.
"""

from __future__ import annotations

from enum import StrEnum
from ipaddress import ip_address, ip_network


class Bucket(StrEnum):
    """The JetStream key-value buckets of a cluster."""

    IDENTITIES = "identities"
    IPCACHE = "ipcache"
    ENDPOINTS = "endpoints"
    NODES = "nodes"
    CLAIMS = "claims"
    POLICY = "policy"
    POLICY_STATUS = "policy-status"
    SERVICES = "services"
    REALISED = "realised"
    ALLOCATIONS = "allocations"
    SETTINGS = "settings"

    def of(self, cluster: str) -> str:
        """The bucket's full name, ``stentor-<cluster>-<bucket>``."""
        return f"stentor-{cluster}-{self.value}"


def token(name: str) -> str:
    """A Kubernetes name as one NATS token."""
    return name.replace(".", "_")


def ip_key(ip: str) -> str:
    """An address as one token: ``10-0-1-5``, or ``fd00-0000-...`` with all eight groups."""
    return ip_address(ip).exploded.replace(".", "-").replace(":", "-")


def cidr_key(cidr: str) -> str:
    """A prefix as one token: the address as in :func:`ip_key`, then ``_`` and the length."""
    network = ip_network(cidr)
    return f"{ip_key(str(network.network_address))}_{network.prefixlen}"


def pod_key(*, node: str, namespace: str, pod: str) -> str:
    """Key of an endpoint or claim: ``<node>.<namespace>.<pod>``."""
    return f"{token(node)}.{token(namespace)}.{token(pod)}"


def policy_status_key(*, kind: str, namespace: str, name: str) -> str:
    """Key of a policy's status: ``<kind>.<namespace>.<name>``, ``-`` for a cluster-wide one's namespace."""
    return f"{kind}.{token(namespace) or '-'}.{token(name)}"


def service_key(*, namespace: str, name: str) -> str:
    """Key of a Service: ``service.<namespace>.<name>``."""
    return f"service.{token(namespace)}.{token(name)}"


COMMIT_KEY = "commit"
"""Key that closes a publication in the buckets ``policy`` and ``services``."""


LABELS_KEY = "labels"
"""Key in the bucket ``settings`` of which labels make identities."""


def flow_subject(*, cluster: str, node: str, verdict: str) -> str:
    """Where a node's flows go; subscribe to ``stentor.<cluster>.flow.>`` for all."""
    return f"stentor.{cluster}.flow.{token(node)}.{verdict}"


def event_subject(*, cluster: str, service: str, kind: str) -> str:
    """Where events for operators go."""
    return f"stentor.{cluster}.event.{service}.{kind}"


def health_subject(*, cluster: str) -> str:
    """Requests here are answered by every service with its health."""
    return f"stentor.{cluster}.health"
