"""Giving numbers back on a real NATS server: unused ones, what a crash left, and the alarm before the end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta

import pytest

from services.identity.allocation import IdentityAllocator
from services.identity.labels import LabelSet
from services.identity.ledger import LabelsAllocation, NumberHold, labels_key, number_key, open_ledger
from services.identity.named import NamedNumbers
from services.identity.occupancy import Occupancy
from services.identity.publication import PUBLISHED
from services.identity.release import NumberRelease
from shared.bus import Batch, BucketStore, Bus, Mirror
from shared.contract.base import Identity, Message
from shared.contract.identity import EndpointRecord, IdentityRecord
from shared.contract.names import Bucket
from shared.contract.policy import POLICY_TYPES
from shared.runtime.notices import Notices
from tests.services.identity.samples import Cluster
from tests.waiting import eventually

LABELS = LabelSet(namespace="default", namespace_labels={}, service_account="", pod_labels={"app": "web"})
GRACE = timedelta(minutes=10)
ORPHANED = timedelta(minutes=1)


class Sweeper:
    """One replica's release of numbers with a clock that the test moves."""

    def __init__(self, bus: Bus, ledger: BucketStore[Message], identities: object) -> None:
        self.time = datetime(2026, 1, 1, tzinfo=UTC)
        self.cluster = Cluster()
        self.ledger = ledger
        self.ledger_mirror: Mirror[Message] = Mirror()
        self.mirrors: dict[Bucket, Mirror[Message]] = {bucket: Mirror() for bucket in PUBLISHED}
        self.allocator = IdentityAllocator(
            ledger, self.ledger_mirror, is_taken=lambda identity, labels: False
        )
        self.named = NamedNumbers()
        self.release = self.restarted(identities)

    def restarted(self, identities: object) -> NumberRelease:
        return NumberRelease(
            self.cluster.desired,
            self.allocator,
            ledger=self.ledger_mirror,
            mirrors=self.mirrors,
            named=self.named,
            identities=identities,  # type: ignore[arg-type] # the fixture's store
            release_after=GRACE,
            orphaned_after=ORPHANED,
            now=lambda: self.time,
        )

    async def sweep(self, *, later: timedelta = timedelta()) -> set[str]:
        """Sweep after that time; the kinds of keys left in the ledger."""
        self.time += later
        await self.release.sweep()
        return {key.partition(".")[0] for key in self.ledger_mirror.live_keys()}


@pytest.fixture
async def sweeper(bus: Bus) -> AsyncIterator[Sweeper]:
    ledger = await open_ledger(bus)
    identities = await bus.bucket(Bucket.IDENTITIES, as_type=IdentityRecord, create=True)
    made = Sweeper(bus, ledger, identities)

    async def follow() -> None:
        async for batch in ledger.follow():
            made.ledger_mirror.absorb(batch)

    policy: BucketStore[Message] = await bus.bucket(Bucket.POLICY, as_type=POLICY_TYPES, create=True)
    tasks = [asyncio.create_task(follow()), asyncio.create_task(made.named.follow(policy))]
    await eventually(lambda: made.ledger_mirror.complete and Identity(1) not in made.named)
    yield made
    for task in tasks:
        task.cancel()
    await asyncio.wait(tasks)


async def test_an_unused_number_goes_after_the_grace_time(sweeper: Sweeper, bus: Bus) -> None:
    await sweeper.allocator.acquire(LABELS.digest(), LABELS)
    assert await sweeper.sweep() == {"labels", "number"}
    assert await sweeper.sweep(later=GRACE - timedelta(seconds=1)) == {"labels", "number"}
    # The mark is in the ledger: a replica that starts now goes on counting.
    sweeper.release = sweeper.restarted(await bus.bucket(Bucket.IDENTITIES, as_type=IdentityRecord))
    assert await sweeper.sweep(later=timedelta(seconds=2)) == set()


async def test_a_number_that_something_published_still_has_is_kept(sweeper: Sweeper) -> None:
    number = await sweeper.allocator.acquire(LABELS.digest(), LABELS)
    user = EndpointRecord(node="n", namespace="default", name="p", uid="u", identity=number)
    sweeper.mirrors[Bucket.ENDPOINTS].wrote([("n.default.p", user)], revision=1)
    await sweeper.sweep()
    assert await sweeper.sweep(later=2 * GRACE) == {"labels", "number"}
    sweeper.mirrors[Bucket.ENDPOINTS].wrote([("n.default.p", None)], revision=2)
    assert await sweeper.sweep() == set()


async def test_a_hold_left_by_a_crash_goes_and_one_that_is_being_completed_stays(sweeper: Sweeper) -> None:
    key = number_key(Identity(999))
    revision = await sweeper.ledger.create(key, NumberHold(labels=LABELS.digest()))
    await eventually(lambda: sweeper.ledger_mirror.entry(key))
    await sweeper.sweep()
    revision = await sweeper.ledger.update(key, NumberHold(labels=LABELS.digest()), revision=revision)
    await eventually(lambda: (entry := sweeper.ledger_mirror.entry(key)) and entry.revision == revision)
    assert await sweeper.sweep(later=2 * ORPHANED) == {"number"}
    assert await sweeper.sweep(later=ORPHANED) == set()


async def test_a_record_that_no_number_stands_behind_goes(sweeper: Sweeper, bus: Bus) -> None:
    store = await bus.bucket(Bucket.IDENTITIES, as_type=IdentityRecord)
    record = LABELS.record(Identity(777), cluster="default")
    sweeper.mirrors[Bucket.IDENTITIES].wrote([("777", record)], revision=await store.put("777", record))
    await sweeper.sweep()
    assert await store.get("777") is not None
    await sweeper.sweep(later=ORPHANED)
    assert await store.get("777") is None


async def test_labels_taken_up_again_at_the_last_moment_are_not_released(sweeper: Sweeper) -> None:
    number = await sweeper.allocator.acquire(LABELS.digest(), LABELS)
    await sweeper.sweep()
    stale = sweeper.ledger_mirror.entry(labels_key(LABELS.digest()))
    assert stale is not None
    other = IdentityAllocator(sweeper.ledger, Mirror(), is_taken=lambda identity, labels: False)
    assert await other.acquire(LABELS.digest(), LABELS) == number
    # This replica's view is older than the other's acquisition.
    sweeper.ledger_mirror.absorb(
        Batch(snapshot=True, entries=(stale,), revision=stale.revision, caught_up=True)
    )
    await sweeper.sweep(later=2 * GRACE)
    held = await sweeper.ledger.get(labels_key(LABELS.digest()))
    assert held is not None
    assert held.value == LabelsAllocation(id=number)


def test_occupancy_alarms_come_once_at_50_and_80_percent_and_end_with_hysteresis() -> None:
    notices = Notices()
    occupancy = Occupancy(capacity=100, notices=notices)
    told = []
    for held in (49, 50, 51, 79, 80, 90, 78, 80, 74, 80, 10, 50):
        occupancy.observe(held)
        told.append([notice.message.split(" %")[0][-2:] for notice in notices.drain()])
    assert told == [[], ["50"], [], [], ["80"], [], [], [], [], ["80"], [], ["50"]]
