"""IPv6 on the packet path: what is the same as with IPv4 once more on packets, and what is its own."""

from __future__ import annotations

import os
import socket
import struct

import pytest

from services.datapath.kernel import libbpf
from services.datapath.kernel.build import TAIL_CALLS
from services.datapath.kernel.layout import PEER, U32, prefix_key
from services.datapath.kernel.maps import KernelMap
from services.datapath.kernel.source import CONSTANTS
from shared.contract.drops import DropReason
from shared.contract.reserved import Reserved
from tests.packet.craft import (
    ACK,
    DESTINATION,
    ECHO6,
    ECHO_REPLY6,
    FRAGMENT,
    HOP_BY_HOP,
    ICMP6,
    ROUTING,
    SOLICITATION,
    SYN,
    TCP,
    TOO_BIG6,
    UDP,
    extension,
    fragment,
    icmp6,
    ipv6,
    tcp,
    udp,
)
from tests.packet.mininode import CLASS_OF, MiniNode, Pod

SET = 77
SERVICE = "fd00:10:96::10"
FIXED = 40
"""Length of the header."""


async def pair(node: MiniNode) -> tuple[Pod, Pod]:
    """A client, and a server of which policy opens TCP and UDP port 80 to it."""
    client, server = await node.add_pod("c", identity=300), await node.add_pod("s", identity=301)
    node.row(SET, None)
    node.row(SET, 300, (TCP, 80, 80), (UDP, 80, 80))
    server.ingress_set = SET
    node.enter(server)
    return client, server


async def denied(node: MiniNode, where: Pod, sender: Pod | None, packet: bytes) -> int:
    """Nothing of what is sent arrives; the reason of the first drop."""
    node.events.clear()
    assert await node.hears(where, sender, packet) == []
    return await node.drop_reason()


async def test_policy_is_enforced_and_told(node6: MiniNode) -> None:
    node = node6
    client, server = await pair(node)
    for port in ("80", "81"):
        await node.serve(server, "serve-tcp", port)
        await node.serve(server, "serve-udp", port)
    for kind in ("tcp", "udp"):
        answer = await node.probe(client, kind, server.ip, "80")
        assert answer["outcome"] == "open"
        assert str(answer["answer"]).endswith(client.ip)
        assert (await node.probe(client, kind, server.ip, "81"))["outcome"] == "denied"
    assert await node.drop_reason() == DropReason.POLICY_DENIED
    event = node.told(dropped=True)[0]
    assert (event.family, event.source, event.destination) == (6, client.ip, server.ip)
    assert (event.source_identity, event.destination_identity) == (300, 301)


async def test_ping_follows_policy(node6: MiniNode) -> None:
    node = node6
    client, server = await pair(node)
    assert (await node.probe(client, "ping", server.ip))["outcome"] == "denied"
    node.row(SET, 300, (ICMP6, ECHO6, ECHO6))
    assert (await node.probe(client, "ping", server.ip))["outcome"] == "open"
    reply = icmp6(client.ip, server.ip, ECHO_REPLY6)
    assert await denied(node, server, client, ipv6(client.ip, server.ip, ICMP6, reply)) == (
        DropReason.CT_INVALID_HEADER
    )


async def test_services_are_translated_and_answers_back(node6: MiniNode) -> None:
    node = node6
    client, server = await pair(node)
    await node.serve(server, "serve-tcp", "80")
    await node.serve(server, "serve-udp", "80")
    node.service(SERVICE, port=8080, protocol=TCP, backends=[(server.ip, 80)])
    answer = await node.probe(client, "tcp", SERVICE, "8080")
    assert (answer["outcome"], answer["answer"], answer["peer"]) == ("open", client.ip, SERVICE)
    node.service(SERVICE, port=53, protocol=UDP, backends=[(server.ip, 80)])
    assert (await node.probe(client, "udp", SERVICE, "53", "1400"))["outcome"] == "open"
    assert (await node.probe(client, "tcp", SERVICE, "81"))["outcome"] == "refused"
    assert await node.drop_reason() == DropReason.SERVICE_BACKEND_NOT_FOUND


async def test_a_pod_reaches_itself_through_its_service(node6: MiniNode) -> None:
    node = node6
    _, server = await pair(node)
    await node.serve(server, "serve-tcp", "80")
    node.service(SERVICE, port=80, protocol=TCP, backends=[(server.ip, 80)])
    answer = await node.probe(server, "tcp", SERVICE, "80")
    assert (answer["outcome"], answer["answer"]) == ("open", "fd53:7465:6e74:6f72::1")


async def test_large_datagrams_pass_in_fragments(node6: MiniNode) -> None:
    node = node6
    client, server = await pair(node)
    await node.serve(server, "serve-udp", "80")
    answer = await node.probe(client, "udp", server.ip, "80", "5000")
    assert (answer["outcome"], answer["bytes"]) == ("open", 5000 + len(client.ip))


async def test_only_a_pod_may_use_its_address(node6: MiniNode) -> None:
    node = node6
    client, server = await pair(node)
    outside = await node.add_outside()
    packet = ipv6(outside.ip, server.ip, UDP, udp(4000, 80))
    assert await denied(node, server, client, packet) == DropReason.INVALID_SOURCE_IP
    for source in (client.ip, node.NODE_IP):
        packet = ipv6(source, server.ip, UDP, udp(4000, 80))
        assert await denied(node, server, outside, packet) == DropReason.INVALID_SOURCE_IP


async def test_the_longest_prefix_decides_about_addresses_outside(node6: MiniNode) -> None:
    node = node6
    _, server = await pair(node)
    outside = await node.add_outside()
    near, far = node.OUTSIDE_IPS
    node.maps.cidrs.want(prefix_key("2001:db8::/64"), PEER.pack(CLASS_OF + 400, Reserved.WORLD))
    node.maps.cidrs.want(prefix_key(f"{far}/128"), PEER.pack(CLASS_OF + 401, Reserved.WORLD))
    node.row(SET, 400, (UDP, 80, 80))
    assert len(await node.hears(server, outside, ipv6(near, server.ip, UDP, udp(4000, 80)))) == 1
    packet = ipv6(far, server.ip, UDP, udp(4000, 80))
    assert await denied(node, server, outside, packet) == DropReason.POLICY_DENIED


async def test_a_pod_and_another_machine_reach_one_another(node6: MiniNode) -> None:
    node = node6
    pod = await node.add_pod("p", identity=300)
    outside = await node.add_outside()
    await node.serve(outside, "serve-tcp", "80")
    answer = await node.probe(pod, "tcp", outside.ip, "80")
    assert (answer["outcome"], answer["answer"]) == ("open", pod.ip)
    await node.serve(pod, "serve-tcp", "80")
    assert (await node.probe(outside, "tcp", pod.ip, "80"))["outcome"] == "open"
    assert (await node.probe(None, "tcp", pod.ip, "80"))["outcome"] == "open"


@pytest.mark.parametrize(
    "headers",
    [
        (DESTINATION,),
        (HOP_BY_HOP, DESTINATION),
        (DESTINATION, ROUTING, DESTINATION),
        (DESTINATION,) * 5,
    ],
    ids=str,
)
async def test_ports_are_found_behind_extension_headers(node6: MiniNode, headers: tuple[int, ...]) -> None:
    node = node6
    client, server = await pair(node)
    for port, heard in ((80, 1), (81, 0)):
        chain = b"".join(
            extension(following, words=number % 2) for number, following in enumerate((*headers[1:], UDP))
        )
        packet = ipv6(client.ip, server.ip, headers[0], chain + udp(4000, port, b"data"))
        assert len(await node.hears(server, client, packet)) == heard, port


@pytest.mark.parametrize(
    ("first", "chain"),
    [
        (DESTINATION, b"".join(extension(DESTINATION) for _ in range(5)) + extension(UDP)),
        (ROUTING, extension(UDP, second=b"\0\1" + bytes(4))),
        (FRAGMENT, fragment(DESTINATION, offset=0, more=True) + extension(UDP)),
    ],
    ids=["too-many", "source-route", "behind-a-fragment-header"],
)
async def test_extension_headers_that_hide_what_is_judged_are_refused(
    node6: MiniNode, first: int, chain: bytes
) -> None:
    node = node6
    client, server = await pair(node)
    packet = ipv6(client.ip, server.ip, first, chain + udp(4000, 80, bytes(8)))
    assert await denied(node, server, client, packet) == DropReason.INVALID_EXTENSION_HEADER


async def test_fragments_follow_their_first_one_if_that_passed(node6: MiniNode) -> None:
    node = node6
    client, server = await pair(node)

    def part(payload: bytes, *, offset: int, more: bool, identification: int, protocol: int = UDP) -> bytes:
        header = fragment(protocol, offset=offset, more=more, identification=identification)
        return ipv6(client.ip, server.ip, FRAGMENT, header + payload)

    first = part(udp(4000, 80, bytes(16)), offset=0, more=True, identification=7)
    rest = part(bytes(8), offset=3, more=False, identification=7)
    assert await denied(node, server, client, rest) == DropReason.FRAGMENT_NOT_FOUND
    assert len(await node.hears(server, client, first)) == 1
    assert len(await node.hears(server, client, rest)) == 1

    closed = part(udp(4000, 81, bytes(16)), offset=0, more=True, identification=8)
    assert await denied(node, server, client, closed) == DropReason.POLICY_DENIED
    rest = part(bytes(8), offset=3, more=False, identification=8)
    assert await denied(node, server, client, rest) == DropReason.FRAGMENT_NOT_FOUND

    tiny = part(tcp(4000, 80, SYN)[:8], offset=0, more=True, identification=9, protocol=TCP)
    assert await denied(node, server, client, tiny) == DropReason.CT_INVALID_HEADER
    inside = part(bytes(8), offset=1, more=False, identification=9, protocol=TCP)
    assert await denied(node, server, client, inside) == DropReason.CT_INVALID_HEADER
    alone = part(udp(4001, 80, b"whole"), offset=0, more=False, identification=10)
    assert len(await node.hears(server, client, alone)) == 1


async def test_an_icmp_error_reaches_whose_packet_it_quotes_translated(node6: MiniNode) -> None:
    node = node6
    client, server = await pair(node)
    node.service(SERVICE, port=8080, protocol=UDP, backends=[(server.ip, 80)])
    asked = ipv6(client.ip, SERVICE, UDP, udp(4000, 8080, b"question"))
    (arrived,) = await node.hears(server, client, asked)
    error = icmp6(server.ip, client.ip, TOO_BIG6, rest=struct.pack("!I", 1280), payload=arrived)
    (told,) = await node.hears(client, server, ipv6(server.ip, client.ip, ICMP6, error))
    quoted = told[FIXED + 8 :]
    assert socket.inet_ntop(socket.AF_INET6, quoted[24:40]) == SERVICE
    assert struct.unpack("!HH", quoted[FIXED : FIXED + 4]) == (4000, 8080)
    assert socket.inet_ntop(socket.AF_INET6, told[8:24]) == SERVICE
    body = told[FIXED:]
    again = icmp6(SERVICE, client.ip, TOO_BIG6, rest=body[4:8], payload=body[8:])
    assert body[2:4] == again[2:4], "its checksum is right"


async def test_an_icmp_error_may_quote_the_first_fragment_of_a_datagram(node6: MiniNode) -> None:
    node = node6
    client, server = await pair(node)
    node.service(SERVICE, port=8080, protocol=UDP, backends=[(server.ip, 80)])
    first = fragment(UDP, offset=0, more=True) + udp(4000, 8080, bytes(16))
    (arrived,) = await node.hears(server, client, ipv6(client.ip, SERVICE, FRAGMENT, first))
    error = icmp6(server.ip, client.ip, TOO_BIG6, rest=struct.pack("!I", 1280), payload=arrived)
    (told,) = await node.hears(client, server, ipv6(server.ip, client.ip, ICMP6, error))
    quoted = told[FIXED + 8 :]
    assert socket.inet_ntop(socket.AF_INET6, quoted[24:40]) == SERVICE
    assert struct.unpack("!HH", quoted[FIXED + 8 : FIXED + 12]) == (4000, 8080)


async def test_segments_that_open_nothing_follow_the_rules_of_both_families(node6: MiniNode) -> None:
    node = node6
    client, server = await pair(node)
    answer = ipv6(server.ip, client.ip, TCP, tcp(80, 40000, ACK))
    assert len(await node.hears(client, server, answer)) == 1
    node.row(SET, 300)
    assert await denied(node, client, server, answer) == DropReason.POLICY_DENIED


async def test_neighbours_are_found_whatever_policy_says(node6: MiniNode) -> None:
    """The node answers for every address but the pod's own, to the pod's own address only."""
    node = node6
    client, server = await pair(node)
    node.row(SET, None)
    server.egress_set = SET
    node.enter(server)

    def ask(target: str, *, source: str, hops: int = 255) -> bytes:
        group = "ff02::1:ff00:2"
        body = icmp6(
            source, group, SOLICITATION, payload=socket.inet_pton(socket.AF_INET6, target) + bytes(8)
        )
        return ipv6(source, group, ICMP6, body, hops=hops)

    async def answers(packet: bytes) -> bool:
        answer = await node.probe(server, "frame", "0x86dd", packet.hex())
        return answer.get("outcome") == "open"

    assert await answers(ask("fe80::1", source=server.ip))
    assert await answers(ask(client.ip, source=server.ip))
    assert not await answers(ask(server.ip, source=server.ip)), "nobody else has it"
    assert not await answers(ask(server.ip, source="::")), "nor is it a duplicate"
    assert not await answers(ask("fe80::1", source=client.ip)), "not with another's address"
    assert not await answers(ask("fe80::1", source=server.ip, hops=64)), "nor through a router"


async def test_ipv6_is_dropped_where_the_program_for_it_is_missing(node6: MiniNode) -> None:
    node = node6
    client, server = await pair(node)
    packet = ipv6(client.ip, server.ip, UDP, udp(4000, 80))
    key = U32.pack(CONSTANTS["TAIL_FROM_POD6"])
    programs = KernelMap(TAIL_CALLS, path=node.loaded.programs / TAIL_CALLS, key_size=4, value_size=4)
    (number,) = U32.unpack(programs.get(key) or b"")
    program = libbpf.call("bpf_prog_get_fd_by_id", number)
    try:
        programs.delete(key)
        before = node.drops(DropReason.MISSED_TAIL_CALL)
        assert await node.hears(server, client, packet) == []
        assert node.drops(DropReason.MISSED_TAIL_CALL) > before
        programs.put(key, U32.pack(program))
        assert len(await node.hears(server, client, packet)) == 1
    finally:
        programs.put(key, U32.pack(program))
        os.close(program)
        programs.close()
