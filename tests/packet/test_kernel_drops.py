"""Drops: each is counted once, by reason and direction, and told with what it was; and full source ports."""

from __future__ import annotations

import asyncio
import errno
import os
import shutil
import socket
import struct
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from services.datapath.kernel import ring
from services.datapath.kernel.layout import (
    IPV4,
    PEER,
    packed,
    port_bytes,
)
from services.datapath.kernel.loader import Loaded, load
from services.datapath.kernel.source import CONSTANTS, Sizes
from shared.contract.drops import DropReason
from tests.packet.craft import SOURCE_PORT, SYN, TCP, UDP, ipv4, ipv6, payload_of, tcp, udp
from tests.packet.guardian import PINS
from tests.packet.labs import eventually
from tests.packet.mininode import Action, Dropped, MiniNode, Pod, Range, since
from tests.packet.runs import RUN

SCTP, GRE = 132, 47
SET, NO_ROWS = 77, 78
VIRTUAL = "10.96.0.1"
ECHO, TIMESTAMP = 8, 13
ETHERNET = 14
"""Bytes of a frame before the packet."""


IP, LLDP, IPV6 = 0x0800, 0x88CC, 0x86DD
"""Kinds of frames; the second is of a protocol (LLDP) that no pod needs."""
REPORT = ipv6("fe80::1", "ff02::16", 59, bytes(20))
"""What a host says to its link, which no pod needs."""


async def test_every_drop_is_counted_once_by_reason_and_direction(node: MiniNode) -> None:
    client, guarded = await node.add_pod("c", identity=300), await node.add_pod("g", identity=301)
    lost, stranger = await node.add_pod("l", identity=302), await node.add_pod("s", identity=303)
    unready = await node.add_pod("u", identity=304, ready=False)
    outside = await node.add_outside()
    node.row(SET, None, Range(UDP, 1, 1, Action.DENY, 5), Range(UDP, 2, 2, Action.REDIRECT, 6))
    guarded.ingress_set = guarded.egress_set = SET
    lost.ingress_set = lost.egress_set = NO_ROWS
    node.enter(guarded)
    node.enter(lost)
    node.service(VIRTUAL, port=80, protocol=TCP, backends=[(client.ip, 80)])
    node.kernel.v4.ipcache.want(packed(stranger.ip), PEER.pack(0, 999))
    node.kernel.apply()

    def to(source: Pod, target: Pod, port: int = 9) -> bytes:
        return ipv4(source.ip, target.ip, UDP, udp(SOURCE_PORT, port))

    def short(source: Pod, target: Pod) -> bytes:
        return ipv4(source.ip, target.ip, TCP, tcp(SOURCE_PORT, 80, SYN)[:8])

    def later_fragment(source: Pod, target: Pod) -> bytes:
        return ipv4(source.ip, target.ip, UDP, bytes(16), offset=4)

    def to_service(port: int, length: int) -> bytes:
        return ipv4(stranger.ip, VIRTUAL, TCP, tcp(SOURCE_PORT, port, SYN)[:length])

    reasons = DropReason
    nonsense = b"\x61" + bytes(30)
    # Who sends, what kind of frame, and what comes of it. Into the first pod's link the node itself may send.
    steps: list[tuple[Pod | None, int, bytes, DropReason, str]] = [
        (client, IP, to(guarded, lost), reasons.INVALID_SOURCE_IP, "egress"),
        (guarded, IP, to(guarded, client), reasons.POLICY_DENIED, "egress"),
        (client, IP, nonsense, reasons.INVALID_PACKET, "egress"),
        (client, IP, short(client, guarded), reasons.CT_INVALID_HEADER, "egress"),
        (client, IPV6, REPORT, reasons.UNSUPPORTED_L3_PROTOCOL, "egress"),
        # The checksum, which has to be rewritten, is not there.
        (stranger, IP, to_service(80, 14), reasons.WRITE_ERROR, "egress"),
        (stranger, IP, to_service(81, 20), reasons.SERVICE_BACKEND_NOT_FOUND, "egress"),
        (lost, IP, to(lost, client), reasons.POLICY_NOT_READY, "egress"),
        (client, LLDP, bytes(60), reasons.UNSUPPORTED_L2_PROTOCOL, "egress"),
        (guarded, IP, to(guarded, stranger), reasons.INVALID_IDENTITY, "egress"),
        (client, IP, later_fragment(client, guarded), reasons.FRAGMENT_NOT_FOUND, "egress"),
        (guarded, IP, to(guarded, client, 2), reasons.PROXY_REDIRECTION_NOT_SUPPORTED, "egress"),
        (guarded, IP, to(guarded, client, 1), reasons.POLICY_DENY, "egress"),
        (unready, IP, to(unready, client), reasons.ENDPOINT_NOT_READY, "egress"),
        (outside, IP, to(client, guarded), reasons.INVALID_SOURCE_IP, "ingress"),
        (client, IP, to(client, guarded), reasons.POLICY_DENIED, "ingress"),
        (outside, IP, to(outside, guarded), reasons.POLICY_DENIED, "ingress"),
        (None, IP, nonsense, reasons.INVALID_PACKET, "ingress"),
        (outside, IP, short(outside, guarded), reasons.CT_INVALID_HEADER, "ingress"),
        (None, IPV6, REPORT, reasons.UNSUPPORTED_L3_PROTOCOL, "ingress"),
        (client, IP, to(client, lost), reasons.POLICY_NOT_READY, "ingress"),
        (None, LLDP, bytes(60), reasons.UNSUPPORTED_L2_PROTOCOL, "ingress"),
        (stranger, IP, to(stranger, guarded), reasons.INVALID_IDENTITY, "ingress"),
        (outside, IP, later_fragment(outside, guarded), reasons.FRAGMENT_NOT_FOUND, "ingress"),
        (client, IP, to(client, guarded, 2), reasons.PROXY_REDIRECTION_NOT_SUPPORTED, "ingress"),
        (client, IP, to(client, guarded, 1), reasons.POLICY_DENY, "ingress"),
        (outside, IP, to(outside, unready), reasons.ENDPOINT_NOT_READY, "ingress"),
        (client, IP, to(client, unready), reasons.ENDPOINT_NOT_READY, "ingress"),
    ]
    for number, (sender, kind, data, reason, direction) in enumerate(steps):
        what = f"step {number}: {reason.name} at {direction}"
        before = node.all_drops()
        node.events.clear()
        if sender is None:
            send_into(client, kind, data)
        else:
            await node.probe(sender, "frame", hex(kind), data.hex())
        counted = await eventually(lambda before=before: since(node, before))  # type: ignore[misc]
        assert counted == {(reason, direction): Dropped(1, ETHERNET + len(data))}, what
        if kind == IP:
            assert await node.drop_reason() == reason, what
            (event,) = node.events
            assert bool(event.flags & ring.AT_INGRESS) is (direction == "ingress"), what
            assert event.length == ETHERNET + len(data), what
    elsewhere = {
        reasons.CT_MAP_INSERTION_FAILED,
        reasons.INVALID_EXTENSION_HEADER,  # of IPv6
        reasons.MISSED_TAIL_CALL,  # of a program of which a part is missing
    }
    assert {step[3] for step in steps} == set(DropReason) - elsewhere


def send_into(pod: Pod, kind: int, data: bytes) -> None:
    """A frame of the node's own into a pod's link, which is dropped: the sender hears of that at once."""
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW) as raw:
        raw.bind((pod.host_ifname, kind))
        with pytest.raises(OSError, match=os.strerror(errno.ENOBUFS)):
            raw.send(b"\xff" * 6 + bytes(6) + struct.pack("!H", kind) + data)


async def test_answers_that_could_not_be_told_apart_are_not_asked_for(node: MiniNode) -> None:
    """SCTP keeps its ports: a client's one port towards a server and its Service would be one connection."""
    client, server = await node.add_pod("c", identity=300), await node.add_pod("s", identity=301)
    node.service(VIRTUAL, port=80, protocol=SCTP, backends=[(server.ip, 80)])
    direct, through = (ipv4(client.ip, ip, SCTP, payload_of(SCTP, 80)) for ip in (server.ip, VIRTUAL))
    before = node.all_drops()

    assert len(await node.hears(server, client, direct)) == 1
    assert await node.hears(server, client, through) == []

    size = ETHERNET + len(through)
    assert since(node, before) == {(DropReason.CT_MAP_INSERTION_FAILED, "egress"): Dropped(1, size)}
    assert await node.drop_reason() == DropReason.CT_MAP_INSERTION_FAILED
    assert len(await node.hears(server, client, direct)) == 1


@pytest.fixture(scope="module")
def large(guardian: None) -> Iterator[Loaded]:
    """Maps with room for more connections than there are ports."""
    bpffs = Path(f"/sys/fs/bpf/{PINS}{RUN}-large")
    try:
        yield asyncio.run(load(bpffs=bpffs, sizes=Sizes(ct=131_072)))
    finally:
        shutil.rmtree(bpffs, ignore_errors=True)


@pytest.fixture
async def roomy(large: Loaded) -> AsyncIterator[MiniNode]:
    """A node with these maps."""
    node = await MiniNode.create(large)
    try:
        yield node
    finally:
        await node.close()


@pytest.mark.parametrize("protocol", [TCP, UDP])
async def test_a_connection_without_a_free_source_port_is_dropped(roomy: MiniNode, protocol: int) -> None:
    node = roomy
    client, server = await node.add_pod("c", identity=300), await node.add_pod("s", identity=301)
    node.service(VIRTUAL, port=80, protocol=protocol, backends=[(server.ip, 80)])
    packet = ipv4(client.ip, VIRTUAL, protocol, payload_of(protocol, 80))
    # As if the client had a connection to the server itself from each port that it could be given.
    direct = ipv4(client.ip, server.ip, protocol, payload_of(protocol, 80))
    assert len(await node.hears(server, client, direct)) == 1

    def answer_to(port: int) -> bytes:
        ends = packed(server.ip), packed(client.ip), port_bytes(80), port_bytes(port)
        return IPV4.tuple_.pack(*ends, protocol)

    connections = dict(node.kernel.v4.connections.items())
    answering = connections[answer_to(SOURCE_PORT)]
    taken = {answer_to(port): answering for port in range(CONSTANTS["OTHER_PORTS"], 65536)}
    assert sum(node.kernel.v4.connections.put_all(taken)) == len(taken)
    node.events.clear()

    assert await node.hears(server, client, packet) == []
    assert await node.drop_reason() == DropReason.CT_MAP_INSERTION_FAILED
    assert node.told(dropped=False) == []

    node.kernel.v4.connections.delete(answer_to(SOURCE_PORT))
    (heard,) = await node.hears(server, client, packet)
    assert struct.unpack_from("!HH", heard, 20) == (SOURCE_PORT, 80)
