"""Who connects to whom while everything changes, and what is always so of each connection.

Two servers let in what ingress policies grant, two caged clients get out where egress policies grant it. A
peer class has one peer that is always granted and one that never is, as alike as can be: two pods of one
namespace, pods of two namespaces, two pods that differ in nothing but their address, two hosts outside, two
nodes.

Whatever :mod:`tests.packet.hammer_churn` does keeps to this:

* each grant (direction and peer class) is said by one or two policies, in one of several forms, each of
  which selects the peer that is always granted and no peer that never is;
* every other policy about the servers' ingress and the cage's egress is about ports that nobody here uses;
* every policy about the other pods allows all of these connections.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from itertools import chain
from typing import Any, NamedTuple

from deploy.lab import client
from deploy.lab.topology import POD_CIDRS_V4, POD_CIDRS_V6, UNDERLAY_V4, UNDERLAY_V6
from tests.packet.agents import ALLOWED_SECONDS, DENIED_SECONDS, command, command_in, job
from tests.packet.labs import Lab
from tests.packet.manifests import Object, block, from_namespaces, matching, network_policy, pod

HOME, BLUE, RED, CROWD = "anvil", "blue", "red", "crowd"
SERVER, CAGED, PEER = "server", "caged", "peer"
"""Values of the label ``app``, which never change."""
TCP_PORT, UDP_PORT = 80, 53
GRANTED = ("80", "53/UDP")
SERVED = ("80", "53/UDP", "metrics=9100")

NAMESPACES: dict[str, dict[str, str]] = {
    HOME: {},
    BLUE: {"team": "blue", "guests": "yes"},
    RED: {"team": "red"},
    CROWD: {},
}
PODS = [
    pod("server-1", namespace=HOME, node="node-1", ports=SERVED, app=SERVER),
    pod("server-2", namespace=HOME, node="node-2", ports=SERVED, app=SERVER),
    pod("caged-1", namespace=HOME, node="node-1", ports=SERVED, app=CAGED),
    pod("caged-2", namespace=HOME, node="node-2", ports=SERVED, app=CAGED),
    pod("friend", namespace=HOME, node="node-1", ports=SERVED, app=PEER, role="friend", known="yes"),
    pod("stranger", namespace=HOME, node="node-2", ports=SERVED, app=PEER, role="stranger"),
    pod("blue", namespace=BLUE, node="node-2", ports=SERVED, app=PEER),
    pod("red", namespace=RED, node="node-1", ports=SERVED, app=PEER),
    pod("listed", namespace=CROWD, node="node-1", ports=SERVED, app=PEER),
    pod("excepted", namespace=CROWD, node="node-2", ports=SERVED, app=PEER),
]
PEERS = {
    "pods": ("friend", "stranger"),
    "namespaces": ("blue", "red"),
    "addresses of pods": ("listed", "excepted"),
    "outside": ("outside-1", "outside-2"),
    "nodes": ("node-2", "node-1"),
}
"""By peer class who is always granted and who never is."""
DIRECTIONS = ("ingress", "egress")


@dataclass(frozen=True)
class Spot:
    """A pod or a host: its addresses, and how jobs are done there."""

    name: str
    ips: tuple[str, ...]
    namespace: str = ""
    """Of a pod."""
    network_namespace: str = ""
    """Of a host."""

    def command(self, lab: Lab, jobs: list[dict[str, Any]]) -> list[str]:
        """The command line that does jobs there."""
        if self.network_namespace:
            return command_in(self.network_namespace, jobs)
        return command(lab, self.name, jobs, namespace=self.namespace)


Spots = Mapping[str, Spot]


def spots_of(lab: Lab) -> dict[str, Spot]:
    """All pods and hosts, by name."""
    found = {}
    for each in PODS:
        name, home = each["metadata"]["name"], each["metadata"]["namespace"]
        found[name] = Spot(name, lab.pod(name, namespace=home).ips, namespace=home)
    plan = client.record(lab.name).plan
    for host in (*plan.nodes, *plan.outside):
        found[host.name] = Spot(host.name, host.ips, network_namespace=host.namespace)
    return found


class Pair(NamedTuple):
    """A client and a server of which one thing is always so."""

    direction: str
    """Of the policies that decide."""
    peers: str
    """The peer class, a key of :data:`PEERS`."""
    client: str
    server: str
    allowed: bool


def pairs() -> Iterator[Pair]:
    """All of them. A node reaches its own pods whatever policies say, so nodes stand for the other's only."""
    for peers, granted in PEERS.items():
        for direction in DIRECTIONS:
            for allowed, peer in zip((True, False), granted, strict=True):
                for number in (1, 2):
                    if peer == f"node-{number}":
                        continue
                    ends = (peer, f"server-{number}") if direction == "ingress" else (f"caged-{number}", peer)
                    yield Pair(direction, peers, *ends, allowed)


class Connection(NamedTuple):
    """One job, and the pair that it is about."""

    pair: Pair
    job: dict[str, Any]
    lasting: bool

    @property
    def id(self) -> str:
        """The job's."""
        return str(self.job["id"])


def connections(spots: Spots, *, every: float, lasting_every: float) -> list[Connection]:
    """New connections of every pair, protocol and family; one lasting TCP connection and one lasting flow of
    datagrams of each direction and peer class, across nodes where it can be."""
    found: list[Connection] = []
    for pair in pairs():
        patience = ALLOWED_SECONDS if pair.allowed else DENIED_SECONDS
        for ip in spots[pair.server].ips:
            for kind, port in (("new", TCP_PORT), ("udp", UDP_PORT)):
                id = f"{pair.direction} {pair.peers}: {pair.client} > {pair.server} {kind} {ip}"
                # Rhythms of their own: else all would try at the same moments, and nobody in between.
                own = every * (1 + len(found) / 1000)
                found.append(
                    Connection(pair, job(kind, ip, port, id=id, every=own, patience=patience), False)
                )
    lasting = {(pair.direction, pair.peers): pair for pair in pairs() if pair.allowed}
    for pair in lasting.values():
        for ip, kind, port in zip(
            spots[pair.server].ips, ("kept", "flow"), (TCP_PORT, UDP_PORT), strict=False
        ):
            id = f"{pair.direction} {pair.peers}: {pair.client} > {pair.server} {kind} {ip}"
            found.append(Connection(pair, job(kind, ip, port, id=id, every=lasting_every), True))
    return found


class Grant(NamedTuple):
    """What is always granted to one peer class in one direction, in several forms: lists of peers."""

    direction: str
    peers: str
    forms: tuple[tuple[Object, ...], ...]

    def policy(self, slot: str, form: int, *more: Object) -> Object:
        """One of the two policies that say it, with rules of no consequence before it."""
        end = "from" if self.direction == "ingress" else "to"
        rule = {end: list(self.forms[form]), "ports": [_port(port) for port in GRANTED]}
        return network_policy(
            f"{self.direction}-{self.peers.replace(' ', '-')}-{slot}",
            namespace=HOME,
            subject={"app": SERVER if self.direction == "ingress" else CAGED},
            policyTypes=[self.direction.capitalize()],
            **{self.direction: [*more, rule]},
        )


def _port(text: str) -> Object:
    number, _, protocol = text.partition("/")
    return {"port": int(number), "protocol": protocol or "TCP"}


def grants(spots: Spots) -> list[Grant]:
    """Every grant."""
    never = [ip for _, denied in PEERS.values() for ip in spots[denied].ips]

    def only(name: str) -> tuple[Object, ...]:
        return tuple(block(f"{ip}/{128 if ':' in ip else 32}") for ip in spots[name].ips)

    def all_but_never(*networks: IPv4Network | IPv6Network) -> tuple[Object, ...]:
        return tuple(
            block(
                str(network), *(f"{ip}/{network.max_prefixlen}" for ip in never if ip_address(ip) in network)
            )
            for network in networks
        )

    world = all_but_never(ip_network("0.0.0.0/0"), ip_network("::/0"))
    forms = {
        "pods": (
            ({"podSelector": matching(("role", "In", "friend", "pal"))},),
            ({"podSelector": matching(known="yes")},),
            (
                {
                    "podSelector": matching(("known", "Exists")),
                    "namespaceSelector": matching(**{"kubernetes.io/metadata.name": HOME}),
                },
            ),
        ),
        "namespaces": (
            ({"namespaceSelector": matching(("team", "In", "blue", "navy"))},),
            (from_namespaces(guests="yes"),),
            ({"namespaceSelector": matching(("guests", "Exists")), "podSelector": {}},),
        ),
        "addresses of pods": (only("listed"), all_but_never(POD_CIDRS_V4, POD_CIDRS_V6), world),
        "outside": (only("outside-1"), all_but_never(UNDERLAY_V4, UNDERLAY_V6), world),
        "nodes": (only("node-2"), all_but_never(UNDERLAY_V4, UNDERLAY_V6), world),
    }
    return [Grant(direction, peers, each) for peers, each in forms.items() for direction in DIRECTIONS]


def addresses(spots: Spots) -> list[str]:
    """All addresses of everybody."""
    return list(chain.from_iterable(spot.ips for spot in spots.values()))
