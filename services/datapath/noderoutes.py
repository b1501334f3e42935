"""The node's own addresses, its uplinks, and its routes to other nodes' pods, with blocking netlink calls.

Routes are level-triggered: :func:`reconcile_routes` compares what there should be with what the kernel
has, adds and replaces first, then deletes what is stale. Only routes of Stentor's own protocol number
that have a gateway are ever replaced or deleted; routes to pods of this node have none. Raises
:class:`LinkError`; a single route that the kernel refuses is told in ``RouteChanges.problems`` and
hinders no other.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from ipaddress import ip_address, ip_network
from typing import Any

from pyroute2.netlink.exceptions import NetlinkError

from services.datapath.endpoints import HOST_IFNAME_PREFIX
from services.datapath.errors import UplinkUnknown
from services.datapath.netns import Worker
from services.datapath.podlink import ROUTE_PROTOCOL

_FAMILIES = (socket.AF_INET, socket.AF_INET6)
_SCOPE_UNIVERSE = 0
_MAIN_TABLE = 254
_RTN_UNICAST = 1


@dataclass(frozen=True, slots=True)
class Uplink:
    """An interface by which the node reaches the rest of the world."""

    name: str
    ifindex: int
    mtu: int
    mac: str
    addresses: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class NodeAddress:
    """An address of the node itself that other machines or pods may use."""

    ip: str
    prefixlen: int
    ifindex: int


@dataclass(frozen=True, slots=True)
class RouteChanges:
    """What :func:`reconcile_routes` did."""

    added: tuple[str, ...] = ()
    """CIDRs that got a route, or another gateway."""
    deleted: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()
    """Sentences that name the CIDR and the kernel's reason."""


def local_addresses(worker: Worker) -> tuple[NodeAddress, ...]:
    """All addresses of the node with global scope, loopback's included: a node may have its address there."""
    return tuple(
        NodeAddress(ip=message.get("address"), prefixlen=message["prefixlen"], ifindex=message["index"])
        for message in worker.node.get_addr()
        if message["scope"] == _SCOPE_UNIVERSE and not ip_address(message.get("address")).is_loopback
    )


def uplinks(worker: Worker, node_addresses: Collection[str]) -> tuple[Uplink, ...]:
    """Interfaces with a default route or one of these addresses; raises :class:`UplinkUnknown`."""
    held: dict[int, list[str]] = {}
    for address in local_addresses(worker):
        held.setdefault(address.ifindex, []).append(address.ip)
    wanted = set(node_addresses)
    indices = {index for index, ips in held.items() if wanted.intersection(ips)}
    for family in _FAMILIES:
        for route in worker.node.get_default_routes(family=family, table=_MAIN_TABLE):
            indices.update(_interfaces(route))
    found = []
    for index in sorted(indices):
        (link,) = worker.node.get_links(index)
        name = link.get("ifname")
        if name != "lo" and not name.startswith(HOST_IFNAME_PREFIX):
            found.append(
                Uplink(
                    name=name,
                    ifindex=index,
                    mtu=link.get("mtu"),
                    mac=link.get("address") or "",
                    addresses=tuple(held.get(index, ())),
                )
            )
    if not found:
        addresses = ", ".join(sorted(wanted)) or "none known"
        raise UplinkUnknown(
            f"no interface has a default route or an address of this node ({addresses}):"
            " add a default route, or let the Node object carry the node's addresses"
        )
    return tuple(found)


def reconcile_routes(worker: Worker, desired: Mapping[str, str]) -> RouteChanges:
    """Make the routes to other nodes' pods be ``desired``: pod CIDR to the address of its node."""
    wanted = {str(ip_network(cidr)): str(ip_address(gateway)) for cidr, gateway in desired.items()}
    real = _own_routes(worker.node)
    added: list[str] = []
    deleted: list[str] = []
    problems: list[str] = []
    for cidr, gateway in wanted.items():
        if real.get(cidr) == gateway:
            continue
        try:
            # A route of somebody else to the same prefix must not be replaced unseen.
            worker.node.route(
                "replace" if cidr in real else "add", dst=cidr, gateway=gateway, proto=ROUTE_PROTOCOL
            )
            added.append(cidr)
        except NetlinkError as error:
            problems.append(_refusal(cidr, gateway, error))
    for cidr in real.keys() - wanted.keys():
        try:
            worker.node.route("del", dst=cidr, gateway=real[cidr], proto=ROUTE_PROTOCOL)
            deleted.append(cidr)
        except NetlinkError as error:
            if error.code not in (errno.ESRCH, errno.ENOENT):
                problems.append(f"stale route to {cidr} cannot be deleted: {os.strerror(error.code)}")
    return RouteChanges(added=tuple(added), deleted=tuple(deleted), problems=tuple(problems))


def _own_routes(node: Any) -> dict[str, str]:
    """Stentor's routes with a gateway: CIDR to gateway."""
    routes: dict[str, str] = {}
    for family in _FAMILIES:
        for route in node.get_routes(family=family, proto=ROUTE_PROTOCOL, table=_MAIN_TABLE):
            gateway = route.get("gateway")
            if gateway and route["type"] == _RTN_UNICAST and route.get("dst"):
                routes[f"{route.get('dst')}/{route['dst_len']}"] = gateway
    return routes


def _interfaces(route: Any) -> Iterable[int]:
    if (index := route.get("oif")) is not None:
        yield index
    for hop in route.get("multipath") or ():
        yield hop["oif"]


def _refusal(cidr: str, gateway: str, error: NetlinkError) -> str:
    if error.code == errno.EEXIST:
        return f"pod CIDR {cidr}: a route that is not Stentor's is in the way; delete it"
    if error.code in (errno.ENETUNREACH, errno.EHOSTUNREACH, errno.EINVAL):
        return (
            f"pod CIDR {cidr}: its node {gateway} is not on a network of this node;"
            " the network between the nodes must route pod addresses itself"
        )
    return f"pod CIDR {cidr} by {gateway}: {os.strerror(error.code)}"
