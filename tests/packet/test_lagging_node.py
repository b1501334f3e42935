"""A node that hears of labels, policies and its own pods at different times: no verdict is of no policy.

Pods and their addresses stay; labels and policies change, and a node's datapath hears of each bucket when it
gets to it, applies in between, and may begin anew. Whatever its kernel says after an application has to be
what some policies of since all was quiet say of labels of since then: a peer's class of one commit met by a
policy set of another says what none of them does. When all is quiet again, it has to be exactly right.

``STENTOR_LAG_SEEDS=7-8`` tries the one seed 7, as a failure names it.
"""

from __future__ import annotations

import functools
import itertools
import random
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest

from services.datapath.kernel.layout import (
    CLASS_DEFAULT,
    ENDPOINT,
    PEER,
    PORT_RANGE,
    RANGES_PER_BLOCK,
    ROW_HEADER,
    ROW_KEY,
    SET_OPEN,
    U32,
    U64,
    packed,
    unpacked,
)
from services.datapath.kernel.loader import Loaded
from services.datapath.kernel.source import CONSTANTS
from services.datapath.kernel.state import KernelState
from shared.contract.base import Direction, Protocol
from shared.contract.reserved import Reserved
from tests.packet.follower import Follower
from tests.packet.mininode import Pod as Link
from tests.packet.seeds import seeds
from tests.services.policy import naive
from tests.services.policy.test_relabelled import Remembering
from tests.services.policy.world import (
    LABELS,
    NODE_IPS,
    OUTSIDE_IPS,
    POPULATION,
    PORTS,
    PROTOCOLS,
    some_policy_change,
)

STEPS, QUESTIONS = 40, 16
SIDES = {Direction.INGRESS: "Ingress", Direction.EGRESS: "Egress"}
ALLOW = CONSTANTS["ACTION_ALLOW"]


@pytest.fixture
def kernel(loaded: Loaded) -> Iterator[KernelState]:
    kernel = KernelState(loaded.maps)
    yield kernel
    kernel.close()


class Lagging(Follower):
    """Hears of one thing at a time, when chance has it."""

    def lag(self, chance: random.Random) -> bool:
        """One thing that a node does; True when its kernel may have changed."""
        match chance.choice(("ipcache", "endpoints", "policy", "apply", "apply", "restart", "time")):
            case "ipcache":
                self.hear_ipcache()
            case "endpoints":
                self.hear_endpoints()
            case "policy":
                self.hear_policy()
            case "apply":
                self.apply()
                return True
            case "restart" if chance.random() < 0.3:
                # What was not applied is as good as not heard.
                self.apply()
                self.restart()
            case _:
                self.pass_time(chance.choice((0.5, 2.0)))
        return False


class Verdicts:
    """What a kernel's maps say."""

    def __init__(self, kernel: KernelState) -> None:
        self._kernel = kernel

    def effect(self, subject: str, direction: Direction, peer: str) -> tuple[bool, ...] | None:
        """What passes between a pod's address and a peer's, by protocol and port; None: the pod is closed."""
        held = self._kernel.of(subject).endpoints.get(packed(subject))
        if held is None:
            return None
        ingress, egress, *_, flags = ENDPOINT.unpack(held)
        number = ingress if direction is Direction.INGRESS else egress
        if not flags:
            return None
        return tuple(self._passes(number, self._class_of(peer), *each) for each in everything())

    def _class_of(self, ip: str) -> int:
        family = self._kernel.of(ip)
        held = family.ipcache.get(packed(ip)) or self._longest(ip)
        peer_class, identity = (0, Reserved.WORLD) if held is None else PEER.unpack(held)
        if peer_class:
            return int(peer_class)
        found = self._kernel.classes.get(U32.pack(identity))
        return 0 if found is None else int(U64.unpack(found)[0])

    def _longest(self, ip: str) -> bytes | None:
        family = self._kernel.of(ip)
        found: tuple[int, bytes | None] = (-1, None)
        for key in family.cidrs.known():
            length, address = family.family.prefix.unpack(key)
            cidr = f"{unpacked(address, version=family.family.version)}/{length}"
            if naive.in_block({"cidr": cidr}, ip):
                found = max(found, (length, family.cidrs.get(key)), key=lambda each: each[0])
        return found[1]

    def _passes(self, number: int, peer_class: int, protocol: str, port: int) -> bool:
        if number == SET_OPEN:
            return True
        if not peer_class:
            return False
        for each in (peer_class, CLASS_DEFAULT):
            row = self._kernel.rows.get(ROW_KEY.pack(number, each, 0))
            if row is not None:
                return self._row_passes(number, each, row, Protocol(protocol).number, port)
        return False

    def _row_passes(self, number: int, peer_class: int, row: bytes, protocol: int, port: int) -> bool:
        count, _, action = ROW_HEADER.unpack_from(row)
        for index in range(count):
            block = self._kernel.rows.get(ROW_KEY.pack(number, peer_class, index // RANGES_PER_BLOCK))
            assert block is not None, "a row is whole"
            offset = ROW_HEADER.size + index % RANGES_PER_BLOCK * PORT_RANGE.size
            first, last, of, then, *_ = PORT_RANGE.unpack_from(block, offset)
            if of == protocol and first <= port <= last:
                return bool(then == ALLOW)
        return bool(action == ALLOW)


@functools.cache
def everything() -> tuple[tuple[str, int], ...]:
    return tuple(itertools.product(PROTOCOLS, PORTS))


class Story:
    """A world that changes, and all that it has been since all was quiet."""

    def __init__(self, chance: random.Random) -> None:
        self.world = Remembering()
        for what, *details in POPULATION:
            self.world.change(what, *details)
        self._chance = chance
        self.quiet()

    def quiet(self) -> None:
        """Everybody knows how things are."""
        cluster = self.world.cluster
        self._policies = [dict(cluster.policies)]
        self._labels = {name: [pod.labels] for name, pod in cluster.pods.items()}

    def change(self) -> None:
        """A pod gets other labels, or a policy comes, changes or goes."""
        cluster, chance = self.world.cluster, self._chance
        if chance.random() < 0.5:
            name = chance.choice(sorted(cluster.pods))
            cluster.pods[name] = replace(cluster.pods[name], labels=chance.choice(LABELS))
            self._labels[name].append(cluster.pods[name].labels)
            return
        self.world.change(*some_policy_change(chance))
        self._policies.append(dict(cluster.policies))

    def questions(self) -> list[tuple[str, Direction, str]]:
        """Some pods, directions and peers' addresses."""
        pods = self.world.cluster.pods
        peers = (*self.world.ipcache(), *OUTSIDE_IPS, *NODE_IPS)
        every = [
            (name, direction, ip)
            for name, pod in pods.items()
            for direction in SIDES
            for ip in peers
            if ip not in pod.ips
        ]
        return self._chance.sample(every, QUESTIONS)

    def meant(self, pod: str, direction: Direction, ip: str) -> Iterator[tuple[bool, ...]]:
        """All that may be said."""
        cluster = self.world.cluster
        peer = cluster.pod_at(ip)
        labels: list[list[Any]] = [self._labels[pod], self._labels[peer.name] if peer is not None else [None]]
        for policies, own, others in itertools.product(self._policies, *labels):
            pods = {**cluster.pods, pod: replace(cluster.pods[pod], labels=own)}
            if peer is not None:
                pods[peer.name] = replace(peer, labels=others)
            as_was = replace(cluster, policies=policies, pods=pods)
            ask = functools.partial(
                naive.allowed, as_was, pod=pods[pod], direction=SIDES[direction], peer_ip=ip
            )
            yield tuple(ask(protocol=protocol, port=port) for protocol, port in everything())


def links(count: int) -> list[Link]:
    """Of pods that are in maps alone."""
    return [
        Link(
            name=f"p{number}",
            netns=f"p{number}",
            ip="",
            identity=0,
            ifindex=1000 + number,
            host_ifname=f"stn{number}",
        )
        for number, name in enumerate(f"stn{each}" for each in range(count))
    ]


@pytest.mark.parametrize("some", seeds("STENTOR_LAG_SEEDS", 400), ids=str)
def test_a_node_that_lags_behind_says_what_some_policy_says(kernel: KernelState, some: range) -> None:
    for seed in some:
        play(kernel, seed)


def play(kernel: KernelState, seed: int) -> None:
    """One story."""
    chance = random.Random(seed)
    story = Story(chance)
    node = Lagging(story.world, kernel=kernel, links=links(4), chance=chance)
    node.here.update(story.world.cluster.pods)
    node.follow()
    verdicts = Verdicts(kernel)

    def check() -> None:
        for pod, direction, ip in story.questions():
            said = verdicts.effect(story.world.cluster.pods[pod].ips[0], direction, ip)
            assert said is not None, f"seed {seed}: a pod that was ready stays so"
            assert said in story.meant(pod, direction, ip), (seed, pod, direction, ip)

    for _ in range(STEPS):
        if chance.random() < 0.4:
            story.change()
        if node.lag(chance):
            check()
        if chance.random() < 0.12:
            node.follow()
            story.quiet()
            check()
