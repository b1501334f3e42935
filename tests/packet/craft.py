"""IPv4 packets byte by byte, as an attacker makes them; for ``probe.py packet``."""

from __future__ import annotations

import socket
import struct

TCP, UDP, ICMP = 6, 17, 1
FIN, SYN, RST, ACK = 1, 2, 4, 16
ECHO_REPLY, UNREACHABLE, ECHO = 0, 3, 8


def ipv4(
    source: str,
    destination: str,
    protocol: int,
    payload: bytes,
    *,
    identification: int = 1,
    offset: int = 0,
    more: bool = False,
    options: bytes = b"",
) -> bytes:
    """A packet; ``offset`` of a fragment in units of eight bytes, ``options`` in whole words."""
    header = struct.pack(
        "!BBHHHBBH4s4s",
        0x40 | (5 + len(options) // 4),
        0,
        20 + len(options) + len(payload),
        identification,
        offset | (0x2000 if more else 0),
        64,
        protocol,
        0,
        socket.inet_aton(source),
        socket.inet_aton(destination),
    )
    header += options
    return header[:10] + struct.pack("!H", checksum(header)) + header[12:] + payload


def udp(source_port: int, destination_port: int, payload: bytes = b"") -> bytes:
    """A datagram without checksum."""
    return struct.pack("!HHHH", source_port, destination_port, 8 + len(payload), 0) + payload


def tcp(source_port: int, destination_port: int, flags: int) -> bytes:
    """A segment without data, with a checksum that no stack accepts."""
    return struct.pack("!HHIIBBHHH", source_port, destination_port, 1, 1, 0x50, flags, 1000, 0, 0)


def icmp(kind: int, *, code: int = 0, rest: bytes = bytes(4), payload: bytes = b"") -> bytes:
    """A message; ``rest`` is the second word, of echo the identifier and sequence number."""
    body = struct.pack("!BBH", kind, code, 0) + rest + payload
    return body[:2] + struct.pack("!H", checksum(body)) + body[4:]


def echo(kind: int, identifier: int) -> bytes:
    """An echo request or reply."""
    return icmp(kind, rest=struct.pack("!HH", identifier, 1), payload=b"echo")


def unreachable(quoted: bytes) -> bytes:
    """ "Port unreachable", quoting the packet that caused it."""
    return icmp(UNREACHABLE, code=3, payload=quoted[:64])


def checksum(data: bytes) -> int:
    """RFC 1071."""
    if len(data) % 2:
        data += b"\0"
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF
