"""Pods that get other labels while policies change: no step of a commit judges anybody by half of a policy.

A node gives addresses their new identities in the same application that moves its own pods to new sets, a
moment before. So each verdict is the one before, the one after, or what the pod's policies of before say of
the peer with its labels of after.
"""

from __future__ import annotations

import functools
import random
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

from hypothesis import example, given, settings
from hypothesis import strategies as st

from shared.contract.base import Direction
from shared.contract.identity import IdentityRecord
from shared.contract.policy import AddressClass, CidrClass, IdentityPolicy, PolicySet, Row
from shared.contract.reserved import Reserved
from tests.services.policy import naive
from tests.services.policy.reader import OPEN, shuffled
from tests.services.policy.test_properties import DIRECTIONS, Cluster, effect
from tests.services.policy.world import (
    LABELS,
    NAMESPACES,
    OUTSIDE_IPS,
    POPULATION,
    PORTS,
    PROTOCOLS,
    World,
    some_policy_change,
)

Question = tuple[str, Direction, str]
"""A pod, a direction, and a peer's address."""


class Kernel:
    """A node's maps, written in the datapath's order; pods and addresses are always the same."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.revision = 0
        self._rows: dict[tuple[str, str], Row] = {}
        self._defaults: dict[str, Row] = {}
        self._classes: dict[int, str] = {}
        self._peers: dict[str, tuple[int, str | None]] = {}
        self._prefixes: dict[str, str] = {}
        self._sets: dict[tuple[str, Direction], str] = {}

    def apply(self, *, order: random.Random) -> Iterator[str]:
        """Applies what is published and the addresses as they are; gives a name after each step."""
        bucket = self._cluster.bucket.values()
        world = self._cluster.world
        sets = [value for value in bucket if isinstance(value, PolicySet)]
        identities = {int(each.identity): each for each in bucket if isinstance(each, IdentityPolicy)}
        own = {each.ip: each for each in bucket if isinstance(each, AddressClass)}
        rows: dict[tuple[str, str], Row] = {
            (value.id, peer): row for value in sets for peer, row in value.rows.items()
        }
        classes = {number: str(each.peer_class) for number, each in identities.items()}
        peers = dict(self._peers)
        for ip, identity in world.ipcache().items():
            if identity in identities and (ip not in own or own[ip].identity == identity):
                peers[ip] = (identity, str(own[ip].peer_class) if ip in own else None)
        prefixes = {each.cidr: str(each.peer_class) for each in bucket if isinstance(each, CidrClass)}
        wanted: dict[tuple[str, Direction], str] = {}
        for pod in world.cluster.pods.values():
            mine = identities[world.identity(pod)]
            wanted[pod.name, Direction.INGRESS] = mine.ingress or ""
            wanted[pod.name, Direction.EGRESS] = mine.egress or ""
        self._defaults |= {value.id: value.default for value in sets}
        fresh = {number: each for number, each in classes.items() if number not in self._classes}
        yield from _written("row", self._rows, rows, order)
        yield from _written("class", self._classes, fresh, order)
        yield from _written("prefix", self._prefixes, prefixes, order)
        yield from _written("address", self._peers, peers, order)
        yield from _written("class", self._classes, classes, order)
        for cidr in shuffled(sorted(self._prefixes.keys() - prefixes.keys()), order):
            del self._prefixes[cidr]
            yield f"prefix {cidr} gone"
        yield from _written("set", self._sets, wanted, order)
        self._rows, self._classes = rows, classes
        self.revision = self._cluster.revision
        yield "all that is not needed gone"

    def effect(self, question: Question) -> tuple[bool, ...]:
        """What a question's answer lets through."""
        pod, direction, ip = question
        set_id = self._sets[pod, direction]
        if not set_id:
            return effect(OPEN)
        return effect(self._rows.get((set_id, self._class_of(ip)), self._defaults[set_id]))

    def _class_of(self, ip: str) -> str:
        if ip in self._peers:
            identity, own = self._peers[ip]
            return own or self._classes[identity]
        around = [cidr for cidr in self._prefixes if naive.in_block({"cidr": cidr}, ip)]
        if around:
            return self._prefixes[max(around, key=lambda cidr: int(cidr.partition("/")[2]))]
        return self._classes[Reserved.WORLD]


def _written(
    what: str, held: dict[Any, Any], wanted: Mapping[Any, Any], order: random.Random
) -> Iterator[str]:
    for key in shuffled(wanted, order):
        if held.get(key) != wanted[key]:
            held[key] = wanted[key]
            yield f"{what} {key}"


class Remembering(World):
    """The identity service keeps a number that nobody has for a while."""

    def __init__(self) -> None:
        super().__init__()
        self._records: dict[int, IdentityRecord] = {}

    def records(self) -> dict[int, IdentityRecord]:
        self._records |= super().records()
        return self._records


class Relabelled(Cluster):
    """Policies and labels change; pods and their addresses stay."""

    def __init__(self, chance: random.Random) -> None:
        super().__init__(chance)
        self.world = Remembering()
        for what, *details in POPULATION:
            self.world.change(what, *details)
        self.restart()
        self.nodes = (Kernel(self), Kernel(self))  # type: ignore[assignment]  # they only have revisions in common
        self.seen: dict[int, naive.Cluster] = {}

    def change(self) -> None:
        """Something happens."""
        cluster = self.world.cluster
        if self.chance.random() < 0.4:
            name = self.chance.choice(sorted(cluster.pods))
            cluster.pods[name] = replace(cluster.pods[name], labels=self.chance.choice(LABELS))
        elif self.chance.random() < 0.2:
            self.world.change("namespace", self.chance.choice(NAMESPACES), self.chance.choice(LABELS))
        else:
            self.world.change(*some_policy_change(self.chance))

    def move_on(self, number: int) -> None:
        """A node applies what there is; each of its verdicts is as it must be after each step."""
        node: Any = self.nodes[number]
        if node.revision == self.revision:
            return
        now = naive.Cluster(
            namespaces=dict(self.world.cluster.namespaces),
            pods=dict(self.world.cluster.pods),
            policies=dict(self.world.cluster.policies),
        )
        before = self.seen.get(number)
        self.seen[number] = now
        steps = node.apply(order=self.chance)
        questions = [
            (pod, direction, ip)
            for pod in now.pods
            for direction in DIRECTIONS
            for ip in (*self.world.ipcache(), *OUTSIDE_IPS)
            if ip not in now.pods[pod].ips
        ]
        if before is None:
            for _ in steps:
                pass
        else:
            right = {
                each: {meant(cluster, each) for cluster in (before, between(before, now, pod=each[0]), now)}
                for each in questions
            }
            for step in steps:
                for each in questions:
                    assert node.effect(each) in right[each], (step, each)
        assert {each: node.effect(each) for each in questions} == {
            each: meant(now, each) for each in questions
        }


def between(before: naive.Cluster, now: naive.Cluster, *, pod: str) -> naive.Cluster:
    """All others have their new labels, and the pod goes by what it had."""
    return replace(now, policies=before.policies, pods={**now.pods, pod: before.pods[pod]})


def meant(cluster: naive.Cluster, question: Question) -> tuple[bool, ...]:
    """What the Kubernetes API says to a question."""
    name, direction, ip = question
    ask = functools.partial(
        naive.allowed, cluster, pod=cluster.pods[name], direction=DIRECTIONS[direction], peer_ip=ip
    )
    return tuple(ask(protocol=protocol, port=port) for protocol in PROTOCOLS for port in PORTS)


@settings(max_examples=200, deadline=None)
@given(seed=st.integers(0, 2**32), steps=st.integers(1, 8))
@example(seed=83, steps=6)
def test_no_verdict_is_broken_where_labels_and_policies_change_together(seed: int, steps: int) -> None:
    cluster = Relabelled(random.Random(seed))
    chance = cluster.chance
    for _ in range(steps):
        for _ in range(chance.randint(1, 3)):
            cluster.change()
        cluster.publish()
        for number in (0, 1):
            if chance.random() < 0.7:
                cluster.move_on(number)
        cluster.now += chance.choice((0.0, 0.5, 2.0))
