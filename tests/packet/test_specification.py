"""The kernel against the naive evaluator of the NetworkPolicy specification, over seeded random clusters.

Each seed is a cluster that changes: policies, labels, pods and nodes come, change and go. The policy
service's core publishes, a node's datapath follows, and its kernel is asked about the first packet of
connections between all addresses that concern a pod of the node, of every protocol, at ports around the
edges of what policies name. All questions are put to the programs in memory, some on links as well. Half of
the time the connections of the last questions are asked about again, which policy may have cut meanwhile.
Each answer has to be the evaluator's, and a denial to be policy's, of the right direction.

A failure prints the seed. ``STENTOR_SPEC_SEEDS`` is how many seeds are tried, from 0 on, instead of 500;
``STENTOR_SPEC_SEEDS=7-8`` tries the one seed 7.
"""

from __future__ import annotations

import json
import random
from collections import Counter
from collections.abc import AsyncIterator, Iterator

import pytest

from services.datapath.kernel.loader import Loaded
from tests.packet.follower import Follower
from tests.packet.mininode import Pod as Link
from tests.packet.questions import ALLOWED, DENIED, Question
from tests.packet.seeds import SEEDS_PER_TEST, seeds
from tests.packet.stage import OWN_IPS, Asked, Stage, Way
from tests.services.policy.naive import Cluster, allowed
from tests.services.policy.world import (
    NAMED_PORTS,
    NODE_IPS,
    OUTSIDE_IPS,
    POD_IPS,
    POPULATION,
    TRANSPORTS,
    World,
    some_change,
)

NAMES = ("one", "two", "three", "four", "five")
MOST_PORTS = 12
"""Asked about between two addresses at once."""
ON_LINKS = 40


@pytest.fixture
async def stage(loaded: Loaded) -> AsyncIterator[Stage]:
    """A node with links for pods."""
    stage = await Stage.build(loaded)
    try:
        yield stage
    finally:
        await stage.close()


@pytest.mark.parametrize(
    "tried", seeds("STENTOR_SPEC_SEEDS", 500), ids=lambda tried: f"{tried.start}-{tried.stop}"
)
async def test_the_kernel_says_what_the_specification_says(stage: Stage, tried: range) -> None:
    asked: Counter[tuple[str, str, str]] = Counter()
    for seed in tried:
        try:
            asked += await Scenario(stage, seed).play()
        except Exception as error:
            error.add_note(f"seed {seed}")
            raise
    if len(tried) == SEEDS_PER_TEST:
        kinds = {
            (family, protocol, answer)
            for family in ("IPv4", "IPv6")
            for protocol in (*TRANSPORTS, "ICMP")
            for answer in (ALLOWED, *DENIED.values())
        }
        assert {kind for kind in kinds if asked[kind] < 100} == set(), "hardly asked about"


class Scenario:
    """One seed."""

    def __init__(self, stage: Stage, seed: int) -> None:
        self.seed = seed
        self.stage = stage
        self.chance = random.Random(seed)
        self.world = World()
        self.follower = Follower(self.world, kernel=stage.kernel, links=stage.links, chance=self.chance)
        self.follower.here = set(self.chance.sample(NAMES, self.chance.choice((3, 4, 5))))
        self.asked: Counter[tuple[str, str, str]] = Counter()
        self.has_asked = False

    async def play(self) -> Counter[tuple[str, str, str]]:
        """Lets things happen and asks in between; returns how often which answer was expected."""
        for what, *details in POPULATION:
            if what == "pod":
                *details, ips = details
                more = self.chance.choice(((), (), ("fd00::6",), ("fd00::7",)))
                details += [ips + more, self.chance.choice(NAMED_PORTS)]
            self.world.change(what, *details)
        for _ in range(self.chance.randrange(8)):
            self.world.change(*some_change(self.chance))
        for _ in range(self.chance.randrange(2, 8)):
            self.follower.follow()
            if self.chance.random() < 0.4:
                await self.ask()
            for _ in range(self.chance.choice((1, 1, 2, 4))):
                self.world.change(*some_change(self.chance))
            if self.chance.random() < 0.1:
                self.follower.here ^= {self.chance.choice(NAMES)}
            if self.chance.random() < 0.1:
                self.follower.restart()
        self.follower.follow()
        await self.ask()
        return self.asked

    async def ask(self) -> None:
        """Puts all questions in memory, and some of them on the links."""
        asked = list(self.questions(sorted(ports_around(self.world.cluster))))
        again = self.has_asked and self.chance.random() < 0.5
        self.has_asked = True
        how = "in memory, again" if again else "in memory"
        self.compare(asked, await self.stage.in_memory(asked, again=again), how=how)
        possible = [each for each in asked if each.way.to is not None and not each.way.came_in]
        sent = self.chance.sample(possible, min(ON_LINKS, len(possible)))
        self.compare(sent, await self.stage.on_links(sent), how="on links")

    def compare(self, asked: list[Asked], answers: list[str], *, how: str) -> None:
        """Raises AssertionError for the first answer that is not the evaluator's."""
        for each, answer in zip(asked, answers, strict=True):
            question = each.question
            expected = self.expected(question)
            family = "IPv6" if ":" in question.source else "IPv4"
            self.asked[family, question.protocol, expected] += 1
            if answer != expected:
                raise AssertionError(self.explain(each, expected=expected, answer=answer, how=how))

    def expected(self, question: Question) -> str:
        """What the specification says, as far as this node's pods are concerned."""
        cluster = self.world.cluster
        source, destination, protocol, port = question
        client, server = cluster.pod_at(source), cluster.pod_at(destination)
        # A pod reaches itself, and a node and its own pods reach one another.
        if client is server or source in OWN_IPS or destination in OWN_IPS:
            return ALLOWED
        for pod, direction, peer in ((client, "Egress", destination), (server, "Ingress", source)):
            if pod is None or pod.name not in self.follower.links:
                continue
            if not allowed(cluster, pod=pod, direction=direction, peer_ip=peer, protocol=protocol, port=port):
                return DENIED[direction.lower()]
        return ALLOWED

    def questions(self, ports: list[int]) -> Iterator[Asked]:
        """Everything between addresses of which one at least is a local pod's; of many ports some."""
        addresses = sorted({*POD_IPS, *OUTSIDE_IPS, *NODE_IPS, *OWN_IPS})
        for source in addresses:
            for destination in addresses:
                if (":" in source) != (":" in destination) or {source, destination} <= set(OWN_IPS):
                    continue
                some = self.chance.sample(ports, min(MOST_PORTS, len(ports)))
                for way in self.ways(source, destination):
                    yield Asked(Question(source, destination, "ICMP", 0), way)
                    for protocol in TRANSPORTS:
                        for port in some:
                            yield Asked(Question(source, destination, protocol, port), way)

    def ways(self, source: str, destination: str) -> Iterator[Way]:
        """How a packet meets this node's programs."""
        outside = self.stage.outside
        assert outside is not None
        sender, receiver = self.follower.link_at(source), self.follower.link_at(destination)
        if sender is not None:
            to: Link | None = receiver or outside
            yield Way("from_pod", sender, None if destination in OWN_IPS else to)
        elif receiver is not None and source in OWN_IPS:
            yield Way("to_pod", receiver, receiver)
        elif receiver is not None:
            yield Way("from_network", outside, receiver)
            yield Way("to_pod", receiver, receiver, came_in=outside.ifindex)

    def explain(self, each: Asked, *, expected: str, answer: str, how: str) -> str:
        """All that it takes to look for the reason."""
        cluster = self.world.cluster
        lines = [
            f"seed {self.seed}, {each.question}, {how} by {each.way.program}: "
            f"expected {expected!r}, got {answer!r}",
            f"pods here: {sorted(self.follower.links)}, pod CIDRs {self.world.pod_cidrs}",
            *(f"{pod}" for pod in cluster.pods.values()),
            *(f"namespace {name}: {labels}" for name, labels in cluster.namespaces.items()),
            *(
                f"policy {namespace}/{name}: {json.dumps(policy['spec'])}"
                for (namespace, name), policy in cluster.policies.items()
            ),
        ]
        return "\n".join(lines)


def ports_around(cluster: Cluster) -> set[int]:
    """Ports that policies and pods name, and those on either side."""
    named = {80, *(number for pod in cluster.pods.values() for _, _, number in pod.ports)}
    for policy in cluster.policies.values():
        for side in ("ingress", "egress"):
            for rule in policy["spec"].get(side) or ():
                for port in rule.get("ports") or ():
                    edges = (port.get("port"), port.get("endPort"))
                    named.update(edge for edge in edges if isinstance(edge, int))
    return {near for port in named for near in (port - 1, port, port + 1) if 0 < near <= 65535}
