"""One pod's veth: made, set up, checked and deleted, with blocking netlink calls.

The order protects the pod: :func:`create` makes both sides down, the pod's side directly in its
namespace, so that nothing can pass; the caller then attaches the programs to the host side;
:func:`bring_up` lets packets pass.

A pod talks to its node alone, on layer 3: its address has the full prefix length, its default route goes to a
link-local address that no interface has, and permanent neighbour entries on both sides make ARP and neighbour
discovery unnecessary. Without an IPv6 address IPv6 is off on both sides. With one, the kernel makes the
address usable some milliseconds after :func:`bring_up`, even without duplicate address detection.

Everything may be done again: what exists is replaced, what is gone is not missed. Raises :class:`LinkError`.
"""

from __future__ import annotations

import errno
import hashlib
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from pyroute2.netlink.exceptions import NetlinkError

from services.datapath.endpoints import host_ifname
from services.datapath.errors import LinkError, NotANetns
from services.datapath.netns import Worker

HOST_MAC = "0a:53:54:00:00:01"
"""Of the host side of every pod's veth: locally administered, and no pod can see another's."""

GATEWAY = {4: "169.254.1.1", 6: "fe80::1"}
"""Next hop of a pod's default route by IP version."""

ROUTE_PROTOCOL = 83
"""``rtm_protocol`` of Stentor's routes (rtnetlink(7)): no others are ever deleted."""

_FAMILY = {4: socket.AF_INET, 6: socket.AF_INET6}
_BITS = {4: 32, 6: 128}
_DEFAULT = {4: "0.0.0.0/0", 6: "::/0"}
_NUD_PERMANENT = 0x80
_SCOPE_LINK = 253
_RTNH_ONLINK = 4
_IFA_NODAD = 2
_IFF_UP = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class PodLink:
    """What a pod's link has to be."""

    container_id: str
    ifname: str
    netns: str
    addresses: tuple[str, ...]
    """One address of each family, without prefix length; at least one."""
    mtu: int

    @property
    def host_ifname(self) -> str:
        """Name of the host side."""
        return host_ifname(self.container_id, self.ifname)

    @property
    def mac(self) -> str:
        """Of the pod's side, made from its first address."""
        address = ip_address(self.addresses[0])
        if address.version == 4:
            octets = b"\x0e\x53" + address.packed
        else:
            octets = b"\x0e\x56" + hashlib.sha256(address.packed).digest()[:4]
        return octets.hex(":")

    @property
    def versions(self) -> tuple[int, ...]:
        """IP versions of the addresses."""
        return tuple(ip_address(ip).version for ip in self.addresses)


@dataclass(frozen=True, slots=True)
class VethPair:
    """Interface indices of a link, each valid in its own namespace."""

    host_ifindex: int
    pod_ifindex: int


@contextmanager
def _attempt(what: str) -> Iterator[None]:
    try:
        yield
    except NetlinkError as error:
        raise LinkError(f"{what}: {os.strerror(error.code)}") from error
    except OSError as error:
        raise LinkError(f"{what}: {error.strerror or error}") from error


def create(worker: Worker, link: PodLink) -> VethPair:
    """Make both sides, down; a left-over of the same container and interface is replaced."""
    with _open_netns(worker, link.netns) as netns:
        with _attempt(f"make veth {link.host_ifname} with {link.ifname} in {link.netns}"):
            _add_veth(worker, link, netns)
        try:
            with _attempt(f"prepare veth {link.host_ifname}"):
                index = socket.if_nametoindex(link.host_ifname)
                _host_sysctls(link)
                with worker.inside(netns):
                    pod_index = socket.if_nametoindex(link.ifname)
                    _pod_sysctls(link)
        except LinkError:
            delete(worker, link.host_ifname)
            raise
    return VethPair(host_ifindex=index, pod_ifindex=pod_index)


def bring_up(worker: Worker, link: PodLink) -> None:
    """Addresses, neighbours, routes, and both sides up. The programs must be attached before."""
    with _open_netns(worker, link.netns) as netns:
        with _attempt(f"set up veth {link.host_ifname}"):
            _bring_up_host_side(worker.node, link)
        with (
            _attempt(f"set up {link.ifname} in {link.netns}"),
            worker.netlink_inside(netns) as (pod, interfaces),
        ):
            if link.ifname not in interfaces:
                raise LinkError(f"set up {link.ifname} in {link.netns}: the interface is gone")
            _bring_up_pod_side(pod, interfaces[link.ifname], link)
        with _attempt(f"set up veth {link.host_ifname}"):
            # The host side has had its carrier for a moment only and drops what it is to send until the link
            # watch has run. To answer this request the kernel runs it first (rtnl_getlink, since Linux 6.8).
            worker.node.link("get", index=socket.if_nametoindex(link.host_ifname))


def delete(worker: Worker, name: str) -> bool:
    """Delete the link by its host side's name; False when there was none. Routes and programs go with it."""
    try:
        index = socket.if_nametoindex(name)
    except OSError:
        return False
    try:
        worker.node.link("del", index=index)
    except NetlinkError as error:
        if error.code == errno.ENODEV:
            return False
        raise LinkError(f"delete veth {name}: {os.strerror(error.code)}") from error
    return True


def differences(worker: Worker, link: PodLink) -> tuple[str, ...]:
    """Sentences that each name one thing which is not as :func:`bring_up` left it; none when all is well."""
    found: list[str] = []
    with _attempt(f"look at veth {link.host_ifname}"):
        found += _host_differences(worker.node, link)
    try:
        with (
            _open_netns(worker, link.netns) as netns,
            _attempt(f"look at {link.ifname} in {link.netns}"),
            worker.netlink_inside(netns) as (pod, interfaces),
        ):
            found += _pod_differences(pod, interfaces.get(link.ifname), link)
    except NotANetns as error:
        found.append(str(error))
    return tuple(found)


def _bring_up_host_side(node: Any, link: PodLink) -> None:
    index = socket.if_nametoindex(link.host_ifname)
    node.link("set", index=index, state="up")
    for ip, version in zip(link.addresses, link.versions, strict=True):
        node.neigh("replace", dst=ip, lladdr=link.mac, ifindex=index, state=_NUD_PERMANENT)
        node.route(
            "replace", dst=f"{ip}/{_BITS[version]}", oif=index, proto=ROUTE_PROTOCOL, scope=_SCOPE_LINK
        )


def _bring_up_pod_side(pod: Any, index: int, link: PodLink) -> None:
    for ip, version in zip(link.addresses, link.versions, strict=True):
        flags = {"flags": _IFA_NODAD} if version == 6 else {}
        pod.addr("replace", index=index, address=ip, prefixlen=_BITS[version], **flags)
    pod.link("set", index=index, state="up")
    for version in link.versions:
        gateway = GATEWAY[version]
        pod.neigh("replace", dst=gateway, lladdr=HOST_MAC, ifindex=index, state=_NUD_PERMANENT)
        pod.route("replace", dst=_DEFAULT[version], gateway=gateway, oif=index, flags=_RTNH_ONLINK)


def _host_differences(node: Any, link: PodLink) -> Iterator[str]:
    name = link.host_ifname
    try:
        index = socket.if_nametoindex(name)
    except OSError:
        yield f"the node has no interface {name}"
        return
    yield from _link_differences(node, index, name, mac=HOST_MAC)
    for ip in link.addresses:
        if not _has_neighbour(node, index, ip, link.mac):
            yield f"the node has no permanent neighbour {ip} at {link.mac} on {name}"
        if not _leads_to(node, ip, index):
            yield f"the node has no route to {ip} on {name}"


def _pod_differences(pod: Any, index: int | None, link: PodLink) -> Iterator[str]:
    name = f"{link.ifname} of the pod"
    if index is None:
        yield f"the pod has no interface {link.ifname}"
        return
    yield from _link_differences(pod, index, name, mac=link.mac)
    addresses = {(a.get("address"), a["prefixlen"]) for a in pod.get_addr(index=index)}
    for ip, version in zip(link.addresses, link.versions, strict=True):
        if (ip, _BITS[version]) not in addresses:
            yield f"{name} has no address {ip}"
        gateway = GATEWAY[version]
        if not _has_neighbour(pod, index, gateway, HOST_MAC):
            yield f"{name} has no permanent neighbour {gateway} at {HOST_MAC}"
        routes = pod.get_routes(family=_FAMILY[version], oif=index)
        if not any(r["dst_len"] == 0 and r.get("gateway") == gateway for r in routes):
            yield f"{name} has no default route by {gateway}"


def _link_differences(netlink: Any, index: int, name: str, *, mac: str) -> Iterator[str]:
    (found,) = netlink.get_links(index)
    if not found["flags"] & _IFF_UP:
        yield f"{name} is down"
    if found.get("address") != mac:
        yield f"{name} has the hardware address {found.get('address')}, not {mac}"


def _has_neighbour(netlink: Any, index: int, ip: str, mac: str) -> bool:
    try:
        found = netlink.neigh("get", dst=ip, ifindex=index, family=_FAMILY[ip_address(ip).version])
    except NetlinkError as error:
        if error.code == errno.ENOENT:
            return False
        raise
    return any(n.get("lladdr") == mac and n["state"] & _NUD_PERMANENT for n in found)


def _leads_to(node: Any, ip: str, index: int) -> bool:
    try:
        routes = node.route("get", dst=ip)
    except NetlinkError as error:
        if error.code in (errno.ENETUNREACH, errno.EHOSTUNREACH):
            return False
        raise
    return any(route.get("oif") == index for route in routes)


def _add_veth(worker: Worker, link: PodLink, netns: int) -> None:
    peer = {"ifname": link.ifname, "net_ns_fd": netns, "address": link.mac, "mtu": link.mtu}
    spec = {"ifname": link.host_ifname, "kind": "veth", "address": HOST_MAC, "mtu": link.mtu, "peer": peer}
    try:
        worker.node.link("add", **spec)
    except NetlinkError as error:
        # The host name is a hash of container and interface, so what has it can only be ours.
        if error.code != errno.EEXIST or not delete(worker, link.host_ifname):
            raise
        worker.node.link("add", **spec)


def _host_sysctls(link: PodLink) -> None:
    name = link.host_ifname
    # The programs check the source address of every packet of a pod against its endpoint.
    _sysctl(f"ipv4/conf/{name}/rp_filter", "0")
    if 6 in link.versions:
        _sysctl(f"ipv6/conf/{name}/accept_ra", "0")
        _sysctl(f"ipv6/conf/{name}/addr_gen_mode", "1")
    else:
        _sysctl(f"ipv6/conf/{name}/disable_ipv6", "1")


def _pod_sysctls(link: PodLink) -> None:
    if 6 in link.versions:
        _sysctl(f"ipv6/conf/{link.ifname}/disable_ipv6", "0")
        _sysctl(f"ipv6/conf/{link.ifname}/accept_ra", "0")
        _sysctl(f"ipv6/conf/{link.ifname}/addr_gen_mode", "1")
    else:
        _sysctl(f"ipv6/conf/{link.ifname}/disable_ipv6", "1")


def _sysctl(name: str, value: str) -> None:
    """Set in the calling thread's network namespace."""
    path = Path("/proc/sys/net") / name
    try:
        path.write_text(value)
    except FileNotFoundError:
        # A kernel without IPv6 has none of its settings, and nothing to switch off.
        if not name.startswith("ipv6/") or Path("/proc/sys/net/ipv6").exists():
            raise


@contextmanager
def _open_netns(worker: Worker, path: str) -> Iterator[int]:
    """The namespace as a file descriptor; refuses the node's own, where a pod's interface would do harm."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise NotANetns(f"network namespace {path} cannot be opened: {error.strerror}") from error
    try:
        if worker.is_home(descriptor):
            raise NotANetns(f"{path} is the network namespace of the node, not of a pod")
        yield descriptor
    finally:
        os.close(descriptor)
