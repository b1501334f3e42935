"""What the identity service publishes, and the claims that datapaths make to it.

Buckets ``identities``, ``ipcache``, ``endpoints``, ``nodes``, ``settings`` are written by the identity
service alone, ``claims`` by each datapath below its own node's prefix.
"""

from __future__ import annotations

import msgspec

from shared.contract.base import Identity, Message, Protocol


class NamedPort(msgspec.Struct, frozen=True, kw_only=True, order=True):
    """A container port that has a name (``core/v1`` ContainerPort)."""

    protocol: Protocol
    name: str
    port: int


class IdentityRecord(Message, frozen=True, kw_only=True):
    """Bucket ``identities``: the label set behind a number. Immutable for the life of the number."""

    id: Identity
    namespace: str = ""
    namespace_labels: dict[str, str] = msgspec.field(default_factory=dict)
    service_account: str = ""
    pod_labels: dict[str, str] = msgspec.field(default_factory=dict)
    labels: tuple[str, ...] = ()
    """All labels as Hubble prints them (``k8s:app=web``), sorted."""
    named_ports: tuple[NamedPort, ...] = ()
    """Of its pods, sorted; pods that differ in them have different identities."""


class IpEntry(Message, frozen=True, kw_only=True):
    """Bucket ``ipcache``: which identity an address has. Pods, and the nodes themselves."""

    ip: str
    identity: Identity
    node: str
    namespace: str = ""
    pod: str = ""
    """Empty for an address of the node itself."""
    workload: str = ""
    workload_kind: str = ""


class EndpointRecord(Message, frozen=True, kw_only=True):
    """Bucket ``endpoints``: a pod bound to a node. Published before the pod has an address."""

    node: str
    namespace: str
    name: str
    uid: str
    identity: Identity
    ips: tuple[str, ...] = ()
    """Addresses that the ipcache holds for this pod; empty until its claim or status is known."""


class NodeRecord(Message, frozen=True, kw_only=True):
    """Bucket ``nodes``."""

    name: str
    addresses: tuple[str, ...] = ()
    """InternalIP and ExternalIP of the Node's status."""
    pod_cidrs: tuple[str, ...] = ()
    use_cilium: bool = False
    """Annotation ``azure.microsoft.com/use-cilium`` is ``"true"``."""
    zone: str = ""
    labels: dict[str, str] = msgspec.field(default_factory=dict)


class LabelRules(Message, frozen=True, kw_only=True):
    """Bucket ``settings``: which pod labels make identities, and so which ones policies can select by."""

    excluded: tuple[str, ...]
    """Sorted keys that are left out, or prefixes of keys where they end in ``*``."""


class Claim(Message, frozen=True, kw_only=True):
    """Bucket ``claims``: a datapath says which addresses it gave a pod, before the API server knows.

    The identity service believes it only when the pod is bound to the claiming node.
    """

    node: str
    namespace: str
    pod: str
    uid: str
    """Empty when the runtime did not tell (CNI_ARGS without K8S_POD_UID)."""
    container_id: str
    ips: tuple[str, ...]
