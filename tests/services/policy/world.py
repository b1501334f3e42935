"""A small random cluster, and what the other services would publish of it."""

from __future__ import annotations

import random
from typing import Any
from weakref import WeakKeyDictionary

from services.policy.compiler import Compiler
from services.policy.networkpolicy import policy_ref, read_network_policy
from shared.contract.base import Identity, Protocol
from shared.contract.identity import IdentityRecord, NamedPort
from shared.contract.reserved import Reserved
from shared.labels import EVERY_LABEL
from tests.services.policy.naive import Cluster, Pod

NODE_IPS = ("192.168.0.1", "fd00:1::1")
OUTSIDE_IPS = ("10.0.1.200", "8.8.8.8", "10.0.0.77", "fd00::99", "2001:db8::8")
POD_IPS = ("10.0.0.5", "10.0.0.6", "10.0.0.7", "10.0.1.5", "10.0.1.6", "fd00::5", "fd00::6", "fd00::7")
PORTS = (1, 79, 80, 81, 8080, 65535)
TRANSPORTS = ("TCP", "UDP", "SCTP")
"""Protocols that have ports."""
PROTOCOLS = (*TRANSPORTS, "ICMP")
NAMESPACES = ("a", "b", "c")

NAMED_PORTS: tuple[tuple[tuple[str, str, int], ...], ...] = (
    (),
    (),
    (("TCP", "web", 80),),
    (("TCP", "web", 8080),),
    (("TCP", "web", 81), ("UDP", "dns", 79)),
    (("UDP", "web", 80), ("TCP", "dns", 80)),
)
"""What pods call their ports: one name is another number, or of another protocol, elsewhere."""

LABELS: tuple[dict[str, str], ...] = ({}, {"app": "x"}, {"app": "y"}, {"app": "y", "tier": ""}, {"tier": "x"})
NODE_CIDRS = ((), ("10.0.0.0/24",), ("10.0.0.0/16",), ("10.0.0.0/24", "fd00::/64"))
SELECTORS: tuple[dict[str, Any], ...] = (
    {},
    {"matchLabels": {"app": "x"}},
    {"matchLabels": {"app": "y"}},
    {"matchLabels": {"tier": ""}},
    {"matchExpressions": [{"key": "app", "operator": "Exists"}]},
    {"matchExpressions": [{"key": "tier", "operator": "DoesNotExist"}]},
    {"matchExpressions": [{"key": "app", "operator": "In", "values": ["x", "y"]}]},
    {"matchExpressions": [{"key": "app", "operator": "NotIn", "values": ["x"]}]},
    {
        "matchLabels": {"app": "y"},
        "matchExpressions": [{"key": "tier", "operator": "NotIn", "values": ["x", ""]}],
    },
    {"matchLabels": {"app": "nobody"}},
)
BLOCKS: tuple[dict[str, Any], ...] = (
    {"cidr": "0.0.0.0/0"},
    {"cidr": "::/0"},
    {"cidr": "10.0.0.0/8"},
    {"cidr": "10.0.0.0/16", "except": ["10.0.1.0/24"]},
    {"cidr": "10.0.1.0/24", "except": ["10.0.1.5/32", "10.0.1.200/32"]},
    {"cidr": "0.0.0.0/0", "except": ["10.0.0.0/16", "10.0.0.0/24"]},
    {"cidr": "192.168.0.0/24"},
    {"cidr": "fd00::/64", "except": ["fd00::6/128"]},
    {"cidr": "10.0.0.6/32"},
    # What is left is no prefix; excepts that overlap, touch, or cut off an edge; bits behind the prefix.
    {"cidr": "10.0.0.0/29", "except": ["10.0.0.4/31", "10.0.0.6/32"]},
    {"cidr": "10.0.0.0/8", "except": ["10.0.0.7/32", "10.0.0.4/30", "10.0.1.0/30"]},
    {"cidr": "0.0.0.0/0", "except": ["0.0.0.0/1", "10.0.0.0/8", "192.168.0.1/32"]},
    {"cidr": "10.0.1.6/24", "except": ["10.0.1.5/31"]},
    {"cidr": "::/0", "except": ["fd00::/63", "fd00::4/126", "2001:db8::/32"]},
    {"cidr": "fd00::4/126", "except": ["fd00::4/127", "fd00::7/128"]},
    {"cidr": "fd00:1::/32"},
)
POPULATION: tuple[tuple[Any, ...], ...] = (
    ("pod", "one", "a", {"app": "x"}, ("10.0.0.5",)),
    ("pod", "two", "a", {"app": "y"}, ("10.0.0.6",)),
    ("pod", "three", "b", {"app": "x"}, ("10.0.1.5", "fd00::5")),
    ("pod", "four", "b", {}, ("10.0.1.6",)),
    ("node", ("10.0.0.0/16",)),
)
"""What happens before anything else."""


def some_change(chance: random.Random) -> tuple[Any, ...]:
    """One thing that happens to the cluster, for :meth:`World.change`; most often to policies."""
    match chance.choices(("policy", "no policy", "pod", "no pod", "namespace", "node"), (12, 3, 4, 1, 1, 1))[
        0
    ]:
        case "policy":
            return "policy", chance.choice("aabbc"), chance.choice("pqr"), _spec(chance)
        case "no policy":
            return "no policy", chance.choice("aabbc"), chance.choice("pqr")
        case "pod":
            ips = tuple(chance.sample(POD_IPS, chance.choice((1, 1, 2))))
            ports = chance.choice(NAMED_PORTS)
            return "pod", _pod(chance), chance.choice(NAMESPACES), chance.choice(LABELS), ips, ports
        case "no pod":
            return "no pod", _pod(chance)
        case "namespace":
            return "namespace", chance.choice(NAMESPACES), chance.choice(LABELS)
        case _:
            return "node", chance.choice(NODE_CIDRS)


def some_policy_change(chance: random.Random) -> tuple[Any, ...]:
    """A policy comes, changes or goes."""
    while True:
        made = some_change(chance)
        if made[0] in ("policy", "no policy"):
            return made


def _pod(chance: random.Random) -> str:
    return chance.choice(("one", "two", "three", "four", "five"))


def _spec(chance: random.Random) -> dict[str, Any]:
    spec: dict[str, Any] = {"podSelector": chance.choice(SELECTORS)}
    for side, word in (("ingress", "from"), ("egress", "to")):
        if chance.random() < 0.7:
            spec[side] = [_rule(chance, word) for _ in range(chance.choice((0, 1, 1, 2)))]
    if chance.random() < 0.7:
        spec["policyTypes"] = chance.choice((["Ingress"], ["Egress"], ["Ingress", "Egress"]))
    return spec


def _rule(chance: random.Random, word: str) -> dict[str, Any]:
    rule: dict[str, Any] = {}
    if chance.random() < 0.9:
        rule[word] = [_peer(chance) for _ in range(chance.choice((0, 1, 1, 1, 2, 2)))]
    if chance.random() < 0.5:
        rule["ports"] = [_port(chance) for _ in range(chance.choice((0, 1, 1, 2)))]
    elif chance.random() < 0.1:
        rule["ports"] = _many_ports(chance)
    return rule


def _peer(chance: random.Random) -> dict[str, Any]:
    namespaces = chance.choice((*SELECTORS, {"matchLabels": {"kubernetes.io/metadata.name": "b"}}))
    match chance.randrange(4):
        case 0:
            return {"podSelector": chance.choice(SELECTORS)}
        case 1:
            return {"namespaceSelector": namespaces}
        case 2:
            return {"podSelector": chance.choice(SELECTORS), "namespaceSelector": namespaces}
        case _:
            return {"ipBlock": chance.choice(BLOCKS)}


def _many_ports(chance: random.Random) -> list[dict[str, Any]]:
    """More than one block of a row in the kernel has room for."""
    edges = sorted(chance.sample(range(1, 65536), 2 * chance.randrange(9, 40)))
    return [
        {"protocol": chance.choice(TRANSPORTS), "port": first, "endPort": last}
        for first, last in zip(edges[::2], edges[1::2], strict=True)
    ]


def _port(chance: random.Random) -> dict[str, Any]:
    match chance.randrange(5):
        case 0:
            return {} if chance.random() < 0.5 else {"protocol": chance.choice(TRANSPORTS)}
        case 1:
            return {"port": chance.choice(PORTS)}
        case 2:
            return {"port": chance.choice(PORTS), "protocol": chance.choice(("UDP", "SCTP"))}
        case 3:
            return {"port": chance.choice(("web", "dns")), "protocol": chance.choice(("TCP", "UDP"))}
        case _:
            first, last = sorted(chance.sample(PORTS, 2))
            return {"protocol": chance.choice(("TCP", *TRANSPORTS)), "port": first, "endPort": last}


_told: WeakKeyDictionary[Compiler, tuple[set[int], set[str]]] = WeakKeyDictionary()
"""Identities and addresses that a compiler was told of last."""


class World:
    """The cluster, and identities as the identity service would give them."""

    def __init__(self) -> None:
        self.cluster = Cluster(namespaces={name: {} for name in NAMESPACES})
        self.pod_cidrs: tuple[str, ...] = ()
        self._numbers: dict[str, int] = {}

    def change(self, what: str, *details: Any) -> None:
        """Let something happen; see :func:`some_change`."""
        cluster = self.cluster
        match what:
            case "policy":
                namespace, name, spec = details
                cluster.policies[namespace, name] = {
                    "metadata": {"namespace": namespace, "name": name, "uid": name, "resourceVersion": "1"},
                    "spec": spec,
                }
            case "no policy":
                cluster.policies.pop(details, None)
            case "pod":
                name, namespace, pod_labels, ips, *ports = details
                taken = {ip for pod in cluster.pods.values() if pod.name != name for ip in pod.ips}
                free = tuple(ip for ip in ips if ip not in taken)
                cluster.pods[name] = Pod(name, namespace, pod_labels, free, *ports)
            case "no pod":
                cluster.pods.pop(details[0], None)
            case "namespace":
                cluster.namespaces[details[0]] = details[1]
            case "node":
                self.pod_cidrs = details[0]

    def identity(self, pod: Pod) -> int:
        """The pod's identity; a number stands for one label set for ever."""
        text = repr(
            (
                pod.namespace,
                sorted(self.cluster.namespaces[pod.namespace].items()),
                sorted(pod.labels.items()),
                pod.ports,
            )
        )
        return self._numbers.setdefault(text, 256 + len(self._numbers))

    def records(self) -> dict[int, IdentityRecord]:
        """Bucket ``identities``."""
        return {
            (number := self.identity(pod)): IdentityRecord(
                id=Identity(number),
                namespace=pod.namespace,
                namespace_labels=self.cluster.namespaces[pod.namespace],
                pod_labels=pod.labels,
                named_ports=tuple(
                    NamedPort(protocol=Protocol(protocol), name=name, port=port)
                    for protocol, name, port in pod.ports
                ),
            )
            for pod in self.cluster.pods.values()
        }

    def ipcache(self) -> dict[str, int]:
        """Bucket ``ipcache``."""
        found = {ip: self.identity(pod) for pod in self.cluster.pods.values() for ip in pod.ips}
        return found | dict.fromkeys(NODE_IPS, int(Reserved.REMOTE_NODE))

    def feed(self, compiler: Compiler) -> None:
        """Tell the compiler how things are now."""
        records, ipcache = self.records(), self.ipcache()
        for record in records.values():
            compiler.set_identity(record)
        for ip, identity in ipcache.items():
            compiler.set_address(ip, Identity(identity))
        identities, addresses = _told.get(compiler, (set(), set()))
        for number in identities - records.keys():
            compiler.remove_identity(Identity(number))
        for ip in addresses - ipcache.keys():
            compiler.remove_address(ip)
        _told[compiler] = set(records), set(ipcache)
        compiler.set_node("node", self.pod_cidrs)
        wanted = {policy_ref(namespace=ns, name=name): (ns, name) for ns, name in self.cluster.policies}
        for ref in [ref for ref in compiler.policies if ref not in wanted]:
            compiler.remove_policy(ref)
        for namespace, name in wanted.values():
            data = self.cluster.policies[namespace, name]
            compiler.set_policy(
                read_network_policy(data, namespace=namespace, name=name, selectable=EVERY_LABEL)
            )
