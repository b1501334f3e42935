"""Who holds an address when several say they do. Pure.

A node's own addresses cannot be taken by a pod; among pods one that is not being deleted wins, then the
newest. The outcome depends on the set of contenders alone, never on their order of arrival.
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
Rank = tuple[int, str, str, str]


def is_assignable(ip: str) -> bool:
    """Whether one pod or node of the cluster can have this address, as seen by others."""
    address = ip_address(ip)
    return not (address.is_unspecified or address.is_loopback or address.is_multicast)


def pod_rank(pod: Pod) -> Rank:
    """Greater wins."""
    return (0 if pod.deleting else 1, pod.created, pod.uid, f"{pod.namespace}/{pod.name}")


def node_rank(node: Node) -> Rank:
    """Greater wins; above every pod's."""
    return (2, node.created, node.name, "")


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
        return max(contenders, key=lambda holder: contenders[holder])

    def contenders(self, ip: str) -> tuple[Holder, ...]:
        """All who say that it is theirs."""
        return tuple(self._contenders.get(ip, ()))
