"""A large cluster that is only told of: namespaces, identities, pods' addresses, nodes and NetworkPolicies.

Deterministic: equal sizes give equal clusters. Selectors are of the kinds that users write: an app in a named
namespace (six of ten), a whole namespace, a tier in the namespaces of a team, and address blocks with
exceptions, some of them among the pods' own addresses.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address
from typing import Any

from shared.contract.base import Identity
from shared.contract.identity import IdentityRecord, IpEntry, NodeRecord

NAMESPACES, APPS, TIERS, TEAMS = 100, 50, 7, 20
ENVIRONMENTS = ("prod", "dev", "test")
NODES = 10
FIRST_IDENTITY = 100_000
"""Beyond the numbers that a small lab gives."""
_FIRST_ADDRESS = int(IPv4Address("10.64.0.0"))
_NODE_BITS = 18
_BLOCKS_AMONG_PODS = 10


@dataclass(frozen=True, kw_only=True)
class Size:
    """How large the cluster is."""

    identities: int = 10_000
    addresses: int = 100_000
    policies: int = 5_000
    selectors: int = 500

    def __post_init__(self) -> None:
        """Raises ValueError for more addresses than the simulated nodes have room for."""
        most = NODES * (2 ** (32 - _NODE_BITS) - 2)
        if self.addresses > most:
            raise ValueError(f"{self.addresses} addresses: at most {most}")


def namespace_name(number: int) -> str:
    """Of one of the :data:`NAMESPACES`."""
    return f"sim-{number}"


def namespace_labels(number: int) -> dict[str, str]:
    """Of a namespace."""
    return {"team": f"t{number % TEAMS}", "env": ENVIRONMENTS[number % len(ENVIRONMENTS)]}


def node_name(number: int) -> str:
    """Of one of the :data:`NODES`."""
    return f"sim-node-{number}"


def nodes() -> Iterator[NodeRecord]:
    """What the identity service would publish of them."""
    for number in range(NODES):
        network = IPv4Address(_FIRST_ADDRESS + (number << (32 - _NODE_BITS)))
        yield NodeRecord(name=node_name(number), pod_cidrs=(f"{network}/{_NODE_BITS}",))


def address(number: int) -> str:
    """Of a pod."""
    place, node = divmod(number, NODES)
    return str(IPv4Address(_FIRST_ADDRESS + (node << (32 - _NODE_BITS)) + place + 1))


def ip_entry(number: int, size: Size) -> IpEntry:
    """Of a pod; numbers beyond the cluster's size are further pods of known labels."""
    identity = number % size.identities
    return IpEntry(
        ip=address(number),
        identity=Identity(FIRST_IDENTITY + identity),
        node=node_name(number % NODES),
        namespace=namespace_name(identity % NAMESPACES),
        pod=f"pod-{number}",
        workload=f"app-{identity}",
        workload_kind="Deployment",
    )


def identities(size: Size) -> Iterator[IdentityRecord]:
    """All of them."""
    for number in range(size.identities):
        home = number % NAMESPACES
        labels = pod_labels(number // NAMESPACES % APPS) | {"n": str(number)}
        yield IdentityRecord(
            id=Identity(FIRST_IDENTITY + number),
            namespace=namespace_name(home),
            namespace_labels=namespace_labels(home),
            service_account="default",
            pod_labels=labels,
            labels=tuple(sorted(f"k8s:{key}={value}" for key, value in labels.items())),
        )


def pod_labels(app: int) -> dict[str, str]:
    """Labels that selectors may match; an app is always of the same tier."""
    return {"app": f"app{app}", "tier": f"tier{app % TIERS}"}


def peers(size: Size) -> list[dict[str, Any]]:
    """The distinct selectors: ``networking.k8s.io/v1`` NetworkPolicyPeer."""
    return [_peer(number) for number in range(size.selectors)]


def policies(size: Size) -> Iterator[dict[str, Any]]:
    """All of them; every fiftieth selects a whole namespace."""
    chance, choice = random.Random(1), peers(size)
    for number in range(size.policies):
        app = {"matchLabels": {"app": f"app{number // NAMESPACES % APPS}"}}
        yield policy(
            f"p{number}",
            namespace=namespace_name(number % NAMESPACES),
            subject=app if number % 50 else {},
            peers=chance.sample(choice, 3),
            with_egress=number % 3 == 0,
        )


def policy(
    name: str,
    *,
    namespace: str,
    subject: dict[str, Any],
    peers: list[dict[str, Any]],
    port: int = 80,
    with_egress: bool = False,
) -> dict[str, Any]:
    """A NetworkPolicy with two rules, and two more for egress if wanted; three peers."""
    first, second, third = peers
    spec: dict[str, Any] = {
        "podSelector": subject,
        "ingress": [
            {"from": [first, second], "ports": [{"port": port}, {"port": 8000, "endPort": 9000}]},
            {"from": [third]},
        ],
    }
    if with_egress:
        spec["egress"] = [{"to": [first]}, {"ports": [{"protocol": "UDP", "port": 53}]}]
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": name, "namespace": namespace},
        "spec": spec,
    }


def _peer(number: int) -> dict[str, Any]:
    kind, index = number % 10, number // 10
    home = {
        "matchLabels": {"kubernetes.io/metadata.name": namespace_name(index * 2 % NAMESPACES + number % 2)}
    }
    team = {"matchLabels": {"team": f"t{index * 7 % TEAMS}"}}
    match kind:
        case 0 | 1 | 2 | 3 | 4 | 5:
            app = f"app{(index * 3 + kind) % APPS}"
            return {"podSelector": {"matchLabels": {"app": app}}, "namespaceSelector": home}
        case 6:
            return {"namespaceSelector": home}
        case 7:
            tier = {"key": "tier", "operator": "In", "values": [f"tier{index % TIERS}"]}
            return {"podSelector": {"matchExpressions": [tier]}, "namespaceSelector": team}
        case _:
            place = index * 2 + kind - 8
            if place < _BLOCKS_AMONG_PODS:
                return {"ipBlock": {"cidr": f"10.64.{place}.0/24", "except": [f"10.64.{place}.16/28"]}}
            return {"ipBlock": {"cidr": f"172.{place % 256}.0.0/16", "except": [f"172.{place % 256}.4.0/24"]}}
