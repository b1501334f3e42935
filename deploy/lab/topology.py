"""The lab's network: one bridge in a namespace of its own, nodes and outside hosts joined to it.

The plan is pure: names and addresses follow from the options alone. All addresses live inside the lab's
namespaces; the machine's own namespace gets no interface and no route, so several labs may use the same ones.
Routes between the nodes' pod CIDRs are not made here: they are the datapath's work.

``build`` may be repeated: it makes what is missing and leaves what is right.
"""

from __future__ import annotations

import contextlib
from enum import StrEnum
from functools import partial
from ipaddress import ip_interface, ip_network
from typing import TypeVar

import msgspec
from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

from deploy.lab import namespaces
from deploy.lab.names import LabNames, namespace_path

T = TypeVar("T")

BRIDGE = "br0"
UPLINK = "eth0"

UNDERLAY_V4 = ip_network("172.30.0.0/24")
UNDERLAY_V6 = ip_network("fd00:172:30::/64")
POD_CIDRS_V4 = ip_network("10.244.0.0/16")
POD_CIDRS_V6 = ip_network("fd00:10:244::/48")
SERVICES_V4 = "10.96.0.0/16"
SERVICES_V6 = "fd00:10:96::/112"

FIRST_NODE = 11
"""Last byte of the first node's underlay address; the bridge has 1, outside hosts begin at 201."""
FIRST_OUTSIDE = 201
MAX_NODES = FIRST_OUTSIDE - FIRST_NODE
MAX_OUTSIDE = 254 - FIRST_OUTSIDE


class IpFamily(StrEnum):
    """Which families nodes, pods and Services have; with both, IPv4 is the first."""

    V4 = "v4"
    V6 = "v6"
    DUAL = "dual"

    def choose(self, v4: T, v6: T) -> tuple[T, ...]:
        """What there is of both families."""
        return {IpFamily.V4: (v4,), IpFamily.V6: (v6,), IpFamily.DUAL: (v4, v6)}[self]


class HostPlan(msgspec.Struct, frozen=True, kw_only=True):
    """A namespace on the underlay; ``addresses`` have a prefix length (``172.30.0.11/24``)."""

    name: str
    namespace: str
    port: str
    """Its interface's peer at the bridge."""
    addresses: tuple[str, ...]
    pod_cidrs: tuple[str, ...] = ()
    """Empty for a host outside of the cluster."""

    @property
    def ips(self) -> tuple[str, ...]:
        """The addresses alone."""
        return tuple(str(ip_interface(address).ip) for address in self.addresses)


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """Everything that :func:`build` makes."""

    net_namespace: str
    gateways: tuple[str, ...]
    """Addresses of the bridge, with prefix length; hosts have their default routes there."""
    nodes: tuple[HostPlan, ...]
    outside: tuple[HostPlan, ...] = ()
    ip_family: IpFamily = IpFamily.V4


def plan(names: LabNames, *, nodes: int, ip_family: IpFamily = IpFamily.V4, outside: int = 0) -> Plan:
    """The network of a lab with nodes ``node-1``.. and outside hosts ``outside-1``..

    Raises ValueError when there are more than the underlay has addresses for.
    """
    if not 1 <= nodes <= MAX_NODES:
        raise ValueError(f"nodes: {nodes}, must be 1 to {MAX_NODES}")
    if not 0 <= outside <= MAX_OUTSIDE:
        raise ValueError(f"outside hosts: {outside}, must be 0 to {MAX_OUTSIDE}")
    return Plan(
        net_namespace=names.net_namespace,
        gateways=_underlay(1, ip_family=ip_family),
        nodes=tuple(
            HostPlan(
                name=f"node-{number}",
                namespace=names.node_namespace(f"node-{number}"),
                port=f"n{number}",
                addresses=_underlay(FIRST_NODE + number - 1, ip_family=ip_family),
                pod_cidrs=_pod_cidrs(number, ip_family=ip_family),
            )
            for number in range(1, nodes + 1)
        ),
        outside=tuple(
            HostPlan(
                name=f"outside-{number}",
                namespace=names.node_namespace(f"outside-{number}"),
                port=f"o{number}",
                addresses=_underlay(FIRST_OUTSIDE + number - 1, ip_family=ip_family),
            )
            for number in range(1, outside + 1)
        ),
        ip_family=ip_family,
    )


def build(network: Plan) -> None:
    """Makes the namespaces, the bridge, links, addresses and default routes. Blocks."""
    namespaces.create(network.net_namespace)
    _set_families(network.net_namespace, network.ip_family, forwarding=False)
    namespaces.run_in(network.net_namespace, partial(_build_bridge, network))
    for host in (*network.nodes, *network.outside):
        namespaces.create(host.namespace)
        _set_families(host.namespace, network.ip_family, forwarding=bool(host.pod_cidrs))
        if not namespaces.run_in(host.namespace, _has_uplink):
            namespaces.run_in(network.net_namespace, partial(_delete_port, host))
        namespaces.run_in(host.namespace, partial(_build_host, host, network))
        namespaces.run_in(network.net_namespace, partial(_join_bridge, host))


def build_pod_namespace(namespace: str, *, ip_family: IpFamily) -> None:
    """The namespace as a container runtime hands it to CNI: empty but for ``lo``, which is up. Blocks."""
    namespaces.create(namespace)
    _set_families(namespace, ip_family, forwarding=False)
    namespaces.run_in(namespace, _loopback_up)


def _underlay(host: int, *, ip_family: IpFamily) -> tuple[str, ...]:
    return ip_family.choose(
        f"{UNDERLAY_V4[host]}/{UNDERLAY_V4.prefixlen}", f"{UNDERLAY_V6[host]}/{UNDERLAY_V6.prefixlen}"
    )


def _pod_cidrs(node: int, *, ip_family: IpFamily) -> tuple[str, ...]:
    return ip_family.choose(
        f"{POD_CIDRS_V4.network_address + node * 256}/24", f"{POD_CIDRS_V6.network_address + (node << 64)}/64"
    )


def _set_families(namespace: str, family: IpFamily, *, forwarding: bool) -> None:
    values = {
        "net.ipv4.ip_forward": "1" if forwarding else "0",
        # Replies may come back another way than the request left, which strict filtering would drop.
        "net.ipv4.conf.all.rp_filter": "0",
        "net.ipv4.conf.default.rp_filter": "0",
        "net.ipv4.conf.all.send_redirects": "0",
        "net.ipv4.conf.default.send_redirects": "0",
    }
    if family is IpFamily.V4:
        values |= {"net.ipv6.conf.all.disable_ipv6": "1", "net.ipv6.conf.default.disable_ipv6": "1"}
    else:
        values |= {
            "net.ipv6.conf.all.disable_ipv6": "0",
            "net.ipv6.conf.default.disable_ipv6": "0",
            "net.ipv6.conf.all.forwarding": "1" if forwarding else "0",
            # No detection of duplicates: addresses are unique by plan and must be usable at once.
            "net.ipv6.conf.all.accept_dad": "0",
            "net.ipv6.conf.default.accept_dad": "0",
            "net.ipv6.conf.all.accept_ra": "0",
            "net.ipv6.conf.default.accept_ra": "0",
        }
    namespaces.write_sysctl(namespace, values)


def _loopback_up() -> None:
    with IPRoute() as route:
        route.link("set", index=1, state="up")


def _build_bridge(network: Plan) -> None:
    with IPRoute() as route:
        route.link("set", index=1, state="up")
        found = route.link_lookup(ifname=BRIDGE)
        if not found:
            route.link("add", ifname=BRIDGE, kind="bridge", br_stp_state=0, br_forward_delay=0)
            found = route.link_lookup(ifname=BRIDGE)
        for address in network.gateways:
            _replace_address(route, found[0], address)
        route.link("set", index=found[0], state="up")


def _has_uplink() -> bool:
    with IPRoute() as route:
        return bool(route.link_lookup(ifname=UPLINK))


def _delete_port(host: HostPlan) -> None:
    """Of a former namespace of the host, which the kernel has not freed yet."""
    with IPRoute() as route:
        for port in route.link_lookup(ifname=host.port):
            with contextlib.suppress(NetlinkError):  # freed in between
                route.link("del", index=port)


def _build_host(host: HostPlan, network: Plan) -> None:
    with IPRoute() as route:
        route.link("set", index=1, state="up")
        found = route.link_lookup(ifname=UPLINK)
        if not found:
            with namespace_path(network.net_namespace).open("rb") as net:
                route.link(
                    "add",
                    ifname=UPLINK,
                    kind="veth",
                    peer={"ifname": host.port, "net_ns_fd": net.fileno()},
                )
            found = route.link_lookup(ifname=UPLINK)
        for address in host.addresses:
            _replace_address(route, found[0], address)
        route.link("set", index=found[0], state="up")
        for gateway in network.gateways:
            route.route("replace", dst="default", gateway=str(ip_interface(gateway).ip))
        if not host.pod_cidrs:
            # An outside host reaches pods as hosts of a routed network do: through the pod's node.
            for node in network.nodes:
                for cidr, ip in zip(node.pod_cidrs, node.ips, strict=True):
                    route.route("replace", dst=cidr, gateway=ip)


def _join_bridge(host: HostPlan) -> None:
    with IPRoute() as route:
        bridge = route.link_lookup(ifname=BRIDGE)[0]
        port = route.link_lookup(ifname=host.port)[0]
        route.link("set", index=port, master=bridge, state="up")


def _replace_address(route: IPRoute, index: int, address: str) -> None:
    interface = ip_interface(address)
    route.addr("replace", index=index, address=str(interface.ip), prefixlen=interface.network.prefixlen)
