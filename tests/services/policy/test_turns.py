"""Who may publish at once: the replica that made the last commit, and nobody for having written a status."""

from __future__ import annotations

import asyncio

from shared.bus import BucketStore, Bus
from shared.contract.base import Message
from shared.contract.identity import IdentityRecord
from shared.contract.names import Bucket
from shared.contract.policy import POLICY_TYPES, IdentityPolicy, PolicyStatus
from shared.kubernetes import Kubernetes
from tests.buckets import Followed, unwritten
from tests.service_process import Launch
from tests.services.policy.cluster import DB, OWN, guard, guarded, status
from tests.waiting import eventually

LEAST_PATIENCE = 0.5


async def test_a_replica_that_wrote_a_status_has_not_taken_the_turn(
    identities: BucketStore[IdentityRecord],
    bus: Bus,
    kubernetes: Kubernetes,
    start: Launch,
    published: Followed,
    statuses: Followed,
) -> None:
    first = await start()
    await guard(kubernetes, published)
    await unwritten(bus, OWN, seconds=1.5)
    await first.kill()
    await start()
    store = await bus.bucket(Bucket.POLICY_STATUS, as_type=PolicyStatus)
    await store.delete("NetworkPolicy.default.db")
    await eventually(lambda: statuses.history[-1][1] is None)
    await eventually(lambda: status(statuses, "db"))
    await unwritten(bus, OWN, seconds=1.5)

    policy: BucketStore[Message] = await bus.bucket(Bucket.POLICY, as_type=POLICY_TYPES)
    good = published.values[f"identity.{DB}"]
    began = asyncio.get_running_loop().time()
    await policy.put(f"identity.{DB}", IdentityPolicy(identity=DB, peer_class=good.peer_class))
    await eventually(lambda: not guarded(published))
    await eventually(lambda: guarded(published))
    assert asyncio.get_running_loop().time() - began >= LEAST_PATIENCE
