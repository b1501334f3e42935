"""What an attacker in a pod or on another machine can send, and what comes of it."""

from __future__ import annotations

import asyncio

import pytest

from services.datapath.kernel.layout import IPV4, PEER, packed, port_bytes
from shared.contract.drops import DropReason
from tests.packet.craft import (
    ACK,
    ECHO,
    ECHO_REPLY,
    FIN,
    ICMP,
    SYN,
    TCP,
    UDP,
    echo,
    ipv4,
    tcp,
    udp,
    unreachable,
)
from tests.packet.mininode import MiniNode, Pod

SET, OTHER_SET = 77, 78
WORLD = 2


async def denied(node: MiniNode, where: Pod, sender: Pod | None, *data: bytes) -> int:
    """Nothing of what is sent arrives; the reason of the first drop."""
    node.events.clear()
    assert await node.hears(where, sender, *data) == []
    return await node.drop_reason()


async def pair(node: MiniNode) -> tuple[Pod, Pod]:
    """A client, and a server of which policy opens TCP and UDP port 80 to it."""
    client, server = await node.add_pod("c", identity=300), await node.add_pod("s", identity=301)
    node.row(SET, None)
    node.row(SET, 300, (TCP, 80, 80), (UDP, 80, 80))
    server.ingress_set = SET
    node.enter(server)
    return client, server


async def test_policy_is_asked_about_what_comes_from_other_machines(node: MiniNode) -> None:
    _, server = await pair(node)
    outside = await node.add_outside()
    packet = ipv4(outside.ip, server.ip, UDP, udp(4000, 80))
    assert await denied(node, server, outside, packet) == DropReason.POLICY_DENIED
    node.row(SET, WORLD, (UDP, 80, 80))
    assert len(await node.hears(server, outside, packet)) == 1


@pytest.mark.parametrize("guarded", [True, False], ids=["uplink", "other-interface"])
async def test_another_machine_cannot_be_the_node_or_a_pod_of_it(node: MiniNode, guarded: bool) -> None:
    client, server = await pair(node)
    outside = await node.add_outside(guarded=guarded)
    # Without the program, the stack itself refuses the node's own addresses.
    for source in (client.ip, server.ip, *([node.UPLINK_IP, node.NODE_IP] if guarded else [])):
        packet = ipv4(source, server.ip, UDP, udp(4000, 80))
        assert await denied(node, server, outside, packet) == DropReason.INVALID_SOURCE_IP, source


async def test_a_process_of_the_node_cannot_be_a_pod(node: MiniNode) -> None:
    client, server = await pair(node)
    packet = ipv4(client.ip, server.ip, UDP, udp(4000, 80))
    assert await denied(node, server, None, packet) == DropReason.INVALID_SOURCE_IP


@pytest.mark.parametrize("guarded", [True, False], ids=["uplink", "other-interface"])
async def test_an_icmp_error_is_for_the_pod_whose_packet_it_quotes(node: MiniNode, guarded: bool) -> None:
    client, victim = await pair(node)
    outside = await node.add_outside(guarded=guarded)
    quoted = ipv4(client.ip, outside.ip, UDP, udp(4000, 53))
    assert len(await node.hears(outside, client, quoted)) == 1

    error = unreachable(quoted)
    assert len(await node.hears(client, outside, ipv4(outside.ip, client.ip, ICMP, error))) == 1
    forged = ipv4(outside.ip, victim.ip, ICMP, error)
    assert await denied(node, victim, outside, forged) == DropReason.POLICY_DENIED


async def test_an_icmp_error_carries_nothing_past_egress_policy(node: MiniNode) -> None:
    pod = await node.add_pod("p", identity=300)
    outside = await node.add_outside()
    allowed, forbidden = node.OUTSIDE_IPS
    node.identity(400)
    node.kernel.v4.ipcache.want(packed(allowed), PEER.pack(0, 400))
    node.row(SET, None)
    node.row(SET, 400, (UDP, 53, 53))
    pod.egress_set = SET
    node.enter(pod)
    assert len(await node.hears(outside, pod, ipv4(pod.ip, allowed, UDP, udp(4000, 53)))) == 1
    answer = ipv4(allowed, pod.ip, UDP, udp(53, 4000, b"secret"))

    error = ipv4(pod.ip, allowed, ICMP, unreachable(answer))
    assert len(await node.hears(outside, pod, error)) == 1
    smuggled = ipv4(pod.ip, forbidden, ICMP, unreachable(answer))
    assert await denied(node, outside, pod, smuggled) == DropReason.POLICY_DENIED


@pytest.mark.parametrize("sender", ["node", "uplink", "other-interface"])
async def test_a_pod_that_the_kernel_does_not_know_hears_nothing(node: MiniNode, sender: str) -> None:
    pod = await node.add_pod("p", identity=300)
    outside = await node.add_outside(guarded=sender == "uplink")
    source = None if sender == "node" else outside
    packet = ipv4(outside.ip if source else node.NODE_IP, pod.ip, UDP, udp(4000, 53))
    assert len(await node.hears(pod, source, packet)) == 1

    node.kernel.v4.endpoints.want(packed(pod.ip), None)
    node.kernel.apply()
    assert await denied(node, pod, source, packet) == DropReason.ENDPOINT_NOT_READY
    other = ipv4(outside.ip if source else node.NODE_IP, pod.ip, UDP, udp(4001, 53))
    assert await denied(node, pod, source, other) == DropReason.ENDPOINT_NOT_READY


async def test_connections_of_a_pod_are_not_its_successors(node: MiniNode) -> None:
    server, former = await node.add_pod("s", identity=301), await node.add_pod("f", identity=300)
    opened = ipv4(former.ip, server.ip, UDP, udp(4000, 53))
    answer = ipv4(server.ip, former.ip, UDP, udp(53, 4000))
    assert len(await node.hears(server, former, opened)) == 1
    assert len(await node.hears(former, server, answer)) == 1

    await node.netlink.delete_pod_link(former.host_ifname)
    successor = await node.add_pod("n", identity=302, ip=former.ip)
    node.row(SET, None)
    successor.ingress_set = SET
    node.enter(successor)

    assert await denied(node, successor, server, answer) == DropReason.POLICY_DENIED


async def test_frames_for_another_vlan_do_not_leave_a_pod(node: MiniNode) -> None:
    pod, other = await node.add_pod("p", identity=300), await node.add_pod("o", identity=301)
    packet = ipv4(pod.ip, other.ip, UDP, udp(4000, 53))
    sniffer = await node.serve(other, "sniff", "eth0", "0x0800")
    before = node.drops(DropReason.UNSUPPORTED_L2_PROTOCOL)
    for tag in ("0005", "0000"):
        await node.probe(pod, "frame", "0x8100", tag + "0800" + packet.hex())
    assert b'"heard": []' in (await sniffer.communicate(b""))[0]
    assert node.drops(DropReason.UNSUPPORTED_L2_PROTOCOL) == before + 2


async def test_an_echo_request_is_no_answer_whatever_its_identifier(node: MiniNode) -> None:
    client, server = await node.add_pod("c", identity=300), await node.add_pod("s", identity=301)
    node.row(SET, None)
    client.ingress_set = SET
    node.enter(client)
    for identifier in (8, 77):
        asked = ipv4(client.ip, server.ip, ICMP, echo(ECHO, identifier))
        assert len(await node.hears(server, client, asked)) >= 1
        answer = ipv4(server.ip, client.ip, ICMP, echo(ECHO_REPLY, identifier))
        assert len(await node.hears(client, server, answer)) == 1
        request = ipv4(server.ip, client.ip, ICMP, echo(ECHO, identifier))
        assert await denied(node, client, server, request) == DropReason.POLICY_DENIED


async def test_an_echo_reply_that_nobody_asked_for_is_dropped(node: MiniNode) -> None:
    client, server = await node.add_pod("c", identity=300), await node.add_pod("s", identity=301)
    for identifier in (8, 77):
        reply = ipv4(client.ip, server.ip, ICMP, echo(ECHO_REPLY, identifier))
        assert await denied(node, server, client, reply) == DropReason.CT_INVALID_HEADER


@pytest.mark.parametrize("flags", [SYN, SYN | FIN, 0, ACK, SYN | ACK, 0xFF], ids=hex)
async def test_no_play_with_flags_opens_a_closed_port(node: MiniNode, flags: int) -> None:
    client, server = await pair(node)
    packet = ipv4(client.ip, server.ip, TCP, tcp(4000, 81, flags))
    assert await denied(node, server, client, packet) == DropReason.POLICY_DENIED


@pytest.mark.parametrize("flags", [SYN, SYN | FIN], ids=hex)
async def test_who_answers_does_not_open(node: MiniNode, flags: int) -> None:
    client, server = await pair(node)
    node.row(OTHER_SET, None)
    client.ingress_set = OTHER_SET
    node.enter(client)
    await node.hears(server, client, ipv4(client.ip, server.ip, TCP, tcp(4000, 80, SYN)))
    accepted = ipv4(server.ip, client.ip, TCP, tcp(80, 4000, SYN | ACK))
    assert accepted in await node.hears(client, server, accepted)

    opening = ipv4(server.ip, client.ip, TCP, tcp(80, 4000, flags))
    assert await denied(node, client, server, opening) == DropReason.POLICY_DENIED


async def test_ports_are_found_behind_ip_options(node: MiniNode) -> None:
    client, server = await pair(node)
    option = bytes([1, 1, 1, 0]) + port_bytes(4000) + port_bytes(80)
    packet = ipv4(client.ip, server.ip, UDP, udp(4000, 81), options=option)
    assert await denied(node, server, client, packet) == DropReason.POLICY_DENIED


async def test_port_zero_is_a_port(node: MiniNode) -> None:
    client, server = await pair(node)
    node.service("10.96.0.1", port=80, protocol=UDP, backends=[(server.ip, 80)])
    for protocol, payload in ((UDP, udp(0, 0)), (0, bytes(8)), (47, bytes(8))):
        packet = ipv4(client.ip, server.ip, protocol, payload)
        assert await denied(node, server, client, packet) == DropReason.POLICY_DENIED
        packet = ipv4(client.ip, "10.96.0.1", protocol, payload)
        assert await denied(node, server, client, packet) == DropReason.SERVICE_BACKEND_NOT_FOUND


async def test_a_fragment_too_short_for_its_header_is_dropped(node: MiniNode) -> None:
    client, server = await pair(node)
    segment = tcp(4000, 80, SYN)
    tiny = ipv4(client.ip, server.ip, TCP, segment[:8], more=True)
    assert await denied(node, server, client, tiny) == DropReason.CT_INVALID_HEADER
    node.events.clear()
    await node.probe(client, "frame", "0x0800", (tiny + segment[8:]).hex())
    assert await node.drop_reason() == DropReason.CT_INVALID_HEADER, "what pads a frame is not part of it"
    for offset in (1, 2):
        rest = ipv4(client.ip, server.ip, TCP, segment[8:], offset=offset)
        assert await denied(node, server, client, rest) == DropReason.CT_INVALID_HEADER
    rest = ipv4(client.ip, server.ip, TCP, bytes(8), offset=3)
    assert await denied(node, server, client, rest) == DropReason.FRAGMENT_NOT_FOUND


async def test_a_denied_first_fragment_says_nothing_of_those_after_it(node: MiniNode) -> None:
    client, server = await pair(node)
    impostor = await node.add_pod("i", identity=302)
    first = ipv4(client.ip, server.ip, UDP, udp(4000, 80, bytes(24)), identification=9, more=True)
    rest = ipv4(client.ip, server.ip, UDP, bytes(8), identification=9, offset=4)
    forged = ipv4(client.ip, server.ip, UDP, udp(4000, 81, bytes(24)), identification=9, more=True)
    assert len(await node.hears(server, client, first)) == 1
    assert await denied(node, server, impostor, forged) == DropReason.INVALID_SOURCE_IP
    assert len(await node.hears(server, client, rest)) == 1

    closed = ipv4(client.ip, server.ip, UDP, udp(4000, 81, bytes(24)), identification=10, more=True)
    assert await denied(node, server, client, closed) == DropReason.POLICY_DENIED
    rest = ipv4(client.ip, server.ip, UDP, bytes(8), identification=10, offset=4)
    assert await denied(node, server, client, rest) == DropReason.FRAGMENT_NOT_FOUND


async def test_a_connection_whose_answers_were_forgotten_is_entered_again(node: MiniNode) -> None:
    client, server = await pair(node)
    node.row(OTHER_SET, None)
    client.ingress_set = OTHER_SET
    node.enter(client)
    question = ipv4(client.ip, server.ip, UDP, udp(4000, 80))
    answer = ipv4(server.ip, client.ip, UDP, udp(80, 4000))
    assert len(await node.hears(server, client, question)) == 1
    assert len(await node.hears(client, server, answer)) == 1
    (key,) = [
        key for key, _ in node.kernel.v4.connections.items() if IPV4.tuple_.unpack(key)[2] == port_bytes(80)
    ]
    node.kernel.v4.connections.delete(key)
    assert await denied(node, client, server, answer) == DropReason.POLICY_DENIED

    async with asyncio.timeout(10):
        while not await node.hears(client, server, answer):
            await node.send(client, question)


async def test_a_flow_leaves_a_backend_that_is_gone_and_stays_with_one_that_is_not(node: MiniNode) -> None:
    client = await node.add_pod("c", identity=300)
    first, second = [await node.add_pod(name, identity=301) for name in "ab"]
    packet = ipv4(client.ip, "10.96.0.1", UDP, udp(4000, 53))

    def serve(*backends: Pod) -> None:
        node.service("10.96.0.1", port=53, protocol=UDP, backends=[(pod.ip, 5353) for pod in backends])

    serve(first)
    assert len(await node.hears(first, client, packet)) == 1
    serve(*[second] * 20, first)
    assert len(await node.hears(first, client, packet)) == 1
    serve(second)
    assert len(await node.hears(second, client, packet)) == 1
