"""What a NetworkPolicy means, written down from the Kubernetes API reference as plainly as possible.

It shares no code with the service and has no notion of identities, classes or sets: each question goes
through all policies and all their peers.
"""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass, field
from functools import cache
from typing import Any

# Thousands of questions are about the same few texts.
_address = cache(ipaddress.ip_address)
_network = cache(ipaddress.ip_network)


@dataclass(frozen=True)
class Pod:
    """A pod with its own network namespace."""

    name: str
    namespace: str
    labels: dict[str, str]
    ips: tuple[str, ...]
    ports: tuple[tuple[str, str, int], ...] = ()
    """Named container ports: protocol, name, number."""


@dataclass
class Cluster:
    """Everything that verdicts depend on."""

    namespaces: dict[str, dict[str, str]] = field(default_factory=dict)
    pods: dict[str, Pod] = field(default_factory=dict)
    policies: dict[tuple[str, str], dict[str, Any]] = field(default_factory=dict)

    def pod_at(self, ip: str) -> Pod | None:
        """The pod with an address."""
        return next((pod for pod in self.pods.values() if ip in pod.ips), None)


def allowed(cluster: Cluster, *, pod: Pod, direction: str, peer_ip: str, protocol: str, port: int) -> bool:
    """Whether policies let ``pod`` receive from (ingress) or send to (egress) an address."""
    isolated = False
    for (namespace, _), policy in cluster.policies.items():
        spec = policy["spec"]
        if namespace != pod.namespace or not selects(spec.get("podSelector") or {}, pod.labels):
            continue
        if direction not in policy_types(spec):
            continue
        isolated = True
        side, peers = ("ingress", "from") if direction == "Ingress" else ("egress", "to")
        for rule in spec.get(side) or []:
            receiver = pod if direction == "Ingress" else cluster.pod_at(peer_ip)
            if peer_matches(cluster, namespace, rule.get(peers), peer_ip) and port_matches(
                rule.get("ports"), protocol, port, receiver
            ):
                return True
    return not isolated


def policy_types(spec: dict[str, Any]) -> set[str]:
    """``policyTypes`` with its default."""
    if spec.get("policyTypes"):
        return set(spec["policyTypes"])
    return {"Ingress", "Egress"} if spec.get("egress") else {"Ingress"}


def selects(selector: dict[str, Any], labels: dict[str, str]) -> bool:
    """A label selector."""
    for key, value in (selector.get("matchLabels") or {}).items():
        if labels.get(key) != value:
            return False
    for expression in selector.get("matchExpressions") or []:
        key, values = expression["key"], expression.get("values") or []
        holds = {
            "In": key in labels and labels[key] in values,
            "NotIn": key not in labels or labels[key] not in values,
            "Exists": key in labels,
            "DoesNotExist": key not in labels,
        }[expression["operator"]]
        if not holds:
            return False
    return True


def peer_matches(cluster: Cluster, namespace: str, peers: list[dict[str, Any]] | None, ip: str) -> bool:
    """``from`` or ``to``: empty or missing means everybody, else one peer has to match."""
    if not peers:
        return True
    pod = cluster.pod_at(ip)
    for peer in peers:
        if peer.get("ipBlock") is not None:
            if in_block(peer["ipBlock"], ip):
                return True
            continue
        if pod is None:
            continue
        if peer.get("namespaceSelector") is None:
            in_namespace = pod.namespace == namespace
        else:
            labels = {**cluster.namespaces[pod.namespace], "kubernetes.io/metadata.name": pod.namespace}
            in_namespace = selects(peer["namespaceSelector"], labels)
        if in_namespace and selects(peer.get("podSelector") or {}, pod.labels):
            return True
    return False


def in_block(block: dict[str, Any], ip: str) -> bool:
    """An ipBlock."""
    address = _address(ip)
    if address not in _network(block["cidr"], strict=False):
        return False
    return not any(address in _network(item, strict=False) for item in block.get("except") or [])


def port_matches(ports: list[dict[str, Any]] | None, protocol: str, port: int, receiver: Pod | None) -> bool:
    """``ports``: empty or missing means all traffic, else one has to match; a name is the receiver's."""
    if not ports:
        return True
    for item in ports:
        if (item.get("protocol") or "TCP") != protocol:
            continue
        if item.get("port") is None:
            return True
        if isinstance(item["port"], str):
            if receiver is not None and (protocol, item["port"], port) in receiver.ports:
                return True
            continue
        if item["port"] <= port <= (item.get("endPort") or item["port"]):
            return True
    return False
