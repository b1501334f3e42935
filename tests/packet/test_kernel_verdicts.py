"""What rows in the kernel decide: actions, rules, long rows, whose row is asked; how drops are counted."""

from __future__ import annotations

import random
import struct
from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import NamedTuple

import pytest

from services.datapath.events_model import KernelVerdict
from services.datapath.intake import kernel_events
from services.datapath.kernel.layout import (
    PEER,
    SET_NOT_READY,
    packed,
    prefix_key,
)
from services.datapath.kernel.ring import RawEvent
from shared.contract.drops import DropReason
from shared.contract.reserved import Reserved
from tests.packet.craft import ICMP, TCP, UDP, ipv4, payload_of
from tests.packet.mininode import CLASS_OF, Action, Dropped, MiniNode, Pod, Range, since

SCTP, GRE = 132, 47
SET, NO_ROWS = 77, 78
VIRTUAL = "10.96.0.1"
ECHO, TIMESTAMP = 8, 13
ETHERNET = 14
"""Bytes of a frame before the packet."""

DIRECTIONS = pytest.mark.parametrize("direction", ["egress", "ingress"])


class Verdict(NamedTuple):
    """What becomes of a connection's first packet; ``reason`` 0 lets it pass."""

    reason: int
    rule: int | None
    audit: bool = False


def meant(action: Action, rule: int | None) -> Verdict:
    """What an action means, as docs/datapath.md has it."""
    if action in (Action.ALLOW, Action.AUDIT):
        return Verdict(0, rule, action is Action.AUDIT)
    if action is Action.REDIRECT:
        return Verdict(DropReason.PROXY_REDIRECTION_NOT_SUPPORTED, rule)
    return Verdict(DropReason.POLICY_DENIED if rule is None else DropReason.POLICY_DENY, rule)


def audited(event: RawEvent, direction: str) -> bool:
    """Whether flows tell that policy only audits in this direction."""
    return any(
        told.verdict is KernelVerdict.AUDIT for told in kernel_events(event) if told.direction == direction
    )


async def judged(
    node: MiniNode, client: Pod, server: Pod, asked: Iterable[tuple[int, int]], *, direction: str = "ingress"
) -> dict[tuple[int, int], Verdict]:
    """What the kernel says to a packet to each (protocol, port), all of them first packets of connections."""
    wanted = set(asked)
    found: dict[tuple[int, int], Verdict] = {}
    node.kernel.v4.connections.delete_all(list(node.kernel.v4.connections.keys()))
    node.events.clear()

    def all_told() -> bool:
        for event in node.events:
            if (event.source, event.destination) != (client.ip, server.ip):
                continue
            rule = event.egress_rule if direction == "egress" else event.ingress_rule
            port = event.icmp_type if event.protocol == ICMP else event.destination_port
            verdict = Verdict(event.reason, rule, audited(event, direction))
            assert found.setdefault((event.protocol, port), verdict) == verdict
        node.events.clear()
        return found.keys() >= wanted

    await node.send(
        client,
        *(ipv4(client.ip, server.ip, each[0], payload_of(*each)) for each in sorted(wanted)),
    )
    await node.until(all_told)
    assert found.keys() == wanted
    return found


async def pair(node: MiniNode, direction: str, policy_set: int = SET) -> tuple[Pod, Pod]:
    """A client and a server, of which one has a policy set: the client in the direction ``egress``."""
    client, server = await node.add_pod("c", identity=300), await node.add_pod("s", identity=301)
    if direction == "egress":
        client.egress_set = policy_set
        node.enter(client)
    else:
        server.ingress_set = policy_set
        node.enter(server)
    return client, server


def peer_of(direction: str) -> int:
    """The identity that the policy of :func:`pair` is asked about."""
    return 301 if direction == "egress" else 300


# -- actions ---------------------------------------------------------------------------------------------

ACTIONS = (
    (Action.ALLOW, 3),
    (Action.AUDIT, 4),
    (Action.DENY, 5),
    (Action.DENY, None),
    (Action.REDIRECT, 6),
)


@DIRECTIONS
async def test_each_action_of_a_range_is_done_told_and_counted(node: MiniNode, direction: str) -> None:
    client, server = await pair(node, direction)
    ranges = [Range(UDP, port, port, *each) for port, each in enumerate(ACTIONS, start=100)]
    node.row(SET, None)
    node.row(SET, peer_of(direction), *ranges)
    before = node.all_drops()

    told = await judged(node, client, server, [(UDP, port) for port in range(100, 106)], direction=direction)

    assert told == {
        (UDP, 100): Verdict(0, 3),
        (UDP, 101): Verdict(0, 4, audit=True),
        (UDP, 102): Verdict(DropReason.POLICY_DENY, 5),
        (UDP, 103): Verdict(DropReason.POLICY_DENIED, None),
        (UDP, 104): Verdict(DropReason.PROXY_REDIRECTION_NOT_SUPPORTED, 6),
        (UDP, 105): Verdict(DropReason.POLICY_DENIED, None),
    }
    size = ETHERNET + 20 + 8
    assert since(node, before) == {
        (DropReason.POLICY_DENY, direction): Dropped(1, size),
        (DropReason.POLICY_DENIED, direction): Dropped(2, 2 * size),
        (DropReason.PROXY_REDIRECTION_NOT_SUPPORTED, direction): Dropped(1, size),
    }
    again = [ipv4(client.ip, server.ip, UDP, payload_of(UDP, port)) for port in range(100, 106)]
    heard = await node.hears(server, client, *again)
    assert [struct.unpack_from("!H", packet, 22)[0] for packet in heard] == [100, 101]


@DIRECTIONS
async def test_each_action_of_a_row_holds_where_no_range_matches(node: MiniNode, direction: str) -> None:
    client, server = await pair(node, direction)
    peer = peer_of(direction)
    node.row(SET, 999, (UDP, 100, 100))
    for action, rule in ACTIONS:
        node.row(SET, None, action=action, rule=rule)
        asked = [(TCP, 100), (UDP, 100), (SCTP, 100), (GRE, 0), (ICMP, ECHO), (ICMP, TIMESTAMP)]
        expected = dict.fromkeys(asked, meant(action, rule))
        assert await judged(node, client, server, asked, direction=direction) == expected, "the default row"

        # The other way round than the row of its own, which is asked instead and not in addition.
        opposite = Action.DENY if action is not Action.DENY else Action.ALLOW
        node.row(SET, None, Range(UDP, 1, 65535, opposite, 9), action=opposite, rule=9)
        node.row(SET, peer, Range(UDP, 100, 100, opposite, 8), action=action, rule=rule)
        expected[UDP, 100] = meant(opposite, 8)
        assert await judged(node, client, server, asked, direction=direction) == expected, "its own row"
        node.forget_row(SET, peer)


async def test_an_audited_connection_goes_on_like_any_other(node: MiniNode) -> None:
    client, server = await pair(node, "ingress")
    await node.serve(server, "serve-tcp", "80")
    node.row(SET, None, Range(TCP, 80, 80, Action.AUDIT, 7))

    assert (await node.probe(client, "tcp", server.ip, "80"))["answer"] == client.ip

    assert node.told(dropped=True) == []
    (event,) = node.told(dropped=False)
    assert (event.reason, event.ingress_rule, event.ingress_set) == (0, 7, SET)
    assert audited(event, "ingress")


@DIRECTIONS
async def test_who_only_audits_is_told_apart_from_who_allows(node: MiniNode, direction: str) -> None:
    client, server = await pair(node, direction)
    client.egress_set = server.ingress_set = SET
    node.enter(client)
    node.enter(server)
    node.row(SET, None, action=Action.ALLOW, rule=1)
    node.row(SET, peer_of(direction), action=Action.AUDIT, rule=2)

    for asked in ("egress", "ingress"):
        expected = Verdict(0, 2, audit=True) if asked == direction else Verdict(0, 1)
        assert await judged(node, client, server, [(UDP, 53)], direction=asked) == {(UDP, 53): expected}


async def test_a_client_is_told_of_its_own_policy_before_the_servers(node: MiniNode) -> None:
    client, server = await pair(node, "egress")
    server.ingress_set = SET
    node.enter(server)
    node.row(SET, None, rule=1, action=Action.DENY)
    node.row(SET, 301, Range(UDP, 1, 1, Action.ALLOW, 2), rule=3, action=Action.DENY)
    before = node.all_drops()

    egress = await judged(node, client, server, [(UDP, 1), (UDP, 2)], direction="egress")
    ingress = await judged(node, client, server, [(UDP, 1), (UDP, 2)])

    assert egress == {
        (UDP, 1): Verdict(DropReason.POLICY_DENY, 2),
        (UDP, 2): Verdict(DropReason.POLICY_DENY, 3),
    }
    assert ingress[UDP, 1] == Verdict(DropReason.POLICY_DENY, 1)
    assert ingress[UDP, 2] == Verdict(DropReason.POLICY_DENY, None), "the server's was not asked"
    assert {key: dropped.packets for key, dropped in since(node, before).items()} == {
        (DropReason.POLICY_DENY, "egress"): 2,
        (DropReason.POLICY_DENY, "ingress"): 2,
    }


@DIRECTIONS
@pytest.mark.parametrize("policy_set", [NO_ROWS, SET_NOT_READY])
async def test_a_set_without_rows_is_closed(node: MiniNode, direction: str, policy_set: int) -> None:
    client, server = await pair(node, direction, policy_set)
    node.row(SET, None, allow=True)
    before = node.all_drops()

    told = await judged(node, client, server, [(UDP, 53)], direction=direction)

    assert told == {(UDP, 53): Verdict(DropReason.POLICY_NOT_READY, None)}
    assert list(since(node, before)) == [(DropReason.POLICY_NOT_READY, direction)]


@DIRECTIONS
async def test_an_identity_without_a_class_is_refused_by_an_open_default_too(
    node: MiniNode, direction: str
) -> None:
    client, server = await pair(node, direction)
    node.row(SET, None, allow=True)
    peer = server if direction == "egress" else client
    node.kernel.v4.ipcache.want(packed(peer.ip), PEER.pack(0, 999))
    node.kernel.apply()
    before = node.all_drops()

    told = await judged(node, client, server, [(UDP, 53)], direction=direction)

    assert told == {(UDP, 53): Verdict(DropReason.INVALID_IDENTITY, None)}
    assert list(since(node, before)) == [(DropReason.INVALID_IDENTITY, direction)]


# -- long rows -------------------------------------------------------------------------------------------


def naive(ranges: Sequence[Range], protocol: int, port: int, *, otherwise: Verdict) -> Verdict:
    """A row's verdict, range after range."""
    for each in ranges:
        if each.protocol == protocol and each.first <= port <= each.last:
            return meant(each.action, each.rule)
    return otherwise


def random_ranges(chance: random.Random, count: int) -> list[Range]:
    """Ranges with rules of their own, some alone, some side by side, from port 0 to port 65535."""
    share, rest = divmod(count, 3)
    shares = {TCP: share + rest, UDP: share, SCTP: share}
    if count < 3:
        shares = {UDP: count}
    ranges: list[Range] = []
    for protocol, number in shares.items():
        edges = sorted(chance.sample(range(1, 65535), 2 * number))
        edges[0], edges[-1] = 0, 65535
        for index in range(number):
            first, last = edges[2 * index], edges[2 * index + 1]
            if index + 1 < number and chance.random() < 0.3:
                last = edges[2 * index + 2] - 1
            elif 0 < index < number - 1 and chance.random() < 0.3:
                last = first
            ranges.append(Range(protocol, first, last, chance.choice(list(Action)), len(ranges)))
    chance.shuffle(ranges)
    return ranges


def edges_of(ranges: Sequence[Range]) -> set[tuple[int, int]]:
    """Ports on both sides of each edge of each range, and its first port in other protocols."""
    asked = {(protocol, port) for protocol in (TCP, UDP, SCTP) for port in (0, 1, 65535)}
    # What the unused rest of a block would match.
    asked.add((0, 0))
    for each in ranges:
        around = (each.first - 1, each.first, each.last, each.last + 1)
        asked.update((each.protocol, port) for port in around if 0 <= port <= 65535)
        asked.update((protocol, each.first) for protocol in (TCP, UDP, SCTP))
    return asked


@pytest.mark.parametrize("count", [1, 7, 8, 9, 16, 17, 64, 65, 511, 512])
async def test_a_row_of_any_length_is_what_its_ranges_say(node: MiniNode, count: int) -> None:
    chance = random.Random(count)
    client, server = await pair(node, "ingress")
    ranges = random_ranges(chance, count)
    assert len(ranges) == count
    node.row(SET, None, action=Action.REDIRECT, rule=65)
    node.row(SET, 300, *ranges, action=Action.AUDIT, rule=999)

    asked = edges_of(ranges)
    told = await judged(node, client, server, asked)

    otherwise = Verdict(0, 999, audit=True)
    expected = {each: naive(ranges, *each, otherwise=otherwise) for each in asked}
    assert {each: verdict for each, verdict in told.items() if verdict != expected[each]} == {}
    assert len(set(expected.values())) > min(count, 4)


@pytest.mark.parametrize("lengths", [(512, 8), (9, 512), (64, 1)], ids=str)
async def test_a_row_that_grows_or_shrinks_leaves_nothing_behind(
    node: MiniNode, lengths: tuple[int, int]
) -> None:
    client, server = await pair(node, "ingress")
    asked = [(UDP, port) for port in range(0, 600, 7)]
    for length in lengths:
        ranges = [Range(UDP, port, port, Action.ALLOW, port) for port in range(0, length)]
        node.row(SET, None, *ranges)
        told = await judged(node, client, server, asked)
        otherwise = Verdict(DropReason.POLICY_DENIED, None)
        assert told == {each: naive(ranges, *each, otherwise=otherwise) for each in asked}


async def test_a_long_row_that_misses_a_block_is_closed_where_it_would_be_read(node: MiniNode) -> None:
    client, server = await pair(node, "ingress")
    node.row(SET, None, *[(UDP, port, port) for port in range(100, 132)])
    node.forget_row(SET, None, blocks=slice(3, 4))
    allowed, missing = Verdict(0, 0), Verdict(DropReason.POLICY_NOT_READY, None)

    told = await judged(node, client, server, [(UDP, port) for port in (100, 108, 115, 116, 123, 124, 131)])

    assert {port: verdict for (_, port), verdict in told.items()} == {
        100: allowed,
        108: allowed,
        115: allowed,
        **dict.fromkeys((116, 123, 124, 131), missing),
    }


async def test_types_of_icmp_are_ports_of_a_row(node: MiniNode) -> None:
    client, server = await pair(node, "ingress")
    node.row(SET, None, Range(ICMP, ECHO, ECHO, Action.ALLOW, 1), Range(UDP, 0, 65535, Action.ALLOW, 2))
    told = await judged(node, client, server, [(ICMP, ECHO), (ICMP, TIMESTAMP), (UDP, ECHO)])
    assert told == {
        (ICMP, ECHO): Verdict(0, 1),
        (ICMP, TIMESTAMP): Verdict(DropReason.POLICY_DENIED, None),
        (UDP, ECHO): Verdict(0, 2),
    }


# -- whose row -------------------------------------------------------------------------------------------


@DIRECTIONS
async def test_the_class_of_an_address_goes_before_that_of_its_identity(
    node: MiniNode, direction: str
) -> None:
    client, server = await pair(node, direction)
    twin = await node.add_pod("t", identity=peer_of(direction))
    if direction == "ingress":
        peer, ends = client, ((client, server), (twin, server))
    else:
        peer, ends = server, ((client, server), (client, twin))
    node.row(SET, None)
    node.row(SET, peer_of(direction), action=Action.ALLOW, rule=1)
    node.row(SET, 900, action=Action.DENY, rule=2)

    async def verdicts() -> list[Verdict]:
        return [(await judged(node, *each, [(UDP, 53)], direction=direction))[UDP, 53] for each in ends]

    of_identity, of_address = Verdict(0, 1), Verdict(DropReason.POLICY_DENY, 2)
    assert await verdicts() == [of_identity, of_identity]
    node.kernel.v4.ipcache.want(packed(peer.ip), PEER.pack(CLASS_OF + 900, peer.identity))
    node.kernel.apply()
    assert await verdicts() == [of_address, of_identity]
    node.forget_row(SET, 900)
    assert await verdicts() == [Verdict(DropReason.POLICY_DENIED, None), of_identity], "its class is another"
    node.kernel.v4.ipcache.want(packed(peer.ip), PEER.pack(0, peer.identity))
    node.kernel.apply()
    assert await verdicts() == [of_identity, of_identity]


@DIRECTIONS
async def test_an_address_outside_has_the_class_of_its_longest_prefix(node: MiniNode, direction: str) -> None:
    pod, other = await node.add_pod("p", identity=300), await node.add_outside()
    pod.ingress_set = pod.egress_set = SET
    node.enter(pod)
    near, far = (replace(other, ip=ip) for ip in node.OUTSIDE_IPS)
    world = Reserved.WORLD

    async def rules() -> tuple[int | None, int | None]:
        """Those that decide about both addresses."""
        found = []
        for each in (near, far):
            ends = (pod, each) if direction == "egress" else (each, pod)
            verdict = (await judged(node, *ends, [(UDP, 53)], direction=direction))[UDP, 53]
            assert verdict.reason == 0
            found.append(verdict.rule)
        return found[0], found[1]

    def classify(cidr: str, number: int | None) -> None:
        value = None if number is None else PEER.pack(CLASS_OF + number, world)
        node.kernel.v4.cidrs.want(prefix_key(cidr), value)
        node.kernel.apply()

    node.row(SET, world, action=Action.ALLOW, rule=1)
    for number in (900, 908, 924, 932):
        node.row(SET, number, action=Action.ALLOW, rule=number)
    assert await rules() == (1, 1)
    classify(f"{near.ip}/32", 932)
    assert await rules() == (932, 1)
    classify("192.0.2.0/24", 924)
    assert await rules() == (932, 924)
    classify("0.0.0.0/0", 900)
    classify("192.0.0.0/8", 908)
    assert await rules() == (932, 924)
    classify("192.0.2.0/24", None)
    assert await rules() == (932, 908)
    classify("192.0.0.0/8", None)
    assert await rules() == (932, 900)
    # An address of the cluster is no matter of prefixes.
    node.identity(400)
    node.row(SET, 400, action=Action.ALLOW, rule=4)
    node.kernel.v4.ipcache.want(packed(near.ip), PEER.pack(0, 400))
    node.kernel.apply()
    assert await rules() == (4, 900)
