"""Connections that were not seen to open: whose they are, and that none comes back as its own reverse."""

from __future__ import annotations

import time

import pytest

from services.datapath.kernel import ring
from services.datapath.kernel.layout import IPV4, NODE_CONFIG, ROW_KEY, ROW_SIZE, SET_OPEN, U32
from services.datapath.kernel.maps import KernelMap
from services.datapath.kernel.source import CONSTANTS
from shared.contract.drops import DropReason
from tests.packet.craft import ACK, FIN, RST, SYN, TCP, UDP, ipv4, tcp, udp
from tests.packet.mininode import CLASS_OF, MiniNode, Pod

SERVERS, CLIENTS, NOWHERE = 77, 78, 79
SERVICE = "10.96.0.10"
CLASS = CLASS_OF + 300
OPEN_TO_ALL = (TCP, 0, 65535)


async def pair(node: MiniNode, *, allowed: tuple[int, int, int] | None = None) -> tuple[Pod, Pod]:
    """A client that lets nobody in, and a server that lets the client in on some ports."""
    client, server = await node.add_pod("c", identity=300), await node.add_pod("s", identity=301)
    for policy_set in (SERVERS, CLIENTS):
        node.row(policy_set, None)
    if allowed is not None:
        node.row(SERVERS, 300, allowed)
    server.ingress_set, client.ingress_set = SERVERS, CLIENTS
    node.enter(server)
    node.enter(client)
    return client, server


def segment(source: Pod, port: int, destination: Pod, to: int, flags: int = ACK) -> bytes:
    return ipv4(source.ip, destination.ip, TCP, tcp(port, to, flags))


async def refused(node: MiniNode, where: Pod, sender: Pod, packet: bytes) -> int:
    """Nothing of what is sent arrives; the reason of the drop."""
    node.events.clear()
    assert await node.hears(where, sender, packet) == []
    return await node.drop_reason()


async def test_a_server_goes_on_once_its_client_has_spoken(node: MiniNode) -> None:
    """The client lets nobody in, and its server may not open connections to it."""
    client, server = await pair(node, allowed=(TCP, 80, 80))
    answer = segment(server, 80, client, 40000)
    assert await refused(node, client, server, answer) == DropReason.POLICY_DENIED
    (event,) = node.told(dropped=True)
    assert (event.source_identity, event.destination_identity) == (301, 300)
    assert (event.ingress_set, event.destination_port) == (CLIENTS, 40000)
    assert event.flags & (ring.REPLY | ring.AT_INGRESS) == ring.AT_INGRESS

    assert len(await node.hears(server, client, segment(client, 40000, server, 80))) == 1
    assert len(await node.hears(client, server, answer)) == 1

    node.row(SERVERS, 300)
    assert await refused(node, client, server, answer) == DropReason.POLICY_DENIED
    assert await refused(node, server, client, segment(client, 40000, server, 80)) == DropReason.POLICY_DENIED


async def test_a_server_goes_on_at_once_with_a_client_that_lets_it_in(node: MiniNode) -> None:
    client, server = await pair(node, allowed=(TCP, 80, 80))
    node.row(CLIENTS, 301, OPEN_TO_ALL)
    assert len(await node.hears(client, server, segment(server, 80, client, 40000))) == 1


@pytest.mark.parametrize("flags", [0, FIN, RST, ACK, SYN | ACK, FIN | ACK, RST | ACK])
@pytest.mark.parametrize("closed", ["ingress", "egress"])
async def test_nobody_gets_past_a_closed_end_by_pretending_to_answer_it(
    node: MiniNode, closed: str, flags: int
) -> None:
    """From a server's port to a client's, with whatever flags; ``closed`` says whose policy is closed."""
    attacker, victim = await node.add_pod("a", identity=300), await node.add_pod("v", identity=301)
    node.row(NOWHERE, None)
    attacker.egress_set = NOWHERE if closed == "egress" else SET_OPEN
    victim.ingress_set = NOWHERE if closed == "ingress" else SET_OPEN
    node.enter(attacker)
    node.enter(victim)
    packet = segment(attacker, 95, victim, 50051, flags)
    assert await refused(node, victim, attacker, packet) == DropReason.POLICY_DENIED


async def test_nor_past_a_pod_that_may_not_speak_to_the_world(node: MiniNode) -> None:
    pod, outside = await node.add_pod("a", identity=300), await node.add_outside()
    node.row(NOWHERE, None)
    pod.egress_set = NOWHERE
    node.enter(pod)
    assert await refused(node, outside, pod, segment(pod, 80, outside, 40000)) == DropReason.POLICY_DENIED


@pytest.mark.parametrize(
    ("serving", "calling"),
    [(80, 40000), (8080, 2000), (80, 79), (40000, 50000), (80, 80)],
    ids=["ordinary", "low-client", "lower-client", "high-server", "equal"],
)
async def test_a_server_does_not_go_on_with_whom_it_does_not_let_in(
    node: MiniNode, serving: int, calling: int
) -> None:
    """Though it may open connections to everybody, and the client lets everybody in."""
    client, server = await pair(node)
    node.row(CLIENTS, 301, OPEN_TO_ALL)
    answer = segment(server, serving, client, calling)
    assert await refused(node, client, server, answer) == DropReason.POLICY_DENIED
    data = segment(client, calling, server, serving)
    assert await refused(node, server, client, data) == DropReason.POLICY_DENIED
    opening = segment(server, serving, client, calling, SYN)
    assert len(await node.hears(client, server, opening)) == 1, "a SYN is its sender's in any case"


async def test_what_comes_from_outside_may_be_denied_by_the_policy_of_who_would_answer(
    node: MiniNode,
) -> None:
    """The event then names that policy, though the packet was on its way in."""
    pod, outside = await node.add_pod("s", identity=301), await node.add_outside()
    node.row(NOWHERE, None)
    pod.egress_set = NOWHERE
    node.enter(pod)
    packet = segment(outside, 2000, pod, 80)
    assert await refused(node, pod, outside, packet) == DropReason.POLICY_DENIED
    (event,) = node.told(dropped=True)
    assert event.flags & (ring.EGRESS | ring.AT_INGRESS) == ring.EGRESS
    assert event.egress_set == NOWHERE


@pytest.mark.parametrize("protocol", [TCP, UDP])
async def test_what_began_before_its_service_was_known_goes_to_a_backend_then(
    node: MiniNode, protocol: int
) -> None:
    client, server = await node.add_pod("c", identity=300), await node.add_pod("s", identity=301)
    await node.add_outside()
    payload = tcp(4000, 80, SYN) if protocol == TCP else udp(4000, 80)
    packet = ipv4(client.ip, SERVICE, protocol, payload)
    assert await node.hears(server, client, packet) == []
    assert len(list(node.kernel.v4.connections.keys())) == 2, (
        "it is remembered as one with an address outside"
    )

    node.service(SERVICE, port=80, protocol=protocol, backends=[(server.ip, 80)])
    assert len(await node.hears(server, client, packet)) == 1


async def test_both_directions_are_asked_about_where_ports_do_not_tell_the_client(node: MiniNode) -> None:
    client, server = await pair(node, allowed=(TCP, 80, 80))
    answer = segment(server, 80, client, 79)
    assert await refused(node, client, server, answer) == DropReason.POLICY_DENIED
    node.row(CLIENTS, 301, (TCP, 79, 79))
    assert len(await node.hears(client, server, answer)) == 1


async def test_a_denied_flow_stays_denied_as_long_as_anybody_sends(node: MiniNode) -> None:
    client, server = await pair(node, allowed=(UDP, 53, 53))
    node.row(CLIENTS, 301, (UDP, 0, 65535))
    question = ipv4(client.ip, server.ip, UDP, udp(4000, 53))
    answer = ipv4(server.ip, client.ip, UDP, udp(53, 4000))
    assert len(await node.hears(server, client, question)) == 1
    assert len(await node.hears(client, server, answer)) == 1

    node.row(SERVERS, 300)
    assert await refused(node, client, server, answer) == DropReason.POLICY_DENIED
    now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) >> CONSTANTS["TICK_SHIFT"]
    connections = node.kernel.v4.connections
    for key, value in list(connections.items()):
        fields = list(IPV4.ct_entry.unpack(value))
        fields[3] = now + 20  # as if nothing had come for a while
        connections.put(key, IPV4.ct_entry.pack(*fields))
    assert await refused(node, client, server, answer) == DropReason.POLICY_DENIED
    lives = [IPV4.ct_entry.unpack(value)[3] - now for _, value in connections.items()]
    assert len(lives) == 2
    assert all(life >= CONSTANTS["LIFE_OTHER"] for life in lives)


async def test_nothing_is_remembered_while_maps_are_being_changed(node: MiniNode) -> None:
    client, server = await pair(node, allowed=(UDP, 53, 53))
    question = ipv4(client.ip, server.ip, UDP, udp(4000, 53))
    path = node.loaded.maps / "node_config"
    config = KernelMap("node_config", path=path, key_size=4, value_size=NODE_CONFIG.size)
    try:
        epoch, mac = NODE_CONFIG.unpack(config.get(U32.pack(0)) or b"")
        config.put(U32.pack(0), NODE_CONFIG.pack(epoch | 1, mac))
        assert len(await node.hears(server, client, question)) == 1

        # Written as by a process that dies before it has moved the epoch on.
        (row,) = [key for key in node.kernel.rows.known() if ROW_KEY.unpack(key)[:2] == (SERVERS, CLASS)]
        node.kernel.rows.want(row, bytes(ROW_SIZE))
        node.kernel.rows.write()
        assert await refused(node, server, client, question) == DropReason.POLICY_DENY

        node.kernel.set_mac(mac)
        epoch, _ = NODE_CONFIG.unpack(config.get(U32.pack(0)) or b"")
        assert epoch % 2 == 0, "the next process begins with an even one"
    finally:
        config.close()
