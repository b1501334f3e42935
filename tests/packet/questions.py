"""What may be asked of a node: whether the first packet of a connection passes; and packets that ask it."""

from __future__ import annotations

import socket
import struct
from functools import cache
from typing import NamedTuple

from tests.packet.craft import ECHO, ECHO6, ICMP, ICMP6, SYN, TCP, UDP, echo, icmp6, ipv4, ipv6, tcp, udp

SCTP = 132
NUMBERS = {"TCP": TCP, "UDP": UDP, "SCTP": SCTP}

ALLOWED = "allowed"
DENIED = {"egress": "denied by egress policy", "ingress": "denied by ingress policy"}


class Question(NamedTuple):
    """May this address reach that one?"""

    source: str
    destination: str
    protocol: str
    """As in policies, or ``ICMP`` of either family: an echo request, whatever the port."""
    port: int


class Trace(NamedTuple):
    """By what a packet is known again, in an event and where it arrives; addresses as events have them."""

    source: bytes
    destination: bytes
    source_port: bytes
    port: bytes
    protocol: int


def frame_of(question: Question, *, source_port: int) -> bytes:
    """A first packet with this source port (ICMP: identifier), to a MAC address that nobody has.

    So programs see it, and the stack of a pod that it reaches does not answer.
    """
    source, destination, protocol, port = question
    if protocol == "ICMP":
        return _icmp(source, destination, source_port)
    payload = _payload(protocol, source_port, port)
    return _header(source, destination, NUMBERS[protocol], len(payload)) + payload


def trace_of(question: Question, *, source_port: int) -> Trace:
    """The trace of :func:`frame_of`."""
    source, destination, protocol, port = question
    number = NUMBERS.get(protocol)
    if number is None:
        number, port = (ICMP6, ECHO6) if ":" in source else (ICMP, ECHO)
    ports = source_port.to_bytes(2, "big"), port.to_bytes(2, "big")
    return Trace(_address(source), _address(destination), *ports, number)


def read_trace(frame: bytes) -> Trace | None:
    """The trace of a frame that arrived, None for one that no question looks like."""
    kind = frame[12:14]
    if kind == b"\x08\x00" and len(frame) >= 42:
        number, payload = frame[23], frame[34:]
        source, destination = (frame[at : at + 4].ljust(16, b"\0") for at in (26, 30))
    elif kind == b"\x86\xdd" and len(frame) >= 62:
        number, payload = frame[20], frame[54:]
        source, destination = frame[22:38], frame[38:54]
    else:
        return None
    if number in (ICMP, ICMP6):
        return Trace(source, destination, payload[4:6], b"\0" + payload[:1], number)
    return Trace(source, destination, payload[:2], payload[2:4], number)


@cache
def _address(ip: str) -> bytes:
    family = socket.AF_INET6 if ":" in ip else socket.AF_INET
    return socket.inet_pton(family, ip).ljust(16, b"\0")


@cache
def _header(source: str, destination: str, number: int, length: int) -> bytes:
    macs = bytes.fromhex("0253540000fe0253540000fd")
    if ":" in source:
        return macs + b"\x86\xdd" + ipv6(source, destination, number, bytes(length))[:-length]
    return macs + b"\x08\x00" + ipv4(source, destination, number, bytes(length))[:-length]


def _payload(protocol: str, source_port: int, port: int) -> bytes:
    if protocol == "TCP":
        return tcp(source_port, port, SYN)
    if protocol == "UDP":
        return udp(source_port, port)
    return struct.pack("!HHII", source_port, port, 0, 0)


def _icmp(source: str, destination: str, identifier: int) -> bytes:
    if ":" in source:
        payload = icmp6(source, destination, ECHO6, rest=struct.pack("!HH", identifier, 1))
        return _header(source, destination, ICMP6, len(payload)) + payload
    payload = echo(ECHO, identifier)
    return _header(source, destination, ICMP, len(payload)) + payload
