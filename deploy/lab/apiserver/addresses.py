"""Allocates what Services hold exclusively: ClusterIPs (one per IP family) and node ports.

What is taken is derived from the stored Services alone, so nothing can leak: the allocator follows the
store's changes. Dynamic allocation walks on from the last address given, so that an address that was just
freed is the last to be given again; it leaves the low part of a range for addresses asked for by name, as
Kubernetes does ("Service ClusterIP allocation": a band of min(max(16, size/16), 256) addresses).
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Sequence
from typing import Any, TypeAlias

from .errors import FieldCause, Invalid
from .resources import ResourceType
from .store import Event, Key
from .validation import invalid

Object: TypeAlias = dict[str, Any]
Network: TypeAlias = ipaddress.IPv4Network | ipaddress.IPv6Network

_NODE_PORTS = range(30000, 32768)


class _AddressRange:
    """One Service CIDR: where the next dynamic address is looked for."""

    def __init__(self, network: Network) -> None:
        self.network = network
        self.family = f"IPv{network.version}"
        # Network and (IPv4) broadcast address are no hosts; a huge IPv6 range is walked from its start only.
        self._count = min(network.num_addresses - 2, 1 << 20)
        band = min(max(16, network.num_addresses // 16), 256)
        self._next = band if band < self._count else 0

    def candidates(self) -> Iterator[str]:
        for step in range(self._count):
            offset = (self._next + step) % self._count
            yield str(self.network[offset + 1])

    def advance(self, address: str) -> None:
        offset = int(ipaddress.ip_address(address)) - int(self.network.network_address)
        self._next = offset % self._count


class ServiceAddresses:
    """ClusterIPs and node ports of the stored Services. ``cidrs`` are the ranges, the primary family
    first."""

    def __init__(self, *, cidrs: Sequence[str]) -> None:
        self._ranges = [_AddressRange(ipaddress.ip_network(cidr)) for cidr in cidrs]
        if not self._ranges or len({r.family for r in self._ranges}) != len(self._ranges):
            raise ValueError(f"service CIDRs {list(cidrs)}: give one or two, of different IP families")
        self._addresses: dict[str, Key] = {}
        self._node_ports: dict[tuple[int, str], Key] = {}
        self._next_port = _NODE_PORTS.start

    def follow(self, event: Event) -> None:
        """Store observer: keep what is taken in step with the stored Services."""
        if event.storage != "services":
            return
        if event.previous is not None:
            for address in _cluster_ips(event.previous):
                self._addresses.pop(address, None)
            for port in _node_ports(event.previous):
                self._node_ports.pop(port, None)
        if event.type != "DELETED":
            self._addresses |= dict.fromkeys(_cluster_ips(event.object), event.key)
            self._node_ports |= dict.fromkeys(_node_ports(event.object), event.key)

    def assign(self, service: Object, *, old: Object | None, resource: ResourceType) -> None:
        """Complete the new ``service``'s families, ClusterIPs and node ports; ``Invalid`` when they cannot be
        had."""
        spec = service["spec"]
        key = (service["metadata"].get("namespace", ""), service["metadata"]["name"])
        causes: list[FieldCause] = []
        if spec["type"] == "ExternalName":
            for field in ("clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"):
                spec.pop(field, None)
        else:
            families = self._families(spec, causes)
            causes += self._cluster_ips(spec, families, key)
        causes += self._ports(spec, key, old)
        if causes:
            raise Invalid.of(resource, key[1], causes)

    def _families(self, spec: Object, causes: list[FieldCause]) -> list[str]:
        available = [r.family for r in self._ranges]
        asked = spec.get("ipFamilies") or []
        given = [a for a in (spec.get("clusterIPs") or [spec.get("clusterIP")]) if a and a != "None"]
        if not asked and given:
            asked = [f"IPv{ipaddress.ip_address(address).version}" for address in given]
        for family in asked:
            if family not in available:
                causes.append(invalid("spec.ipFamilies", family, "not configured on this cluster"))
        default_policy = "RequireDualStack" if len(asked) > 1 else "SingleStack"
        policy = spec.setdefault("ipFamilyPolicy", default_policy)
        families = list(asked) or available[:1]
        if policy != "SingleStack":
            families += [family for family in available if family not in families]
        if policy == "RequireDualStack" and len(families) < 2:
            causes.append(
                invalid("spec.ipFamilyPolicy", policy, "this cluster is not configured for dual-stack")
            )
        spec["ipFamilies"] = families
        return families

    def _cluster_ips(self, spec: Object, families: list[str], key: Key) -> list[FieldCause]:
        if spec.get("clusterIP") == "None":
            spec["clusterIPs"] = ["None"]
            return []
        given = list(spec.get("clusterIPs") or [])
        if spec.get("clusterIP") and not given:
            given = [spec["clusterIP"]]
        causes: list[FieldCause] = []
        for index, family in enumerate(families):
            pool = next((r for r in self._ranges if r.family == family), None)
            if pool is None:
                continue
            if index < len(given):
                causes += self._check_given(given[index], index, pool, key)
            elif (address := self._free(pool)) is not None:
                given.append(address)
            else:
                causes.append(invalid("spec.clusterIPs", "", f"range {pool.network} is full"))
        if given:
            spec["clusterIP"], spec["clusterIPs"] = given[0], given
        return causes

    def _check_given(self, address: str, index: int, pool: _AddressRange, key: Key) -> list[FieldCause]:
        field = f"spec.clusterIPs[{index}]"
        if ipaddress.ip_address(address) not in pool.network:
            return [invalid(field, address, f"the provided IP is not in the valid range {pool.network}")]
        if self._addresses.get(_canonical(address), key) != key:
            return [invalid(field, address, "failed to allocate IP: provided IP is already allocated")]
        return []

    def _free(self, pool: _AddressRange) -> str | None:
        for address in pool.candidates():
            if address not in self._addresses:
                pool.advance(address)
                return address
        return None

    def _ports(self, spec: Object, key: Key, old: Object | None) -> list[FieldCause]:
        wanted = spec["type"] == "NodePort" or (
            spec["type"] == "LoadBalancer" and spec.get("allocateLoadBalancerNodePorts") is not False
        )
        causes: list[FieldCause] = []
        kept = (
            {(p["port"], p["protocol"]): p.get("nodePort") for p in old["spec"].get("ports", [])}
            if old
            else {}
        )
        for index, port in enumerate(spec.get("ports") or []):
            if spec["type"] in ("ClusterIP", "ExternalName"):
                port.pop("nodePort", None)
                continue
            field = f"spec.ports[{index}].nodePort"
            number = port.get("nodePort") or kept.get((port["port"], port["protocol"]))
            if number is None and wanted:
                number = self._free_port(port["protocol"], spec)
            if number is None:
                continue
            port["nodePort"] = number
            if number not in _NODE_PORTS:
                causes.append(invalid(field, number, "not in the valid range 30000-32767"))
            elif self._node_ports.get((number, port["protocol"]), key) != key:
                causes.append(invalid(field, number, "provided port is already allocated"))
        return causes

    def _free_port(self, protocol: str, spec: Object) -> int | None:
        here = {port.get("nodePort") for port in spec["ports"]}
        for step in range(len(_NODE_PORTS)):
            number = _NODE_PORTS[(self._next_port - _NODE_PORTS.start + step) % len(_NODE_PORTS)]
            if (number, protocol) not in self._node_ports and number not in here:
                self._next_port = number + 1
                return number
        return None


def inherit(service: Object, *, old: Object | None) -> None:
    """A write that leaves the allocated fields out keeps them, so that ``kubectl replace`` works."""
    spec = service["spec"]
    if spec["type"] == "ExternalName":
        return
    if old is None or old["spec"]["type"] == "ExternalName":
        return
    for field in ("clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy"):
        if not spec.get(field) and field in old["spec"]:
            spec[field] = old["spec"][field]


def _cluster_ips(service: Object) -> list[str]:
    return [_canonical(address) for address in service["spec"].get("clusterIPs") or [] if address != "None"]


def _canonical(address: str) -> str:
    return str(ipaddress.ip_address(address))


def _node_ports(service: Object) -> list[tuple[int, str]]:
    return [(p["nodePort"], p["protocol"]) for p in service["spec"].get("ports") or [] if p.get("nodePort")]
