"""Conntrack: connections that would be one behind a Service stay apart; only what expired is swept."""

from __future__ import annotations

import itertools

import pytest

from services.datapath.kernel import conntrack
from services.datapath.kernel.conntrack import Sweep
from services.datapath.kernel.layout import IPV4
from tests.packet.craft import ACK, FIN, RST, SYN, ipv4, tcp
from tests.packet.mininode import MiniNode, Pod

TCP, UDP = 6, 17
VIRTUAL, OTHER_VIRTUAL = "10.200.0.1", "10.200.0.2"


@pytest.mark.parametrize(
    "order", list(itertools.permutations(("direct", VIRTUAL, OTHER_VIRTUAL))), ids=" then ".join
)
async def test_one_source_port_towards_a_server_and_its_services(
    node: MiniNode, order: tuple[str, ...]
) -> None:
    client, server = await node.add_pod("c", identity=300), await node.add_pod("s", identity=301)
    await node.serve(server, "serve-tcp", "80")
    for virtual in (VIRTUAL, OTHER_VIRTUAL):
        node.service(virtual, port=80, protocol=TCP, backends=[(server.ip, 80)])
    targets = [f"{server.ip if target == 'direct' else target}:80" for target in order]

    answer = await node.probe(client, "pair", "40001", *targets)

    assert answer == {"outcome": "open", "answers": [client.ip] * 6}
    assert node.told(dropped=True) == []


async def test_a_connection_that_takes_the_place_of_a_former_one_has_nothing_of_it(node: MiniNode) -> None:
    client, server = await node.add_pod("c", identity=300), await node.add_pod("s", identity=301)

    async def sent(sender: Pod, receiver: Pod, flags: int) -> None:
        ports = (40000, 80) if sender is client else (80, 40000)
        packet = ipv4(sender.ip, receiver.ip, TCP, tcp(*ports, flags))
        assert len(await node.hears(receiver, sender, packet)) == 1

    def held() -> dict[bytes, tuple[int, ...]]:
        """Entries without the time when they expire, by the source port of their direction."""
        entries: dict[bytes, tuple[int, ...]] = {}
        for key, value in node.kernel.v4.connections.items():
            fields = IPV4.ct_entry.unpack(value)
            entries[IPV4.tuple_.unpack(key)[2]] = (*fields[:3], *fields[4:])
        return entries

    await sent(client, server, SYN)
    opening = held()
    await sent(server, client, SYN | ACK)
    await sent(client, server, FIN | ACK)
    await sent(server, client, RST | ACK)
    assert held() != opening
    node.events.clear()
    await sent(client, server, SYN)
    assert held() == opening
    await node.until(lambda: len(node.told(dropped=False)) == 1)


async def test_sweep_removes_what_has_expired_and_nothing_else(node: MiniNode) -> None:
    client, server = await node.add_pod("c", identity=300), await node.add_pod("s", identity=301)
    await node.serve(server, "serve-tcp", "80")
    await node.serve(server, "serve-udp", "53")
    assert (await node.probe(client, "tcp", server.ip, "80"))["outcome"] == "open"
    assert (await node.probe(client, "udp", server.ip, "53"))["outcome"] == "open"
    connections = node.kernel.v4.connections

    assert conntrack.sweep(connections, family=IPV4) == Sweep(live=4, removed=0)

    # Field "expires" of the datagram's entries, as if nothing had come for a long time.
    for key, value in list(connections.items()):
        fields = list(IPV4.ct_entry.unpack(value))
        if IPV4.tuple_.unpack(key)[4] == UDP:
            fields[3] = 0
            connections.put(key, IPV4.ct_entry.pack(*fields))
    assert conntrack.sweep(connections, family=IPV4) == Sweep(live=2, removed=2)
    assert {IPV4.tuple_.unpack(key)[4] for key, _ in connections.items()} == {TCP}
