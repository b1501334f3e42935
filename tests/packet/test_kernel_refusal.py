"""What a pod hears where nobody serves: refused at once, as by a host without such a server."""

from __future__ import annotations

import socket
import struct
from collections.abc import AsyncIterator

import pytest

from services.datapath.kernel.loader import Loaded
from shared.contract.drops import DropReason
from tests.packet.craft import ACK, FIN, ICMP, ICMP6, RST, SYN, TCP, UDP, checksum, ipv4, ipv6, tcp, udp
from tests.packet.mininode import V4, V6, MiniNode, Pod

SCTP = 132
EMPTY = {4: "10.96.0.2", 6: "fd00:96::2"}


@pytest.fixture(params=[4, 6])
async def asking(request: pytest.FixtureRequest, loaded: Loaded) -> AsyncIterator[tuple[MiniNode, Pod, str]]:
    """A node, a client on it, and the address of a Service without backends."""
    node = await MiniNode.create(loaded, family=V4 if request.param == 4 else V6)
    try:
        client = await node.add_pod("c", identity=300)
        address = EMPTY[request.param]
        for protocol in (TCP, UDP):
            node.service(address, port=80, protocol=protocol, backends=[])
        yield node, client, address
    finally:
        await node.close()


def packet(client: Pod, to: str, protocol: int, payload: bytes) -> bytes:
    return (ipv6 if ":" in to else ipv4)(client.ip, to, protocol, payload)


def opened(answer: bytes) -> tuple[str, str, int, bytes]:
    """Source, destination, protocol and payload of a packet with a sound header."""
    if answer[0] >> 4 == 6:
        _, length, protocol, hops = struct.unpack_from("!IHBB", answer)
        assert (length, hops) == (len(answer) - 40, 64)
        family, addresses, payload = socket.AF_INET6, answer[8:40], answer[40:]
    else:
        assert (answer[0], checksum(answer[:20])) == (0x45, 0)
        (length,), protocol = struct.unpack_from("!H", answer, 2), answer[9]
        assert length == len(answer)
        family, addresses, payload = socket.AF_INET, answer[12:20], answer[20:]
    half = len(addresses) // 2
    source, destination = (socket.inet_ntop(family, part) for part in (addresses[:half], addresses[half:]))
    if protocol != ICMP:
        assert checksum(addresses + struct.pack("!II", len(payload), protocol) + payload) == 0
    else:
        assert checksum(payload) == 0
    return source, destination, protocol, payload


async def test_clients_learn_at_once_that_nobody_serves(asking: tuple[MiniNode, Pod, str]) -> None:
    node, client, address = asking
    for port in ("80", "81"):
        for protocol in ("tcp", "udp"):
            node.events.clear()
            assert (await node.probe(client, protocol, address, port))["outcome"] == "refused"
            assert await node.drop_reason() == DropReason.SERVICE_BACKEND_NOT_FOUND


@pytest.mark.parametrize(
    ("flags", "answered"),
    [
        (SYN, (0, 2, RST | ACK)),
        (FIN, (0, 2, RST | ACK)),
        (0, (0, 1, RST | ACK)),
        (ACK, (1, 0, RST)),
        (FIN | ACK, (1, 0, RST)),
    ],
)
async def test_a_segment_is_answered_by_a_reset_that_its_sender_accepts(
    asking: tuple[MiniNode, Pod, str], flags: int, answered: tuple[int, int, int]
) -> None:
    """Its numbers are those of RFC 9293, 3.10.7.1; the segment's are 1 and 1."""
    node, client, address = asking
    (answer,) = [
        heard
        for heard in await node.hears(client, client, packet(client, address, TCP, tcp(40000, 80, flags)))
        if opened(heard)[0] == address
    ]
    source, destination, protocol, payload = opened(answer)
    assert (source, destination, protocol) == (address, client.ip, TCP)
    sport, dport, seq, ack, _, set_flags = struct.unpack_from("!HHIIBB", payload)
    assert (sport, dport) == (80, 40000)
    assert (seq, ack, set_flags) == answered


@pytest.mark.parametrize("protocol", [UDP, SCTP])
async def test_of_all_else_the_port_is_unreachable(asking: tuple[MiniNode, Pod, str], protocol: int) -> None:
    node, client, address = asking
    sent = packet(client, address, protocol, udp(40000, 80, b"data"))
    (answer,) = [heard for heard in await node.hears(client, client, sent) if opened(heard)[0] == address]
    _, destination, kind, payload = opened(answer)
    six = ":" in address
    assert (destination, kind) == (client.ip, ICMP6 if six else ICMP)
    assert tuple(payload[:2]) == ((1, 4) if six else (3, 3))
    header = 40 if six else 20
    quoted = payload[8:]
    assert quoted == sent[: header + 8]


async def test_what_must_not_be_answered_is_not(asking: tuple[MiniNode, Pod, str]) -> None:
    node, client, address = asking
    reset = packet(client, address, TCP, tcp(40000, 80, RST))
    assert await node.hears(client, client, reset) == []
    assert await node.drop_reason() == DropReason.SERVICE_BACKEND_NOT_FOUND
    assert (await node.probe(client, "ping", address))["outcome"] == "denied"


async def test_nobody_is_refused_in_the_name_of_another(asking: tuple[MiniNode, Pod, str]) -> None:
    node, client, address = asking
    other = await node.add_pod("o", identity=301)
    spoofed = packet(other, address, TCP, tcp(40000, 80, SYN))
    assert await node.hears(other, client, spoofed) == []
    assert await node.drop_reason() == DropReason.INVALID_SOURCE_IP
