"""``ports`` of a rule: numbers, ``endPort`` ranges, whole protocols, and names."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from services.policy.faults import Faults
from services.policy.model import PortMatch, PortName
from services.policy.raw import RawPort
from shared.contract.base import Protocol

LAST_PORT = 65535
PROTOCOLS = frozenset((Protocol.TCP, Protocol.UDP, Protocol.SCTP))
"""``core/v1.Protocol``; a policy names no others."""


_NAME = re.compile(r"(?=.*[a-z])[a-z0-9]([-a-z0-9]*[a-z0-9])?")
_LONGEST_NAME = 15


class Ports(NamedTuple):
    """Ports of a rule; ``ranges`` None with no names is all traffic."""

    ranges: tuple[PortMatch, ...] | None
    """Sorted and disjoint."""
    names: tuple[PortName, ...] = ()
    """Sorted without duplicates."""


def read_ports(raw: Sequence[RawPort] | None, *, path: str, faults: Faults) -> Ports:
    """What the list says; all traffic when it is absent or empty."""
    if not raw:
        return Ports(None)
    ports = [_read_port(port, path=f"{path}[{index}]", faults=faults) for index, port in enumerate(raw)]
    return Ports(
        _merge([port for port in ports if isinstance(port, PortMatch)]),
        tuple(sorted({port for port in ports if isinstance(port, PortName)})),
    )


def parts(ports: Iterable[PortMatch]) -> int:
    """Into how many ranges these divide the ports that they name: no row of some of them has more."""
    ends: defaultdict[Protocol, Counter[int]] = defaultdict(Counter)
    for port in set(ports):
        ends[port.protocol][port.first] += 1
        ends[port.protocol][port.last + 1] -= 1
    found = 0
    for changes in ends.values():
        covering = 0
        for _, change in sorted(changes.items()):
            covering += change
            found += covering > 0
    return found


def _read_port(raw: RawPort, *, path: str, faults: Faults) -> PortMatch | PortName | None:
    name = raw.protocol or Protocol.TCP
    if name not in PROTOCOLS:
        faults.add(f"{path}.protocol", f"{name!r} cannot be selected", remedy="use TCP, UDP or SCTP")
        return None
    protocol = Protocol(name)
    if raw.port is None:
        if raw.end_port is not None:
            faults.add(f"{path}.endPort", "a range has no start", remedy="set port to its first port")
            return None
        return PortMatch(protocol, 0, LAST_PORT)
    if isinstance(raw.port, str):
        return _read_name(raw, raw.port, protocol=protocol, path=path, faults=faults)
    last = raw.port if raw.end_port is None else raw.end_port
    if not 1 <= raw.port <= LAST_PORT:
        faults.add(f"{path}.port", f"{raw.port} is not a port", remedy=f"use a number from 1 to {LAST_PORT}")
        return None
    if not raw.port <= last <= LAST_PORT:
        faults.add(
            f"{path}.endPort",
            f"{last} does not end a range that begins with {raw.port}",
            remedy=f"use a number from port to {LAST_PORT}",
        )
        return None
    return PortMatch(protocol, raw.port, last)


def _read_name(raw: RawPort, name: str, *, protocol: Protocol, path: str, faults: Faults) -> PortName | None:
    if raw.end_port is not None:
        faults.add(f"{path}.endPort", "a range cannot begin with a name", remedy="set port to a number")
        return None
    if len(name) > _LONGEST_NAME or not _NAME.fullmatch(name) or "--" in name:
        faults.add(
            f"{path}.port",
            f"{name!r} is not the name of a port",
            remedy=f"use up to {_LONGEST_NAME} of a-z, 0-9 and single '-', a letter among them",
        )
        return None
    return PortName(protocol, name)


def _merge(ports: list[PortMatch]) -> tuple[PortMatch, ...]:
    merged: list[PortMatch] = []
    for port in sorted(ports):
        last = merged[-1] if merged else None
        if last is not None and last.protocol is port.protocol and port.first <= last.last + 1:
            merged[-1] = PortMatch(port.protocol, last.first, max(last.last, port.last))
        else:
            merged.append(port)
    return tuple(merged)
