"""Who holds an address when several say they do. Pure.

A node's own addresses cannot be taken by a pod; among pods one that is not being deleted wins, then the
newest. Of pods of different nodes, one for which nothing but its node's word speaks wins over none that is
vouched for, and over a newer one of its like only: no node can take an address from another node's pod before
that is gone. The outcome depends on the set of contenders alone, never on their order of arrival.
"""

from __future__ import annotations

from ipaddress import ip_address
from typing import NamedTuple

from services.identity.objects import Node, Pod, PodName


class NodeName(NamedTuple):
    """A node as the holder of its own addresses."""

    name: str

    def __str__(self) -> str:
        return f"Node {self.name}"


Holder = PodName | NodeName


class Rank(NamedTuple):
    """What decides between contenders."""

    node: str
    is_node: bool
    vouched: bool
    """More than a claim of its node speaks for it: podCIDRs, or the API server's word."""
    deleting: bool
    age: tuple[str, str, str]
    """Greater is newer."""

    @property
    def on_node(self) -> tuple[bool, bool, tuple[str, str, str]]:
        """Greater wins over others of the same node."""
        return (self.is_node, not self.deleting, self.age)

    @property
    def standing(self) -> tuple[bool, bool, bool]:
        """Greater wins over those of other nodes."""
        return (self.is_node, self.vouched, self.vouched and not self.deleting)


def is_assignable(ip: str) -> bool:
    """Whether one pod or node of the cluster can have this address, as seen by others."""
    address = ip_address(ip)
    return not (address.is_unspecified or address.is_loopback or address.is_multicast)


def pod_rank(pod: Pod, *, vouched: bool = True) -> Rank:
    """A pod's."""
    age = (pod.created, pod.uid, f"{pod.namespace}/{pod.name}")
    return Rank(pod.node, is_node=False, vouched=vouched, deleting=pod.deleting, age=age)


def node_rank(node: Node) -> Rank:
    """A node's; above every pod's."""
    return Rank(node.name, is_node=True, vouched=True, deleting=False, age=(node.created, node.name, ""))


class AddressBook:
    """All contenders for all addresses."""

    def __init__(self) -> None:
        self._contenders: dict[str, dict[Holder, Rank]] = {}

    def contend(self, ip: str, *, holder: Holder, rank: Rank) -> None:
        """``holder`` says that ``ip`` is its own."""
        self._contenders.setdefault(ip, {})[holder] = rank

    def withdraw(self, ip: str, *, holder: Holder) -> None:
        """``holder`` does not say so any more."""
        contenders = self._contenders.get(ip, {})
        contenders.pop(holder, None)
        if not contenders:
            self._contenders.pop(ip, None)

    def holder(self, ip: str) -> Holder | None:
        """Whose the address is."""
        contenders = self._contenders.get(ip)
        if not contenders:
            return None
        leaders: dict[str, tuple[Holder, Rank]] = {}
        for holder, rank in contenders.items():
            leader = leaders.get(rank.node)
            if leader is None or rank.on_node > leader[1].on_node:
                leaders[rank.node] = holder, rank
        best = max(rank.standing for _, rank in leaders.values())
        finalists = [leader for leader in leaders.values() if leader[1].standing == best]
        chosen = max if finalists[0][1].vouched else min
        return chosen(finalists, key=lambda leader: leader[1].age)[0]

    def contenders(self, ip: str) -> tuple[Holder, ...]:
        """All who say that it is theirs."""
        return tuple(self._contenders.get(ip, ()))
