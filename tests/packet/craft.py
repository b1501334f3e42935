"""Packets byte by byte, as an attacker makes them; for ``probe.py packets``."""

from __future__ import annotations

import socket
import struct

TCP, UDP, ICMP, ICMP6 = 6, 17, 1, 58
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


HOP_BY_HOP, ROUTING, FRAGMENT, DESTINATION = 0, 43, 44, 60
ECHO6, ECHO_REPLY6, TOO_BIG6, SOLICITATION = 128, 129, 2, 135


def ipv6(
    source: str, destination: str, protocol: int, payload: bytes, *, length: int | None = None, hops: int = 64
) -> bytes:
    """A packet; ``protocol`` is the first next header, ``length`` what the header says the payload has."""
    size = len(payload) if length is None else length
    addresses = socket.inet_pton(socket.AF_INET6, source) + socket.inet_pton(socket.AF_INET6, destination)
    return struct.pack("!IHBB", 0x60000000, size, protocol, hops) + addresses + payload


def extension(following: int, *, words: int = 0, second: bytes = bytes(6)) -> bytes:
    """An extension header of ``words`` times 8 bytes and 8 more."""
    return struct.pack("!BB", following, words) + second + bytes(8 * words)


def fragment(following: int, *, offset: int, more: bool, identification: int = 1) -> bytes:
    """A fragment header; ``offset`` in units of eight bytes."""
    return struct.pack("!BBHI", following, 0, offset << 3 | more, identification)


def icmp6(source: str, destination: str, kind: int, *, rest: bytes = bytes(4), payload: bytes = b"") -> bytes:
    """A message of ICMPv6 with its checksum."""
    body = struct.pack("!BBH", kind, 0, 0) + rest + payload
    addresses = socket.inet_pton(socket.AF_INET6, source) + socket.inet_pton(socket.AF_INET6, destination)
    pseudo = addresses + struct.pack("!II", len(body), ICMP6)
    return body[:2] + struct.pack("!H", checksum(pseudo + body)) + body[4:]


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


SOURCE_PORT = 4000
"""Where :func:`payload_of` comes from."""


def payload_of(protocol: int, port: int) -> bytes:
    """The first packet of a connection to a port (ICMP: of a type)."""
    if protocol == TCP:
        return tcp(SOURCE_PORT, port, SYN)
    if protocol == UDP:
        return udp(SOURCE_PORT, port)
    if protocol == ICMP:
        return icmp(port)
    # SCTP has its ports first too; of other protocols the kernel reads nothing.
    return struct.pack("!HHII", SOURCE_PORT, port, 0, 0)
