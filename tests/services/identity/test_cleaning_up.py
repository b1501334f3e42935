"""What is gone leaves nothing behind: complaints, refused label sets, numbers that policy still names."""

from __future__ import annotations

import asyncio

from services.identity.allocation import IdentityAllocator
from services.identity.desired import REFUSED_ADDRESS
from services.identity.inputs import UNREADABLE_CLAIM, Inputs
from services.identity.ledger import open_ledger
from services.identity.named import NamedNumbers
from services.identity.numbering import NOT_ALLOCATED, Numbering
from shared.bus import Batch, BucketStore, Bus, EntryError, Mirror
from shared.contract.base import ClassId, Identity, Message
from shared.contract.identity import IdentityRecord
from shared.contract.names import Bucket
from shared.contract.policy import POLICY_TYPES, IdentityPolicy
from shared.kubernetes import ObjectBatch, ObjectChange
from shared.runtime.intake import REFUSED
from tests.services.identity.samples import Cluster, pod_object
from tests.services.identity.test_release import GRACE, LABELS, ORPHANED, Sweeper, sweeper
from tests.waiting import eventually

__all__ = ["sweeper"]


def pods(*names: str, snapshot: bool = True) -> ObjectBatch:
    """Pods of which one that is called ``bad`` cannot be read."""
    changes = []
    for name in names:
        data = pod_object(name)
        if name == "bad":
            data["spec"]["nodeName"] = 7
        changes.append(ObjectChange("default", name, data, "1"))
    return ObjectBatch(snapshot=snapshot, objects=tuple(changes))


def test_a_refused_object_that_a_snapshot_does_not_name_is_no_complaint_any_more() -> None:
    cluster = Cluster()
    inputs = Inputs(cluster.desired, notices=cluster.notices)
    inputs.pods.take(pods("bad", "good"))
    assert cluster.notices.count(REFUSED) == 1
    inputs.pods.take(pods("good"))
    assert cluster.notices.count(REFUSED) == 0


def test_nor_is_an_unreadable_claim() -> None:
    cluster = Cluster()
    inputs = Inputs(cluster.desired, notices=cluster.notices)
    error = EntryError("nonsense", key="node-1.default.p", revision=1)
    inputs.take_claims(Batch(snapshot=True, entries=(), revision=1, caught_up=True, errors=(error,)))
    assert cluster.notices.count(UNREADABLE_CLAIM) == 1
    inputs.take_claims(Batch(snapshot=True, entries=(), revision=2, caught_up=True))
    assert cluster.notices.count(UNREADABLE_CLAIM) == 0


def test_nor_an_address_of_a_pod_that_is_gone() -> None:
    cluster = Cluster()
    cluster.pod("p", ips=("127.0.0.1",))
    cluster.settle()
    assert cluster.notices.count(REFUSED_ADDRESS) == 1
    cluster.no_pod("p")
    cluster.settle()
    assert cluster.notices.count(REFUSED_ADDRESS) == 0


async def test_a_label_set_that_got_no_number_is_forgotten_with_its_pods(bus: Bus) -> None:
    cluster, ledger = Cluster(), await open_ledger(bus)
    mirror: Mirror[Message] = Mirror()
    allocator = IdentityAllocator(ledger, mirror, is_taken=lambda identity, labels: True, first=256, last=257)
    numbering = Numbering(
        cluster.desired, allocator, ledger=mirror, identities=Mirror(), notices=cluster.notices
    )
    cluster.pod("p")
    cluster.desired.settle()
    await numbering.complete()
    assert (len(numbering.refused), cluster.notices.count(NOT_ALLOCATED)) == (1, 1)
    cluster.no_pod("p")
    cluster.desired.settle()
    await numbering.complete()
    assert (len(numbering.refused), cluster.notices.count(NOT_ALLOCATED)) == (0, 0)


async def test_a_number_is_held_until_policy_does_not_name_it(sweeper: Sweeper, bus: Bus) -> None:
    policy: BucketStore[Message] = await bus.bucket(Bucket.POLICY, as_type=POLICY_TYPES)
    store = await bus.bucket(Bucket.IDENTITIES, as_type=IdentityRecord)
    number = await sweeper.allocator.acquire(LABELS.digest(), LABELS)
    record = LABELS.record(number, cluster="test")
    revision = await store.put(str(number), record)
    sweeper.mirrors[Bucket.IDENTITIES].wrote([(str(number), record)], revision=revision)
    some = IdentityPolicy(identity=number, peer_class=ClassId("0" * 15 + "a"))
    await policy.put(f"identity.{number}", some)
    other = Identity(number + 1)
    await policy.put(f"identity.{other}", some)
    await eventually(lambda: other in sweeper.named)
    await sweeper.sweep()
    # The record goes first: that is what makes the policy service let go of the number.
    assert await sweeper.sweep(later=2 * GRACE) == {"number"}
    assert await store.get(str(number)) is None
    assert await sweeper.sweep(later=ORPHANED) == {"number"}
    assert await sweeper.sweep(later=2 * ORPHANED) == {"number"}
    assert await sweeper.allocator.acquire(LABELS.digest(), LABELS) == number, "its own labels may have it"
    await sweeper.sweep()
    assert await sweeper.sweep(later=2 * GRACE) == {"number"}
    await policy.delete(f"identity.{number}")
    await eventually(lambda: number not in sweeper.named)
    await sweeper.sweep()
    assert await sweeper.sweep(later=2 * ORPHANED) == set()


async def test_nothing_is_freed_while_nobody_knows_what_policy_names(sweeper: Sweeper, bus: Bus) -> None:
    sweeper.named = NamedNumbers()
    sweeper.release = sweeper.restarted(await bus.bucket(Bucket.IDENTITIES, as_type=IdentityRecord))
    await sweeper.allocator.acquire(LABELS.digest(), LABELS)
    await sweeper.sweep()
    await sweeper.sweep(later=2 * GRACE)
    await sweeper.sweep()
    assert await sweeper.sweep(later=2 * ORPHANED) == {"number"}
    policy: BucketStore[Message] = await bus.bucket(Bucket.POLICY, as_type=POLICY_TYPES)
    task = asyncio.create_task(sweeper.named.follow(policy))
    await eventually(lambda: Identity(1) not in sweeper.named)
    assert await sweeper.sweep() == set()
    task.cancel()
    await asyncio.wait([task])
