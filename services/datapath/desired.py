"""What the kernel's maps are to hold for the records of the contract: pure functions from messages to bytes.

What the kernel's layout has no room for is closed, never left out, and named as a problem.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network

from services.datapath.kernel.layout import (
    BLOCKS_PER_ROW,
    CLASS_DEFAULT,
    FAMILIES,
    FRONTEND,
    PEER,
    PORT_RANGE,
    RANGES_PER_BLOCK,
    ROW_HEADER,
    ROW_KEY,
    ROW_SIZE,
    RULE_NONE,
    SLOT_KEY,
    packed,
    port_bytes,
    prefix_key,
)
from services.datapath.kernel.source import CONSTANTS
from shared.contract.base import Protocol
from shared.contract.policy import Action, CidrClass, PolicySet, PortRange, Row
from shared.contract.reserved import Reserved
from shared.contract.service import Backend, ServiceRecord

ROW_CAPACITY = RANGES_PER_BLOCK * BLOCKS_PER_ROW
"""Port ranges that a row may have."""

_ACTIONS = {
    Action.DENY: CONSTANTS["ACTION_DENY"],
    Action.ALLOW: CONSTANTS["ACTION_ALLOW"],
    Action.REDIRECT: CONSTANTS["ACTION_REDIRECT"],
    Action.AUDIT: CONSTANTS["ACTION_AUDIT"],
}


_CLOSED = Row()
"""Denies everything."""


@dataclass
class SetBlocks:
    """Blocks of map ``policy_rows`` for one policy set."""

    blocks: dict[bytes, bytes] = field(default_factory=dict)
    problem: str = ""
    """What some row has no room for; it denies everything."""


def set_rows(policy_set: PolicySet) -> SetBlocks:
    """All of them; a row that does not fit denies everything."""
    number, made = int(policy_set.id, 16), SetBlocks()
    rows = {CLASS_DEFAULT: policy_set.default} | {int(id, 16): row for id, row in policy_set.rows.items()}
    for peer_class, row in rows.items():
        if len(row.ranges) > ROW_CAPACITY:
            made.problem = (
                f"{len(row.ranges)} port ranges for one peer class and room for {ROW_CAPACITY}: "
                "write fewer or wider ranges"
            )
            row = _CLOSED
        made.blocks.update(_row_blocks(number, peer_class, row))
    return made


def _row_blocks(number: int, peer_class: int, row: Row) -> Iterator[tuple[bytes, bytes]]:
    ranges = row.ranges
    header = ROW_HEADER.pack(len(ranges), _rule(row.rule), _ACTIONS[row.action])
    for block in range(max(1, -(-len(ranges) // RANGES_PER_BLOCK))):
        part = ranges[block * RANGES_PER_BLOCK : (block + 1) * RANGES_PER_BLOCK]
        value = header + b"".join(_range(port_range) for port_range in part)
        yield ROW_KEY.pack(number, peer_class, block), value.ljust(ROW_SIZE, b"\0")


def _range(port_range: PortRange) -> bytes:
    return PORT_RANGE.pack(
        port_range.first,
        port_range.last,
        port_range.protocol.number,
        _ACTIONS[port_range.action],
        _rule(port_range.rule),
        port_range.redirect_port,
    )


def _rule(rule: int | None) -> int:
    """What the field has no room for goes without a name."""
    return RULE_NONE if rule is None else min(rule, RULE_NONE)


def prefix_entries(pod_cidrs: Iterable[str], blocks: Iterable[CidrClass]) -> dict[int, dict[bytes, bytes]]:
    """Map ``cidrs`` by address family: all addresses that the ipcache does not name, longest prefix first.

    One of a pod CIDR has no pod that is known, so no pod selector matches it; blocks do, like any address.
    """
    entries: dict[int, dict[bytes, bytes]] = {version: {} for version in FAMILIES}
    classes = {ip_network(block.cidr): int(block.peer_class, 16) for block in blocks}
    lengths = sorted({network.prefixlen for network in classes}, reverse=True)
    for cidr in pod_cidrs:
        network = ip_network(cidr)
        around = (network.supernet(new_prefix=length) for length in lengths if length <= network.prefixlen)
        peer_class = next((classes[block] for block in around if block in classes), 0)
        entries[network.version][prefix_key(cidr)] = PEER.pack(peer_class, Reserved.UNMANAGED)
    for network, peer_class in classes.items():
        entries[network.version][prefix_key(str(network))] = PEER.pack(peer_class, Reserved.WORLD)
    return entries


@dataclass
class ServiceEntries:
    """Entries of the maps ``frontends`` and ``backends`` for one Service, by address family (4, 6)."""

    frontends: dict[int, dict[bytes, bytes]] = field(default_factory=lambda: {4: {}, 6: {}})
    backends: dict[int, dict[bytes, bytes]] = field(default_factory=lambda: {4: {}, 6: {}})
    problems: list[str] = field(default_factory=list)


def service_entries(service: ServiceRecord, *, node: str) -> ServiceEntries:
    """Frontends and backends of a Service on a node; what cannot be served is a named problem."""
    entries = ServiceEntries()
    for ip in service.cluster_ips:
        version = ip_address(ip).version
        family = FAMILIES[version]
        for port in service.ports:
            usable = usable_backends(
                port.backends, version=version, on=node if service.internal_local else None
            )
            if port.protocol is Protocol.SCTP and any(backend.port != port.port for backend in usable):
                entries.problems.append(
                    f"Service {service.namespace}/{service.name} port {port.port}/SCTP: "
                    "targetPort differs, and SCTP's checksum does not allow to rewrite ports; make them equal"
                )
                usable = ()
            number, slots = backend_set(usable, version=version)
            key = family.frontend_key.pack(packed(ip), port_bytes(port.port), port.protocol.number)
            entries.frontends[version][key] = FRONTEND.pack(number, len(usable), 0)
            entries.backends[version].update(slots)
        # Any other port of a Service's address has nobody to answer, and is not for the routes to send on.
        # Written last, so that nobody is refused on a port that is on its way.
        entries.frontends[version][family.frontend_key.pack(packed(ip), bytes(2), 0)] = FRONTEND.pack(0, 0, 0)
    return entries


def usable_backends(
    backends: Iterable[Backend], *, version: int, on: str | None = None
) -> tuple[Backend, ...]:
    """Backends for new connections: the ready ones, else those that still serve while they terminate.

    ``on`` is the only node whose backends count (``internalTrafficPolicy: Local``).
    """
    family = [
        backend
        for backend in backends
        if ip_address(backend.ip).version == version and on in (None, backend.node)
    ]
    ready = tuple(backend for backend in family if backend.ready)
    return ready or tuple(backend for backend in family if backend.serving and backend.terminating)


def backend_set(backends: tuple[Backend, ...], *, version: int) -> tuple[int, dict[bytes, bytes]]:
    """A backend set's number, a hash of its contents, and its entries: equal backends are one set."""
    family = FAMILIES[version]
    values = [family.backend.pack(packed(backend.ip), port_bytes(backend.port), 0) for backend in backends]
    if not values:
        return 0, {}
    number = int.from_bytes(hashlib.sha256(b"".join(values)).digest()[:8], "big")
    return number, {SLOT_KEY.pack(number, slot): value for slot, value in enumerate(values)}
