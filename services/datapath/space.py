"""A set of prefixes of both address families, asked about addresses."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from ipaddress import ip_address, ip_network


class Space:
    """Whether an address is in any of them; takes as long as there are different lengths."""

    def __init__(self, cidrs: Iterable[str]) -> None:
        found: defaultdict[int, defaultdict[int, set[int]]] = defaultdict(lambda: defaultdict(set))
        for network in map(ip_network, cidrs):
            shift = network.max_prefixlen - network.prefixlen
            found[network.version][shift].add(int(network.network_address) >> shift)
        self._prefixes = {version: dict(by_shift) for version, by_shift in found.items()}

    def holds(self, ip: str) -> bool:
        """Whether the address is in the space."""
        address = ip_address(ip)
        number = int(address)
        by_shift = self._prefixes.get(address.version, {})
        return any(number >> shift in prefixes for shift, prefixes in by_shift.items())
