"""Addresses of the pods of this node, from the node's own pod CIDRs.

It owns one file, written before an address is given out, so that a restart can never give an address twice.
An *owner* (``<container id>/<ifname>``) holds at most one address of each family that the node has a CIDR
of.

A cursor per CIDR makes a freed address the last to be used again: peers and policies that still know its
former pod have the longest time to learn of the change. The network address, the broadcast address and the
first host address (by custom the gateway's) are never given.

Synchronous and for one thread: callers need no lock between asking and getting. Raises :class:`NoPodCidr`,
:class:`AddressesExhausted` and :class:`StateError`; nothing is taken when it does. A damaged file is set
aside and named in ``problem``; the endpoint registry then gives the addresses back with
:meth:`HostLocalIpam.adopt`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from pathlib import Path

import msgspec

from services.datapath import statefiles
from services.datapath.errors import AddressesExhausted, NoPodCidr, StateError

Network = IPv4Network | IPv6Network

_RESERVED_AT_START = 2


class _State(msgspec.Struct, kw_only=True):
    v: int = 1
    cursors: dict[str, str] = msgspec.field(default_factory=dict)
    owners: dict[str, tuple[str, ...]] = msgspec.field(default_factory=dict)


class HostLocalIpam:
    """The addresses of one node. ``path`` is its state file, in a directory that exists."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._cidrs: tuple[Network, ...] = ()
        self.problem = ""
        """What was wrong with the state file at start, empty when nothing was."""
        self._state = self._load()
        self._used = {ip for ips in self._state.owners.values() for ip in ips}

    @property
    def owners(self) -> Mapping[str, tuple[str, ...]]:
        """Who has which addresses."""
        return self._state.owners

    @property
    def cidrs(self) -> tuple[str, ...]:
        """The CIDRs that addresses are taken from."""
        return tuple(str(network) for network in self._cidrs)

    def set_cidrs(self, cidrs: Iterable[str]) -> None:
        """Give from these CIDRs from now on; addresses outside them stay with their owners until released."""
        self._cidrs = tuple(ip_network(cidr) for cidr in cidrs)

    def capacity(self) -> dict[int, int]:
        """Addresses that can be owned at once, by IP version."""
        sizes: dict[int, int] = {}
        for network in self._cidrs:
            first, last = _usable(network)
            sizes[network.version] = sizes.get(network.version, 0) + max(0, last - first + 1)
        return sizes

    def allocate(self, owner: str) -> tuple[str, ...]:
        """The owner's addresses, IPv4 first; the same ones when it has some already."""
        held = self._state.owners.get(owner)
        if held is not None:
            return held
        if not self._cidrs:
            raise NoPodCidr(
                "this node has no pod CIDR: does its Node object have spec.podCIDR,"
                " and is the identity service running?"
            )
        chosen: list[tuple[Network, str]] = []
        for version in sorted({network.version for network in self._cidrs}):
            chosen.append(self._free_address(version))
        ips = tuple(ip for _, ip in chosen)
        cursors = self._state.cursors | {str(network): ip for network, ip in chosen}
        self._commit(_State(cursors=cursors, owners=self._state.owners | {owner: ips}))
        return ips

    def adopt(self, owner: str, ips: Iterable[str]) -> None:
        """Note that the owner has these addresses already (the endpoint registry says so)."""
        self._commit(_State(cursors=self._state.cursors, owners=self._state.owners | {owner: tuple(ips)}))

    def release(self, owner: str) -> tuple[str, ...]:
        """Free the owner's addresses and tell which they were; none for an unknown owner."""
        ips = self._state.owners.get(owner)
        if ips is None:
            return ()
        rest = {name: held for name, held in self._state.owners.items() if name != owner}
        self._commit(_State(cursors=self._state.cursors, owners=rest))
        return ips

    def _free_address(self, version: int) -> tuple[Network, str]:
        networks = [network for network in self._cidrs if network.version == version]
        for network in networks:
            for offset in self._offsets(network):
                ip = str(network.network_address + offset)
                if ip not in self._used:
                    return network, ip
        names = ", ".join(str(network) for network in networks)
        raise AddressesExhausted(
            f"all IPv{version} addresses of {names} are taken by {len(self._state.owners)} pods of this node:"
            " delete pods or give the node a larger pod CIDR"
        )

    def _offsets(self, network: Network) -> Iterator[int]:
        """Offsets of all usable addresses, beginning behind the one given last."""
        first, last = _usable(network)
        start = first
        cursor = self._state.cursors.get(str(network))
        if cursor is not None:
            behind = int(ip_address(cursor)) - int(network.network_address) + 1
            start = behind if first <= behind <= last else first
        yield from range(start, last + 1)
        yield from range(first, min(start, last + 1))

    def _commit(self, state: _State) -> None:
        statefiles.write(self._path, msgspec.json.encode(state))
        self._state = state
        self._used = {ip for ips in state.owners.values() for ip in ips}

    def _load(self) -> _State:
        try:
            data = self._path.read_bytes()
        except FileNotFoundError:
            return _State()
        except OSError as error:
            raise StateError(f"{self._path}: cannot read: {error.strerror}") from error
        try:
            state = msgspec.json.decode(data, type=_State)
            for ip in (*state.cursors.values(), *(ip for ips in state.owners.values() for ip in ips)):
                ip_address(ip)
        except ValueError as error:
            aside = statefiles.set_aside(self._path)
            self.problem = f"{self._path}: unreadable, kept as {aside.name}: {error}"
            return _State()
        return state


def _usable(network: Network) -> tuple[int, int]:
    """Offsets of the first and the last address that may be given; none may when the last is the lesser."""
    behind = 2 if network.version == 4 else 1
    return _RESERVED_AT_START, network.num_addresses - behind
