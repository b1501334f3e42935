"""What the kernel's maps are to hold for the records of the contract: pure functions from messages to bytes.

Fails with :class:`Unrealisable`, naming the object, when the kernel's layout has no room for a record; the
caller then keeps what the kernel has for it.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from ipaddress import ip_address

from services.datapath.kernel.errors import Unrealisable
from services.datapath.kernel.layout import (
    BLOCKS_PER_ROW,
    CLASS_DEFAULT,
    CONSTANTS,
    FRONTEND,
    IPV4,
    IPV6,
    PORT_RANGE,
    RANGES_PER_BLOCK,
    ROW_HEADER,
    ROW_KEY,
    ROW_SIZE,
    RULE_NONE,
    SLOT_KEY,
    packed,
    port_bytes,
)
from shared.contract.base import Protocol
from shared.contract.policy import Action, PolicySet, PortRange, Row
from shared.contract.service import Backend, ServiceRecord

_ACTIONS = {
    Action.DENY: CONSTANTS["ACTION_DENY"],
    Action.ALLOW: CONSTANTS["ACTION_ALLOW"],
    Action.REDIRECT: CONSTANTS["ACTION_REDIRECT"],
    Action.AUDIT: CONSTANTS["ACTION_AUDIT"],
}


def set_rows(policy_set: PolicySet) -> dict[bytes, bytes]:
    """All blocks of map ``policy_rows`` for one policy set."""
    number = int(policy_set.id, 16)
    blocks = dict(_row_blocks(number, CLASS_DEFAULT, policy_set.default, policy_set))
    for peer_class, row in policy_set.rows.items():
        blocks.update(_row_blocks(number, int(peer_class, 16), row, policy_set))
    return blocks


def _row_blocks(
    number: int, peer_class: int, row: Row, policy_set: PolicySet
) -> Iterator[tuple[bytes, bytes]]:
    ranges = row.ranges
    if len(ranges) > RANGES_PER_BLOCK * BLOCKS_PER_ROW:
        names = ", ".join(f"{policy.namespace}/{policy.name}" for policy in policy_set.policies)
        raise Unrealisable(
            f"policy set {policy_set.id} of {names}: "
            f"{len(ranges)} port ranges for one peer class, at most {RANGES_PER_BLOCK * BLOCKS_PER_ROW} fit; "
            "split the policy's ports into fewer ranges"
        )
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
    return RULE_NONE if rule is None else rule


@dataclass
class ServiceEntries:
    """Entries of the maps ``frontends`` and ``backends`` for one Service, by address family (4, 6)."""

    frontends: dict[int, dict[bytes, bytes]] = field(default_factory=lambda: {4: {}, 6: {}})
    backends: dict[int, dict[bytes, bytes]] = field(default_factory=lambda: {4: {}, 6: {}})
    problems: list[str] = field(default_factory=list)


def service_entries(service: ServiceRecord) -> ServiceEntries:
    """Frontends and backends of a Service's cluster IPs; what cannot be served is a named problem."""
    entries = ServiceEntries()
    for ip in service.cluster_ips:
        version = ip_address(ip).version
        family = IPV4 if version == 4 else IPV6
        # Any other port of a Service's address has nobody to answer, and is not for the routes to send on.
        entries.frontends[version][family.frontend_key.pack(packed(ip), bytes(2), 0)] = FRONTEND.pack(0, 0, 0)
        for port in service.ports:
            usable = usable_backends(port.backends, version=version)
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
    return entries


def usable_backends(backends: Iterable[Backend], *, version: int) -> tuple[Backend, ...]:
    """Backends for new connections: the ready ones, else those that still serve while they terminate."""
    family = [backend for backend in backends if ip_address(backend.ip).version == version]
    ready = tuple(backend for backend in family if backend.ready)
    return ready or tuple(backend for backend in family if backend.serving and backend.terminating)


def backend_set(backends: tuple[Backend, ...], *, version: int) -> tuple[int, dict[bytes, bytes]]:
    """A backend set's number, a hash of its contents, and its entries: equal backends are one set."""
    family = IPV4 if version == 4 else IPV6
    values = [family.backend.pack(packed(backend.ip), port_bytes(backend.port), 0) for backend in backends]
    if not values:
        return 0, {}
    number = int.from_bytes(hashlib.sha256(b"".join(values)).digest()[:8], "big")
    return number, {SLOT_KEY.pack(number, slot): value for slot, value in enumerate(values)}
