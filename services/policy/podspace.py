"""The addresses that pods have or may get: what a block must hold to match every pod.

That is the pod CIDRs of all nodes, and the whole address family of any pod address outside them. A block
that holds all of it is part of identities' own classes, so that no address needs an entry of its own. A new
pod in a new place makes the space larger, and such a block may match fewer pods by identity alone: so a
commit names the space for which it holds, and readers do not enter an address outside of it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from ipaddress import IPv4Network, IPv6Network, collapse_addresses, ip_network

from services.policy.blocks import BITS, Prefix


class PodSpace:
    """Pod CIDRs by node, and pod addresses."""

    def __init__(self) -> None:
        self._nodes: dict[str, tuple[str, ...]] = {}
        self._cidrs: frozenset[Prefix] = frozenset()
        self._lengths: Mapping[int, frozenset[int]] = {4: frozenset(), 6: frozenset()}
        self._addresses: set[Prefix] = set()
        self._outside: Counter[int] = Counter()
        self._stale = False

    @property
    def prefixes(self) -> frozenset[Prefix]:
        """The space."""
        self._refresh()
        families = (version for version, count in self._outside.items() if count)
        return self._cidrs | {Prefix(version, 0, 0) for version in families}

    def set_node(self, node: str, cidrs: Iterable[str]) -> None:
        """A node's pod CIDRs; empty when it has none or is gone."""
        wanted = tuple(cidrs)
        if self._nodes.get(node, ()) == wanted:
            return
        if wanted:
            self._nodes[node] = wanted
        else:
            del self._nodes[node]
        self._stale = True

    def _refresh(self) -> None:
        """Takes in all nodes that were set since the last time: once for many of them."""
        if not self._stale:
            return
        self._stale = False
        networks = [ip_network(cidr, strict=False) for cidrs in self._nodes.values() for cidr in cidrs]
        collapsed = [
            *collapse_addresses(network for network in networks if isinstance(network, IPv4Network)),
            *collapse_addresses(network for network in networks if isinstance(network, IPv6Network)),
        ]
        self._cidrs = frozenset(Prefix.of_cidr(str(network)) for network in collapsed)
        self._lengths = {
            version: frozenset(item.length for item in self._cidrs if item.version == version)
            for version in BITS
        }
        self._outside = Counter(place.version for place in self._addresses if not self._inside(place))

    def add(self, place: Prefix) -> None:
        """A pod has this address."""
        if place not in self._addresses:
            self._addresses.add(place)
            if not self._inside(place):
                self._outside[place.version] += 1

    def discard(self, place: Prefix) -> None:
        """No pod has this address."""
        if place in self._addresses:
            self._addresses.remove(place)
            if not self._inside(place):
                self._outside[place.version] -= 1

    def _inside(self, place: Prefix) -> bool:
        return any(place.shortened(length) in self._cidrs for length in self._lengths[place.version])
