"""Compiled policy against the naive evaluator, and publications applied step by step."""

from __future__ import annotations

import functools
import random

from hypothesis import example, given, settings
from hypothesis import strategies as st

from services.policy.compiler import Compiler
from services.policy.planner import Planner
from services.policy.published import Published
from services.policy.retirement import Patience
from shared.contract.base import Direction, Message
from shared.contract.names import COMMIT_KEY
from shared.contract.policy import IdentityPolicy, Row
from shared.contract.reserved import FIRST_ALLOCATED
from tests.services.policy.naive import allowed
from tests.services.policy.reader import Reader, passes
from tests.services.policy.world import (
    NODE_IPS,
    OUTSIDE_IPS,
    POD_IPS,
    POPULATION,
    PORTS,
    PROTOCOLS,
    World,
    some_change,
)

seeds = st.integers(0, 2**32)

DIRECTIONS = {Direction.INGRESS: "Ingress", Direction.EGRESS: "Egress"}


class Cluster:
    """The policy service's core, its bucket, and two nodes that apply commits when they get to it."""

    def __init__(self, chance: random.Random) -> None:
        self.world = World()
        for what, *details in POPULATION:
            self.world.change(what, *details)
        self.bucket: dict[str, Message] = {}
        self.sequence = 0
        self.revision = 0
        self.now = 0.0
        self.nodes = (Reader(), Reader())
        self.chance = chance
        self.steps = 0
        self.present_since: dict[tuple[str, int | None], int] = {}
        self.applied_at = [0, 0]
        self.complete = False
        self.fails_after: int | None = None
        self.looking_on: list[tuple[Compiler, Planner]] = []
        self.restart()

    def restart(self) -> None:
        """A new process: it knows what is in the bucket, and the cluster as it is."""
        self.compiler = Compiler()
        self.planner = Planner(self.compiler, patience=Patience(settle=1.0, grace=float("inf")))
        self.world.feed(self.compiler)
        self.planner.adopt(self.mirror())

    def take_over(self) -> None:
        """Another replica publishes, which has looked on meanwhile; this one looks on from here."""
        publishing = (self.compiler, self.planner)
        if self.looking_on:
            self.compiler, self.planner = self.looking_on.pop()
            self.world.feed(self.compiler)
            self.planner.adopt(self.mirror())
        else:
            self.restart()
        self.looking_on.append(publishing)

    def mirror(self) -> Published:
        mirror = Published()
        for key, value in self.bucket.items():
            mirror.enter(key, value, revision=self.revision if key == COMMIT_KEY else self.sequence)
        return mirror

    def publish(self) -> bool:
        """One publication, broken off after ``fails_after`` items if that is set; True if all is stored."""
        only, self.fails_after = self.fails_after, None
        self.world.feed(self.compiler)
        self.note_presence()
        realised = min(node.revision for node in self.nodes)
        made = self.planner.plan(realised=realised, now=self.now, time="now")
        if made is None:
            self.complete = True
            return False
        stored = made.items if only is None else made.items[: min(only, len(made.items) - 1)]
        for key, value in stored:
            self.sequence += 1
            if value is None:
                del self.bucket[key]
            else:
                self.bucket[key] = value
        if only is not None:
            self.complete = False
            self.planner.adopt(self.mirror())
            return False
        self.revision = self.sequence
        self.complete = True
        self.planner.committed(made, revision=self.revision, now=self.now)
        for value in self.bucket.values():
            if isinstance(value, IdentityPolicy):
                named = [f"set.{id}" for id in (value.ingress, value.egress) if id is not None]
                assert all(key in self.bucket for key in named), "a commit is complete in itself"
        return True

    def note_presence(self) -> None:
        """Since when each subject and each address with its identity has been there without a break."""
        self.steps += 1
        present: set[tuple[str, int | None]] = {("identity", number) for number in self.world.records()}
        ipcache = self.world.ipcache()
        present |= {(ip, ipcache.get(ip)) for ip in (*POD_IPS, *NODE_IPS, *OUTSIDE_IPS)}
        self.present_since = {item: self.present_since.get(item, self.steps) for item in present}

    def lasted(self, pod: str, ip: str, *, since: int) -> bool:
        """Whether subject and peer have been there since a step: only then there is an old verdict."""
        identity = self.world.identity(self.world.cluster.pods[pod])
        peer = self.world.ipcache().get(ip)
        needed: list[tuple[str, int | None]] = [("identity", identity), (ip, peer)]
        if peer is not None and peer >= FIRST_ALLOCATED:
            needed.append(("identity", peer))
        return all(self.present_since[item] <= since for item in needed)

    def verdicts(self, node: Reader) -> dict[tuple[str, Direction, str], Row | None]:
        ipcache = self.world.ipcache()
        return {
            (pod.name, direction, ip): node.row(
                subject=self.world.identity(pod), direction=direction, peer_ip=ip, ipcache=ipcache
            )
            for pod in self.world.cluster.pods.values()
            for direction in DIRECTIONS
            for ip in (*ipcache, *OUTSIDE_IPS)
        }

    def apply(self, node: Reader) -> None:
        """Let a node apply the last commit; after each step every verdict is the old or the new one."""
        if not self.complete or node.revision == self.revision:
            return
        since = self.applied_at[self.nodes.index(node)]
        self.applied_at[self.nodes.index(node)] = self.steps
        before = {
            (pod, direction, ip): row
            for (pod, direction, ip), row in self.verdicts(node).items()
            if row is not None and self.lasted(pod, ip, since=since)
        }
        after = Reader()
        for _ in after.apply(self.bucket, revision=self.revision, order=self.chance):
            pass
        wanted = self.verdicts(after)
        assert None not in wanted.values(), "a commit leaves nobody without a verdict"
        for step in node.apply(self.bucket, revision=self.revision, order=self.chance):
            now = self.verdicts(node)
            for question in before:
                row = now[question]
                assert effect(row) in (effect(before[question]), effect(wanted[question])), (step, question)
        assert {question: effect(row) for question, row in self.verdicts(node).items()} == {
            question: effect(row) for question, row in wanted.items()
        }

    def check(self, node: Reader) -> None:
        """The node says what the Kubernetes API says."""
        for (name, direction, ip), row in self.verdicts(node).items():
            pod = self.world.cluster.pods[name]
            for protocol in PROTOCOLS:
                for port in PORTS:
                    wanted = allowed(
                        self.world.cluster,
                        pod=pod,
                        direction=DIRECTIONS[direction],
                        peer_ip=ip,
                        protocol=protocol,
                        port=port,
                    )
                    found = passes(row, protocol=protocol, port=port)
                    assert found == wanted, (name, direction, ip, protocol, port)


@functools.cache
def effect(row: Row | None) -> tuple[bool, ...]:
    """What a row lets through."""
    return tuple(passes(row, protocol=protocol, port=port) for protocol in PROTOCOLS for port in PORTS)


@settings(max_examples=400, deadline=None)
@given(seed=seeds, steps=st.integers(0, 12))
def test_compiled_policy_means_what_the_kubernetes_api_says(seed: int, steps: int) -> None:
    chance = random.Random(seed)
    cluster = Cluster(chance)
    cluster.publish()
    for _ in range(steps):
        cluster.world.change(*some_change(chance))
        cluster.publish()
    node = cluster.nodes[0]
    for _ in node.apply(cluster.bucket, revision=cluster.revision, order=chance):
        pass
    cluster.check(node)


@settings(max_examples=300, deadline=None)
@given(seed=seeds, steps=st.integers(1, 16))
@example(seed=437884, steps=11)
def test_no_step_of_a_publication_breaks_a_verdict(seed: int, steps: int) -> None:
    cluster = live(random.Random(seed), steps=steps)
    for node in cluster.nodes:
        cluster.check(node)


@settings(max_examples=100, deadline=None)
@given(seed=seeds, steps=st.integers(1, 16))
@example(seed=1277, steps=14)
def test_replicas_that_take_over_break_no_verdict(seed: int, steps: int) -> None:
    cluster = live(random.Random(seed), steps=steps, take_over=0.4)
    for node in cluster.nodes:
        cluster.check(node)


@settings(max_examples=200, deadline=None)
@given(seed=seeds, steps=st.integers(1, 16))
@example(seed=56, steps=16)
def test_the_published_state_depends_on_the_cluster_alone(seed: int, steps: int) -> None:
    """Whatever happened before, once settled the bucket holds what a first publication would."""
    cluster = live(random.Random(seed), steps=steps)
    fresh = Cluster(cluster.chance)
    fresh.world = cluster.world
    fresh.publish()
    commit, first = cluster.bucket.pop(COMMIT_KEY), fresh.bucket.pop(COMMIT_KEY)
    assert cluster.bucket == fresh.bucket
    assert commit == first
    cluster.bucket[COMMIT_KEY] = commit
    cluster.restart()
    assert not cluster.publish(), "a restart publishes nothing"


def live(chance: random.Random, *, steps: int, take_over: float = 0.0) -> Cluster:
    """Changes, publications, nodes that keep up or do not, restarts, lost connections; then peace."""
    cluster = Cluster(chance)
    for _ in range(steps):
        cluster.world.change(*some_change(chance))
        if chance.random() < take_over:
            cluster.take_over()
        if chance.random() < 0.15:
            cluster.restart()
        if chance.random() < 0.15:
            cluster.fails_after = chance.randrange(6)
        cluster.publish()
        for node in cluster.nodes:
            if chance.random() < 0.6:
                cluster.apply(node)
        cluster.now += chance.choice((0.0, 0.5, 2.0))
        if chance.random() < 0.3:
            cluster.publish()
    settle(cluster)
    return cluster


def settle(cluster: Cluster) -> None:
    """Time passes and the nodes apply, until there is nothing more to publish."""
    for _ in range(20):
        published = cluster.publish()
        for node in cluster.nodes:
            cluster.apply(node)
        cluster.now += 2.0
        if not published and not cluster.publish() and not cluster.planner.pending:
            for node in cluster.nodes:
                cluster.apply(node)
            return
    raise AssertionError("publications do not come to an end")
