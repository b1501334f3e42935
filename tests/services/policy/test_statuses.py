"""Statuses are compared where something was touched, and that finds all that differs."""

from __future__ import annotations

import random
from typing import Any, NamedTuple

import pytest

from services.policy.compiler import Compiler
from services.policy.inputs import Inputs
from services.policy.networkpolicy import policy_ref
from services.policy.statuses import Statuses, key_of
from shared.bus import Batch, Bus, Entry
from shared.contract.base import Identity, SetId
from shared.contract.identity import IdentityRecord
from shared.contract.node import Realised, UnfitSet
from shared.contract.policy import PolicyRef, PolicyStatus
from shared.kubernetes import ObjectBatch, ObjectChange
from shared.labels import EVERY_LABEL
from shared.runtime.notices import Notices
from shared.runtime.upkeep import Room

NAMES = ("a", "b", "c", "d")
APPS = ("web", "db", "cache")
NODES = ("node-1", "node-2")


class Replica:
    """What a policy service knows, its own bucket, and a chance that decides what happens next."""

    def __init__(self, bus: Bus, seed: int) -> None:
        self.chance = random.Random(seed)
        self.compiler = Compiler()
        self.inputs = Inputs(self.compiler, selectable=EVERY_LABEL)
        self.statuses = Statuses(self.compiler, self.inputs, room=Room(bus, Notices()))
        self.statuses.take(Batch(snapshot=True, entries=(), revision=0, caught_up=True))
        self.bucket: dict[str, PolicyStatus] = {}
        self.unheard: list[Entry[PolicyStatus]] = []
        self.revision = 0
        self.version = 0

    # -- what may happen

    def policy(self) -> None:
        name = self.chance.choice(NAMES)
        self.version += 1
        body: dict[str, Any] | None = None
        if self.chance.random() < 0.8:
            port = self.chance.choice([80, 81, 70_000])
            body = {
                "metadata": {
                    "name": name,
                    "namespace": "shop",
                    "uid": self.chance.choice(["one", "two"]),
                    "resourceVersion": str(self.version),
                },
                "spec": {
                    "podSelector": {"matchLabels": {"app": self.chance.choice(APPS)}},
                    "ingress": [{"ports": [{"port": port}]}],
                },
            }
        change = ObjectChange("shop", name, body, str(self.version))
        self.inputs.take_policies(ObjectBatch(snapshot=self.chance.random() < 0.1, objects=(change,)))

    def identity(self) -> None:
        number = Identity(256 + self.chance.randrange(6))
        record = IdentityRecord(
            id=number, namespace="shop", pod_labels={"app": self.chance.choice(APPS), "n": str(number)}
        )
        self.inputs.take_identities(batch(str(number), record if self.chance.random() < 0.6 else None))

    def node(self) -> None:
        name, policies = self.chance.choice(NODES), self.chance.sample(NAMES, k=self.chance.randrange(3))
        refs = tuple(ref(policy) for policy in policies)
        unfit = (UnfitSet(id=SetId("0" * 15 + "a"), policies=refs, reason="no room"),) if refs else ()
        record = Realised(node=name, time="now", instance="x", enforcing=True, unfit_sets=unfit)
        self.inputs.take_realised(batch(name, record if self.chance.random() < 0.9 else None))

    def somebody_writes(self) -> None:
        if not self.bucket:
            return
        key = self.chance.choice(sorted(self.bucket))
        written = PolicyStatus(policy=ref("other"), uid="", resource_version="", accepted=True)
        value = written if self.chance.random() < 0.5 else None
        self.store([(key, value)])
        self.hear()

    def publish(self) -> None:
        """As the service does, with a commit before half of the time; some attempts fail half-way."""
        self.inputs.restore(self.statuses.published)
        noted = self.statuses.note()
        happened = self.chance.random()
        if happened < 0.3:
            self.chance.choice([self.policy, self.identity, self.node])()
        if self.chance.random() < 0.5:
            self.version += 1
        changes = self.statuses.changes(noted, revision=self.version)
        if happened > 0.8:
            return
        self.store(changes.items)
        self.statuses.wrote(changes, revision=self.revision)
        self.statuses.settled()

    def hear(self) -> None:
        """All that was stored comes back, as it does from a followed bucket."""
        entries, self.unheard = tuple(self.unheard), []
        self.statuses.take(Batch(snapshot=False, entries=entries, revision=self.revision, caught_up=True))

    def store(self, items: Any) -> None:
        for key, value in items:
            self.revision += 1
            self.unheard.append(Entry(key, value, self.revision))
            if value is None:
                self.bucket.pop(key, None)
            else:
                self.bucket[key] = value

    # -- what must come of it

    def left_out(self) -> list[str]:
        """Keys that differ from what they are to say, once all that was touched is written."""
        self.inputs.restore(self.statuses.published)
        noted = self.statuses.note()
        changes = self.statuses.changes(noted, revision=self.version)
        self.store(changes.items)
        self.statuses.wrote(changes, revision=self.revision)
        self.statuses.settled()
        wanted = {key_of(ref): self.facts(ref) for ref in (*self.compiler.policies, *self.inputs.refused)}
        held = {key: facts_of(status) for key, status in self.bucket.items()}
        return [key for key in wanted.keys() | held.keys() if wanted.get(key) != held.get(key)]

    def facts(self, ref: PolicyRef) -> Facts:
        policy, refused = self.compiler.policies.get(ref), self.inputs.refused.get(ref)
        version = refused.resource_version if refused is not None else ""
        if policy is None:
            return Facts(version, False, "", 0, ())
        return Facts(
            version or policy.resource_version,
            refused is None,
            policy.resource_version,
            self.compiler.subjects(policy),
            self.inputs.problems(ref),
        )


class Facts(NamedTuple):
    """What a status is to say."""

    version: str
    accepted: bool
    in_force: str
    subjects: int
    problems: tuple[str, ...]


def facts_of(status: PolicyStatus) -> Facts:
    in_force = status.in_force.resource_version if status.in_force is not None else ""
    return Facts(status.resource_version, status.accepted, in_force, status.subjects, status.problems)


def batch(key: str, value: Any, *, revision: int = 1) -> Batch[Any]:
    return Batch(snapshot=False, entries=(Entry(key, value, revision),), revision=revision, caught_up=True)


def ref(name: str) -> PolicyRef:
    return policy_ref(namespace="shop", name=name)


@pytest.mark.parametrize("seeds", [range(start, start + 40) for start in (0, 40, 80)], ids=str)
async def test_nothing_that_differs_is_left_out(bus: Bus, seeds: range) -> None:
    for seed in seeds:
        replica = Replica(bus, seed)
        steps = [replica.policy, replica.identity, replica.node, replica.somebody_writes, replica.hear]
        for step in range(60):
            replica.chance.choice([*steps, replica.publish])()
            if step % 10 == 9:
                assert replica.left_out() == [], f"seed {seed}, step {step}"


async def test_what_nobody_touched_is_not_looked_at(bus: Bus) -> None:
    replica = Replica(bus, 1)
    while len(replica.bucket) < len(NAMES):
        replica.policy()
        replica.left_out()
    assert replica.statuses.note() == {}
    replica.identity()
    assert len(replica.statuses.note()) < len(NAMES)
