"""What the kernel does with packets of pods, as a user or an attacker in a pod sees it."""

from __future__ import annotations

import asyncio
import json

from services.datapath.kernel.layout import PEER, SET_NOT_READY, packed
from shared.contract.drops import DropReason
from tests.packet.craft import ipv6
from tests.packet.mininode import MiniNode

TCP, UDP, ICMP = 6, 17, 1
SET = 77


async def test_a_rule_opens_its_port_and_nothing_else(node: MiniNode) -> None:
    client, server = await node.add_pod("c", identity=300), await node.add_pod("s", identity=301)
    await node.serve(server, "serve-tcp", "80")
    await node.serve(server, "serve-tcp", "81")
    node.row(SET, None)
    node.row(SET, 300, (TCP, 80, 80))
    server.ingress_set = SET
    node.enter(server)

    assert (await node.probe(client, "tcp", server.ip, "80"))["answer"] == client.ip
    assert (await node.probe(client, "tcp", server.ip, "81"))["outcome"] == "denied"
    assert (await node.probe(client, "ping", server.ip))["outcome"] == "denied"

    drop = node.told(dropped=True)[0]
    assert (drop.reason, drop.destination_port, drop.ingress_set) == (DropReason.POLICY_DENIED, 81, SET)
    allowed = node.told(dropped=False)[0]
    assert (allowed.source, allowed.destination, allowed.ingress_rule) == (client.ip, server.ip, 0)
    assert (allowed.source_identity, allowed.destination_identity) == (300, 301)


async def test_egress_policy_is_the_clients(node: MiniNode) -> None:
    client, server = await node.add_pod("c", identity=300), await node.add_pod("s", identity=301)
    await node.serve(server, "serve-tcp", "80")
    await node.serve(client, "serve-tcp", "80")
    node.row(SET, None)
    client.egress_set = SET
    node.enter(client)

    assert (await node.probe(client, "tcp", server.ip, "80"))["outcome"] == "denied"
    assert (await node.probe(server, "tcp", client.ip, "80"))["outcome"] == "open"


async def test_a_row_of_many_ranges_is_searched_right(node: MiniNode) -> None:
    client, server = await node.add_pod("c", identity=300), await node.add_pod("s", identity=301)
    ranges = [(TCP, 1000 + 10 * number, 1004 + 10 * number) for number in range(60)]
    node.row(SET, None)
    node.row(SET, 300, *ranges, (UDP, 1000, 1000))
    server.ingress_set = SET
    node.enter(server)

    for port in (999, 1005, 1009, 1079, 1595, 1599):
        assert (await node.probe(client, "tcp", server.ip, str(port)))["outcome"] == "denied", port
    for port in (1000, 1004, 1070, 1074, 1080, 1590, 1594):
        assert (await node.probe(client, "tcp", server.ip, str(port)))["outcome"] == "refused", port
    assert (await node.probe(client, "udp", server.ip, "1000"))["outcome"] == "refused"


async def test_an_endpoint_without_policy_is_closed_in_both_directions(node: MiniNode) -> None:
    pod, other = await node.add_pod("p", identity=300, ready=False), await node.add_pod("o", identity=301)
    await node.serve(pod, "serve-tcp", "80")
    await node.serve(other, "serve-tcp", "80")

    assert (await node.probe(pod, "tcp", other.ip, "80"))["outcome"] == "denied"
    assert (await node.probe(other, "tcp", pod.ip, "80"))["outcome"] == "denied"
    assert await node.drop_reason() == DropReason.ENDPOINT_NOT_READY
    pod.ingress_set = SET_NOT_READY
    node.enter(pod)
    node.events.clear()
    assert (await node.probe(other, "tcp", pod.ip, "80"))["outcome"] == "denied"
    assert await node.drop_reason() == DropReason.POLICY_NOT_READY


async def test_a_set_without_rows_is_closed(node: MiniNode) -> None:
    client, server = await node.add_pod("c", identity=300), await node.add_pod("s", identity=301)
    server.ingress_set = SET + 1
    node.enter(server)

    assert (await node.probe(client, "tcp", server.ip, "80"))["outcome"] == "denied"
    assert await node.drop_reason() == DropReason.POLICY_NOT_READY


async def test_a_peer_without_a_class_is_refused(node: MiniNode) -> None:
    client, server = await node.add_pod("c", identity=300), await node.add_pod("s", identity=301)
    node.row(SET, None, allow=True)
    server.ingress_set = SET
    node.kernel.v4.ipcache.want(packed(client.ip), PEER.pack(0, 999))
    node.enter(server)

    assert (await node.probe(client, "tcp", server.ip, "80"))["outcome"] == "denied"
    assert await node.drop_reason() == DropReason.INVALID_IDENTITY


async def test_a_spoofed_source_is_dropped(node: MiniNode) -> None:
    attacker, victim = await node.add_pod("a", identity=300), await node.add_pod("v", identity=301)
    server = await node.add_pod("s", identity=302)
    await node.probe(attacker, "spoof", victim.ip, server.ip, "53")
    assert await node.drop_reason() == DropReason.INVALID_SOURCE_IP
    node.events.clear()
    await node.probe(attacker, "spoof", "203.0.113.9", server.ip, "53")
    assert await node.drop_reason() == DropReason.INVALID_SOURCE_IP
    node.events.clear()
    await node.probe(attacker, "spoof", node.NODE_IP, server.ip, "53")
    assert await node.drop_reason() == DropReason.INVALID_SOURCE_IP


async def test_a_known_connection_of_another_pod_cannot_be_joined(node: MiniNode) -> None:
    attacker, victim = await node.add_pod("a", identity=300), await node.add_pod("v", identity=301)
    server = await node.add_pod("s", identity=302)
    await node.serve(server, "serve-udp", "53")
    await node.probe(victim, "spoof", victim.ip, server.ip, "53")
    node.events.clear()
    await node.probe(attacker, "spoof", victim.ip, server.ip, "53")
    assert await node.drop_reason() == DropReason.INVALID_SOURCE_IP


async def test_revoking_cuts_both_directions_of_a_live_connection(node: MiniNode) -> None:
    client, server = await node.add_pod("c", identity=300), await node.add_pod("s", identity=301)
    await node.serve(server, "push-tcp", "80")
    node.row(SET, None)
    node.row(SET, 300, (TCP, 80, 80))
    server.ingress_set = SET
    node.enter(server)
    streaming = await node.serve(client, "push", server.ip, "80")

    node.forget_row(SET, 300)

    async with asyncio.timeout(5):
        output, _ = await streaming.communicate()
    assert json.loads(output)["stopped"] is True
    assert await node.drop_reason() == DropReason.POLICY_DENIED


async def test_a_connection_survives_changes_that_do_not_concern_it(node: MiniNode) -> None:
    client, server = await node.add_pod("c", identity=300), await node.add_pod("s", identity=301)
    await node.serve(server, "serve-tcp", "80")
    node.row(SET, None)
    node.row(SET, 300, (TCP, 80, 80))
    server.ingress_set = SET
    node.enter(server)
    streaming = await node.serve(client, "stream", server.ip, "80", "1.0")

    for number in range(20):
        node.row(SET, 400 + number, allow=True)
        await asyncio.sleep(0.02)

    output, _ = await streaming.communicate()
    assert json.loads(output)["ended"] >= 1.0


async def test_a_service_is_translated_and_its_answers_are_translated_back(node: MiniNode) -> None:
    client, server = await node.add_pod("c", identity=300), await node.add_pod("s", identity=301)
    await node.serve(server, "serve-tcp", "8080")
    await node.serve(server, "serve-udp", "5353")
    node.service("10.96.0.1", port=80, protocol=TCP, backends=[(server.ip, 8080)])
    node.service("10.96.0.1", port=53, protocol=UDP, backends=[(server.ip, 5353)])

    over_tcp = await node.probe(client, "tcp", "10.96.0.1", "80")
    assert (over_tcp["answer"], over_tcp["peer"]) == (client.ip, "10.96.0.1")
    assert (await node.probe(client, "udp", "10.96.0.1", "53"))["answer"] == "x" + client.ip
    event = node.told(dropped=False)[0]
    assert (event.destination, event.destination_port) == (server.ip, 8080)
    assert (event.frontend, event.frontend_port) == ("10.96.0.1", 80)


async def test_policy_sees_the_backend_of_a_service(node: MiniNode) -> None:
    client, server = await node.add_pod("c", identity=300), await node.add_pod("s", identity=301)
    await node.serve(server, "serve-tcp", "8080")
    node.service("10.96.0.1", port=80, protocol=TCP, backends=[(server.ip, 8080)])
    node.row(SET, None)
    node.row(SET, 300, (TCP, 80, 80))
    server.ingress_set = SET
    node.enter(server)

    assert (await node.probe(client, "tcp", "10.96.0.1", "80"))["outcome"] == "denied"
    node.row(SET, 300, (TCP, 8080, 8080))
    assert (await node.probe(client, "tcp", "10.96.0.1", "80"))["outcome"] == "open"


async def test_other_ports_and_empty_services_are_dropped_by_name(node: MiniNode) -> None:
    client, server = await node.add_pod("c", identity=300), await node.add_pod("s", identity=301)
    node.service("10.96.0.1", port=80, protocol=TCP, backends=[(server.ip, 80)])
    node.service("10.96.0.2", port=80, protocol=TCP, backends=[])

    assert (await node.probe(client, "tcp", "10.96.0.1", "81"))["outcome"] == "refused"
    assert await node.drop_reason() == DropReason.SERVICE_BACKEND_NOT_FOUND
    node.events.clear()
    assert (await node.probe(client, "tcp", "10.96.0.2", "80"))["outcome"] == "refused"
    assert await node.drop_reason() == DropReason.SERVICE_BACKEND_NOT_FOUND


async def test_a_pod_reaches_itself_through_its_service_whatever_its_policy(node: MiniNode) -> None:
    pod = await node.add_pod("p", identity=300)
    await node.serve(pod, "serve-tcp", "80")
    await node.serve(pod, "serve-udp", "53")
    node.service("10.96.0.1", port=80, protocol=TCP, backends=[(pod.ip, 80)])
    node.service("10.96.0.1", port=53, protocol=UDP, backends=[(pod.ip, 53)])
    node.row(SET, None)
    pod.ingress_set = pod.egress_set = SET
    node.enter(pod)

    assert (await node.probe(pod, "tcp", "10.96.0.1", "80"))["outcome"] == "open"
    assert (await node.probe(pod, "udp", "10.96.0.1", "53"))["outcome"] == "open"


async def test_icmp_errors_of_known_connections_pass_and_are_translated(node: MiniNode) -> None:
    client, server = await node.add_pod("c", identity=300), await node.add_pod("s", identity=301)
    node.service("10.96.0.1", port=53, protocol=UDP, backends=[(server.ip, 5353)])
    node.row(SET, None)
    node.row(SET, 300, (UDP, 5353, 5353))
    server.ingress_set = SET
    node.enter(server)

    assert (await node.probe(client, "udp", server.ip, "5353"))["outcome"] == "refused"
    assert (await node.probe(client, "udp", "10.96.0.1", "53"))["outcome"] == "refused"


async def test_icmp_follows_the_isolation_of_the_pod(node: MiniNode) -> None:
    client, server = await node.add_pod("c", identity=300), await node.add_pod("s", identity=301)
    assert (await node.probe(client, "ping", server.ip))["outcome"] == "open"
    node.row(SET, None)
    node.row(SET, 300, allow=True, rule=4)
    server.ingress_set = SET
    node.enter(server)
    assert (await node.probe(client, "ping", server.ip))["outcome"] == "open"
    node.forget_row(SET, 300)
    assert (await node.probe(client, "ping", server.ip))["outcome"] == "denied"


async def test_fragments_follow_their_first_one(node: MiniNode) -> None:
    client, server = await node.add_pod("c", identity=300), await node.add_pod("s", identity=301)
    await node.serve(server, "serve-udp", "5353")
    node.service("10.96.0.1", port=53, protocol=UDP, backends=[(server.ip, 5353)])
    node.row(SET, None)
    node.row(SET, 300, (UDP, 5353, 5353))
    server.ingress_set = SET
    node.enter(server)

    assert (await node.probe(client, "udp", server.ip, "5353", "5000"))["bytes"] == 5000 + len(client.ip)
    assert (await node.probe(client, "udp", "10.96.0.1", "53", "5000"))["bytes"] == 5000 + len(client.ip)
    assert (await node.probe(client, "udp", server.ip, "5354", "5000"))["outcome"] == "denied"


async def test_the_node_reaches_its_own_pods_whatever_their_policy(node: MiniNode) -> None:
    pod = await node.add_pod("p", identity=300)
    await node.serve(pod, "serve-tcp", "80")
    await node.serve(None, "serve-tcp", "9090")
    node.row(SET, None)
    pod.ingress_set = pod.egress_set = SET
    node.enter(pod)

    assert (await node.probe(None, "tcp", pod.ip, "80"))["outcome"] == "open"
    assert (await node.probe(pod, "tcp", node.NODE_IP, "9090"))["outcome"] == "open"


async def test_arp_is_answered_for_others_and_never_for_somebody_elses_address(node: MiniNode) -> None:
    pod, other = await node.add_pod("p", identity=300), await node.add_pod("o", identity=301)
    request = "000108000604" + "0001" + "OWN"

    def ask(sender: str, target: str) -> str:
        return request + packed(sender).hex() + "000000000000" + packed(target).hex()

    answer = await node.probe(pod, "frame", "0x0806", ask(pod.ip, "169.254.1.1"))
    assert answer["mac"] == "0a:53:54:00:00:01"
    assert (await node.probe(pod, "frame", "0x0806", ask(other.ip, "169.254.1.1")))["outcome"] == "denied"
    assert (await node.probe(pod, "frame", "0x0806", ask(pod.ip, pod.ip)))["outcome"] == "denied"


async def test_other_protocols_of_layer_two_and_three_are_counted_and_dropped(node: MiniNode) -> None:
    pod = await node.add_pod("p", identity=300)
    counted = {
        reason: node.drops(reason)
        for reason in (DropReason.UNSUPPORTED_L2_PROTOCOL, DropReason.UNSUPPORTED_L3_PROTOCOL)
    }
    await node.probe(pod, "frame", "0x88cc", "00" * 40)
    await node.probe(pod, "frame", "0x86dd", ipv6("fe80::1", "ff02::1", 59, b"").hex())
    for reason, before in counted.items():
        assert node.drops(reason) == before + 1, reason


async def test_malformed_packets_are_dropped_by_name(node: MiniNode) -> None:
    pod, other = await node.add_pod("p", identity=300), await node.add_pod("o", identity=301)
    too_short_for_tcp = (
        "4500001c"
        + "00010000"
        + "4006"
        + "0000"
        + packed(pod.ip).hex()
        + packed(other.ip).hex()
        + "00500050"
        + "00" * 4
    )
    await node.probe(pod, "frame", "0x0800", too_short_for_tcp)
    assert await node.drop_reason() == DropReason.CT_INVALID_HEADER
    node.events.clear()
    await node.probe(pod, "frame", "0x0800", "41" + "00" * 30)
    assert await node.drop_reason() == DropReason.INVALID_PACKET
