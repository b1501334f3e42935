"""Selectors over labels, and blocks over addresses, kept as both change."""

from __future__ import annotations

import ipaddress
import random

import pytest

from services.policy.blocks import Blocks, Prefix
from services.policy.errors import HashCollision
from services.policy.ids import Element
from services.policy.labels import LabelIndex, Labels
from services.policy.matcher import Matcher
from services.policy.model import (
    BlockSelector,
    BlockTerm,
    LabelSelector,
    Operator,
    PodSelector,
    PodTerm,
    Requirement,
    block_selector,
    pod_selector,
)
from services.policy.podspace import PodSpace
from shared.contract.base import Identity


@pytest.mark.parametrize(
    ("operator", "values", "absent", "empty", "x"),
    [
        (Operator.IN, ("x",), False, False, True),
        (Operator.IN, ("",), False, True, False),
        (Operator.NOT_IN, ("x",), True, True, False),
        (Operator.NOT_IN, ("",), True, False, True),
        (Operator.EXISTS, (), False, True, True),
        (Operator.DOES_NOT_EXIST, (), True, False, False),
    ],
)
def test_operators(operator: Operator, values: tuple[str, ...], absent: bool, empty: bool, x: bool) -> None:
    requirement = Requirement("app", operator, values)
    answers = (requirement.matches({}), requirement.matches({"app": ""}), requirement.matches({"app": "x"}))
    assert answers == (absent, empty, x)


def test_an_empty_selector_selects_everything() -> None:
    assert LabelSelector().matches({})
    assert LabelSelector().matches({"app": "x"})


def some_selector(chance: random.Random) -> LabelSelector:
    found: set[Requirement] = set()
    for _ in range(chance.choice((0, 1, 1, 2))):
        operator = chance.choice(list(Operator))
        values = tuple(sorted({chance.choice("xyz") for _ in range(chance.choice((1, 2)))}))
        wants = operator in (Operator.IN, Operator.NOT_IN)
        found.add(Requirement(chance.choice(("app", "tier")), operator, values if wants else ()))
    return LabelSelector(tuple(sorted(found)))


def some_labels(chance: random.Random) -> dict[str, str]:
    return {key: chance.choice("xyz") for key in ("app", "tier") if chance.random() < 0.6}


@pytest.mark.parametrize("seed", range(30))
def test_selectors_and_identities_in_any_order_of_coming_and_going(seed: int) -> None:
    chance = random.Random(seed)
    index = LabelIndex()
    matcher = Matcher(index, what="selector")
    held: list[PodSelector] = []
    for _ in range(200):
        match chance.randrange(4):
            case 0 | 1:
                own = chance.choice((None, "a", "b"))
                namespaces = LabelSelector() if own else some_selector(chance)
                selector = pod_selector(
                    PodTerm(namespace=own, namespaces=namespaces, pods=some_selector(chance))
                )
                held.append(selector)
                matcher.acquire(selector)
            case 2 if held:
                matcher.release(held.pop(chance.randrange(len(held))))
            case _:
                number = Identity(chance.randrange(256, 272))
                if number in index.labels:
                    index.remove(number)
                    matcher.remove(number)
                else:
                    index.add(number, Labels(chance.choice("ab"), some_labels(chance), some_labels(chance)))
                    matcher.add(number, index.labels[number])
        for number, labels in index.labels.items():
            wanted = {selector.id for selector in held if labels.match(selector.term)}
            assert matcher.signature(number) == wanted
        for selector in held:
            members = {number for number, labels in index.labels.items() if labels.match(selector.term)}
            assert matcher.members(selector.id) == members
    assert len(matcher) == len({selector.id for selector in held})


def test_equal_ids_of_different_terms_are_a_collision() -> None:
    matcher = Matcher(LabelIndex(), what="peer selector")
    matcher.acquire(PodSelector(id=Element("0123456789abcdef"), term=PodTerm(namespace="a")))
    with pytest.raises(HashCollision, match="two different peer selectors have the id 0123456789abcdef"):
        matcher.acquire(PodSelector(id=Element("0123456789abcdef"), term=PodTerm(namespace="b")))
    with pytest.raises(HashCollision):
        matcher.acquire(PodSelector(id=Element("0" * 16), term=PodTerm(namespace="c")))
    blocks = Blocks()
    blocks.acquire(BlockSelector(id=Element("0123456789abcdef"), term=BlockTerm(cidr="10.0.0.0/8")))
    with pytest.raises(HashCollision):
        blocks.acquire(BlockSelector(id=Element("0123456789abcdef"), term=BlockTerm(cidr="10.0.0.0/9")))


def matches(term: BlockTerm, ip: str) -> bool:
    address = ipaddress.ip_address(ip)
    return address in ipaddress.ip_network(term.cidr) and not any(
        address in ipaddress.ip_network(item) for item in term.excepts
    )


TERMS = (
    BlockTerm(cidr="0.0.0.0/0"),
    BlockTerm(cidr="10.0.0.0/8", excepts=("10.0.0.0/16", "10.9.0.0/16")),
    BlockTerm(cidr="10.0.0.0/16"),
    BlockTerm(cidr="10.0.4.0/24", excepts=("10.0.4.7/32",)),
    BlockTerm(cidr="fd00::/16", excepts=("fd00:1::/32",)),
    BlockTerm(cidr="::/0"),
)
IPS = (
    "10.0.4.7",
    "10.0.4.8",
    "10.0.5.1",
    "10.9.0.1",
    "10.10.0.1",
    "8.8.8.8",
    "fd00::1",
    "fd00:1::1",
    "2001::1",
)


@pytest.mark.parametrize("seed", range(20))
def test_blocks_and_their_prefixes_agree_for_every_address(seed: int) -> None:
    chance = random.Random(seed)
    blocks = Blocks()
    held = [block_selector(term) for term in chance.sample(TERMS, 4)]
    for selector in held:
        blocks.acquire(selector)
    for selector in held[2:]:
        assert blocks.release(selector)
    held = held[:2]
    table = {Prefix.of_cidr(text): signature for text, signature in blocks.prefixes()}
    for ip in IPS:
        wanted = {selector.id for selector in held if matches(selector.term, ip)}
        place = Prefix.of_ip(ip)
        assert blocks.matching(place) == wanted
        around = [prefix for prefix in table if prefix.covers(place)]
        longest = max(around, key=lambda prefix: prefix.length, default=None)
        assert (table[longest] if longest else frozenset()) == wanted


def test_blocks_that_hold_the_whole_pod_space() -> None:
    blocks = Blocks()
    everything = block_selector(BlockTerm(cidr="0.0.0.0/0"))
    private = block_selector(BlockTerm(cidr="10.0.0.0/8", excepts=("10.9.0.0/16",)))
    blocks.acquire(everything)
    blocks.acquire(private)
    space = PodSpace()
    assert blocks.covering(space.prefixes) == set()
    space.set_node("one", ["10.1.0.0/24"])
    space.set_node("two", ["10.1.1.0/24"])
    assert space.prefixes == {Prefix.of_cidr("10.1.0.0/23")}
    assert blocks.covering(space.prefixes) == {everything.id, private.id}
    space.set_node("three", ["10.0.0.0/8"])  # holds the except
    assert blocks.covering(space.prefixes) == {everything.id}
    space.set_node("three", [])
    space.add(Prefix.of_ip("10.1.0.9"))
    assert blocks.covering(space.prefixes) == {everything.id, private.id}
    space.add(Prefix.of_ip("10.2.0.9"))  # outside of all pod CIDRs: any address is possible
    assert blocks.covering(space.prefixes) == {everything.id}
    space.discard(Prefix.of_ip("10.2.0.9"))
    assert blocks.covering(space.prefixes) == {everything.id, private.id}
    space.add(Prefix.of_ip("fd00::1"))
    assert blocks.covering(space.prefixes) == set()
