"""What the service keeps in its status bucket though nobody tells it."""

from __future__ import annotations

from functools import partial

from shared.bus import BucketStore, Bus
from shared.contract.identity import IdentityRecord
from shared.contract.names import Bucket
from shared.contract.policy import PolicyStatus
from shared.kubernetes import Kubernetes
from tests.buckets import Followed
from tests.service_process import Launch
from tests.services.policy.cluster import guard, status
from tests.waiting import eventually


async def test_a_status_that_vanishes_without_a_word_is_published_again(
    identities: BucketStore[IdentityRecord],
    bus: Bus,
    kubernetes: Kubernetes,
    start: Launch,
    published: Followed,
    statuses: Followed,
) -> None:
    """No follower hears of a message that is deleted from the stream itself."""
    await start("--verify-every=1")
    await guard(kubernetes, published)
    await eventually(lambda: status(statuses, "db"))
    store = await bus.bucket(Bucket.POLICY_STATUS, as_type=PolicyStatus)
    key = "NetworkPolicy.default.db"
    entry = await store.get(key)
    assert entry is not None
    session = await bus.session()
    await session.request(f"$JS.API.STREAM.MSG.DELETE.{store.stream}", b'{"seq": %d}' % entry.revision)
    assert await store.get(key) is None
    await eventually(partial(store.get, key))
