"""Small Kubernetes objects and inputs for tests."""

from __future__ import annotations

from typing import Any

from services.identity.desired import DesiredState
from services.identity.labels import LabelsHash
from services.identity.objects import Pod, PodName, read_node, read_pod
from shared.contract.base import Identity
from shared.contract.identity import Claim
from shared.contract.names import pod_key
from shared.labels import LabelFilter
from shared.runtime.notices import Notices


def pod_object(
    name: str = "web-1",
    *,
    namespace: str = "default",
    node: str = "node-1",
    uid: str = "",
    labels: dict[str, str] | None = None,
    ips: tuple[str, ...] = (),
    phase: str = "Running",
    created: str = "2026-01-01T00:00:00Z",
    deleting: bool = False,
    host_network: bool = False,
    owner: tuple[str, str] | None = None,
) -> dict[str, Any]:
    """A ``v1`` Pod as the API server gives it."""
    metadata: dict[str, Any] = {
        "name": name,
        "namespace": namespace,
        "uid": uid or f"uid-{namespace}-{name}",
        "creationTimestamp": created,
        "labels": {"app": "web"} if labels is None else labels,
    }
    if deleting:
        metadata["deletionTimestamp"] = "2026-01-02T00:00:00Z"
    if owner:
        metadata["ownerReferences"] = [
            {"kind": owner[0], "name": owner[1], "controller": True, "apiVersion": "apps/v1", "uid": "o"}
        ]
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata,
        "spec": {
            "nodeName": node,
            "hostNetwork": host_network,
            "serviceAccountName": "default",
            "containers": [{"name": "c", "image": "nginx"}],
        },
        "status": {"phase": phase, "podIPs": [{"ip": ip} for ip in ips]},
    }


def pod(name: str = "web-1", **fields: Any) -> Pod:
    """The pod as the service reads it."""
    return read_pod(pod_object(name, **fields), namespace=fields.get("namespace", "default"), name=name)


def node_object(
    name: str = "node-1",
    *,
    addresses: tuple[str, ...] = (),
    cidrs: tuple[str, ...] = (),
    annotations: dict[str, str] | None = None,
) -> dict[str, Any]:
    """A ``v1`` Node as the API server gives it."""
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": {
            "name": name,
            "creationTimestamp": "2026-01-01T00:00:00Z",
            "annotations": annotations or {},
            "labels": {"topology.kubernetes.io/zone": "z1"},
        },
        "spec": {"podCIDRs": list(cidrs)},
        "status": {"addresses": [{"type": "InternalIP", "address": address} for address in addresses]},
    }


def claim(name: str = "web-1", *, ips: tuple[str, ...], node: str = "node-1", uid: str = "") -> Claim:
    """A claim for a pod of namespace ``default``."""
    return Claim(node=node, namespace="default", pod=name, uid=uid, container_id="c", ips=ips)


class Cluster:
    """A desired state that is fed directly and numbers label sets in order of appearance."""

    def __init__(self) -> None:
        self.notices = Notices()
        self.desired = DesiredState(cluster="test", label_filter=LabelFilter(), notices=self.notices)
        self.numbers: dict[LabelsHash, Identity] = {}
        self.desired.set_namespace("default", {"kubernetes.io/metadata.name": "default"})
        self.node("node-1", cidrs=("10.0.1.0/24",))
        self.node("node-2", cidrs=("10.0.2.0/24",))

    def node(self, name: str, **fields: Any) -> None:
        self.desired.set_node(name, read_node(node_object(name, **fields), name=name))

    def pod(self, name: str = "web-1", **fields: Any) -> None:
        self.desired.set_pod(PodName(fields.get("namespace", "default"), name), pod(name, **fields))

    def no_pod(self, name: str) -> None:
        self.desired.set_pod(PodName("default", name), None)

    def claim(self, name: str = "web-1", *, key: str | None = None, **fields: Any) -> None:
        made = claim(name, **fields)
        self.desired.set_claim(key or pod_key(node=made.node, namespace="default", pod=name), made)

    def settle(self) -> set[str]:
        """Settle, number what is new, settle again; the keys that changed as ``bucket/key``."""
        changed = self.desired.settle()
        for labels in tuple(self.desired.unnumbered):
            number = self.numbers.setdefault(labels, Identity(256 + len(self.numbers)))
            self.desired.set_number(labels, number)
        changed |= self.desired.settle()
        return {f"{change.bucket}/{change.key}" for change in changed}

    def ip(self, ip: str) -> Any:
        """The ipcache entry of an address."""
        return self.desired.ipcache.get(ip.replace(".", "-").replace(":", "-"))

    def endpoint(self, name: str = "web-1", *, node: str = "node-1") -> Any:
        return self.desired.endpoints.get(f"{node}.default.{name}")

    def told(self) -> list[str]:
        """Kinds and objects of the notices since the last call."""
        return [f"{notice.kind}: {notice.object}" for notice in self.notices.drain()]
