"""What somebody else writes into the service's buckets and those that it reads."""

from __future__ import annotations

import json
from functools import partial

import pytest

from shared.bus import BucketStore, Bus
from shared.contract.base import ClassId, ContractError, Identity, Message, SetId
from shared.contract.identity import IdentityRecord, IpEntry, NodeRecord
from shared.contract.names import COMMIT_KEY, Bucket, ip_key
from shared.contract.policy import POLICY_TYPES, CidrClass, IdentityPolicy, PolicyStatus
from shared.kubernetes import Kubernetes
from tests.buckets import Followed, following, unwritten
from tests.service_process import Launch
from tests.services.policy.cluster import (
    OWN,
    WEB,
    change,
    committed,
    guard,
    guarded,
    record,
    status,
)
from tests.waiting import eventually

Identities = BucketStore[IdentityRecord]


async def test_a_status_that_somebody_else_changed_is_put_right_without_a_second_event(
    identities: Identities,
    bus: Bus,
    kubernetes: Kubernetes,
    start: Launch,
    published: Followed,
    statuses: Followed,
) -> None:
    await start()
    await guard(kubernetes, published)
    good = await eventually(lambda: status(statuses, "db"))
    store = await bus.bucket(Bucket.POLICY_STATUS, as_type=PolicyStatus)
    await store.put("NetworkPolicy.default.ghost", good)
    await store.delete("NetworkPolicy.default.db")
    await eventually(lambda: statuses.values == {"NetworkPolicy.default.db": good})


GARBAGE = (
    ("identity.257", b"not json"),
    ("identity.257", b'{"identity": 256, "peer_class": "00000000000000aa"}'),
    ("identity.9999", b"{}"),
    ("cidr.x", b'{"cidr": "not a prefix", "peer_class": "00000000000000aa"}'),
    ("cidr.10-0-0-0_8", b'{"cidr": "10.0.0.0/33", "peer_class": "00000000000000aa"}'),
    ("address.1-2-3-4", b'{"ip": "1.2.3", "identity": 256, "peer_class": "00000000000000aa"}'),
    ("set.00000000000000aa", b"[]"),
    ("commit", b"[]"),
    ("unheard.of", b"{}"),
)


@pytest.mark.parametrize(("key", "value"), GARBAGE, ids=[key for key, _ in GARBAGE])
async def test_garbage_in_the_bucket_is_put_right(
    identities: Identities,
    bus: Bus,
    kubernetes: Kubernetes,
    start: Launch,
    published: Followed,
    key: str,
    value: bytes,
) -> None:
    process = await start()
    await guard(kubernetes, published)
    await unwritten(bus, OWN, seconds=0.6)
    expected = {key: value for key, value in published.values.items() if key != COMMIT_KEY}
    store: BucketStore[Message] = await bus.bucket(Bucket.POLICY, as_type=POLICY_TYPES)
    session = await bus.session()
    garbage = json.loads((await session.request(store.subjects + key, value)).data)["seq"]

    async def healed() -> bool:
        try:
            commit = await store.get(COMMIT_KEY)
        except ContractError:
            return False
        return commit is not None and commit.revision > garbage

    await eventually(healed)
    await unwritten(bus, OWN, seconds=0.6)
    async with following(bus, Bucket.POLICY, as_type=POLICY_TYPES) as reader:
        await eventually(lambda: COMMIT_KEY in reader.values)
        assert {key: value for key, value in reader.values.items() if key != COMMIT_KEY} == expected
    await process.kill()
    restarted = await start()
    assert await restarted.ready()


async def test_entries_of_nobody_are_taken_away(
    identities: Identities, bus: Bus, kubernetes: Kubernetes, start: Launch, published: Followed
) -> None:
    await start("--grace=1")
    await guard(kubernetes, published)
    await unwritten(bus, OWN, seconds=0.6)
    expected = {key: value for key, value in published.values.items() if key != COMMIT_KEY}
    store: BucketStore[Message] = await bus.bucket(Bucket.POLICY, as_type=POLICY_TYPES)
    some = ClassId("00000000000000aa")
    ghost = IdentityPolicy(identity=Identity(999), peer_class=some, ingress=SetId("00000000000000bb"))
    await store.put_many(
        [("identity.999", ghost), ("cidr.10-9-0-0_16", CidrClass(cidr="10.9.0.0/16", peer_class=some))]
    )
    await eventually(
        lambda: (
            committed(published)
            and {key: value for key, value in published.values.items() if key != COMMIT_KEY} == expected
        )
    )


async def test_records_that_make_no_sense_stop_nothing(
    identities: Identities, bus: Bus, kubernetes: Kubernetes, start: Launch, published: Followed
) -> None:
    process = await start()
    await guard(kubernetes, published)
    ipcache = await bus.bucket(Bucket.IPCACHE, as_type=IpEntry)
    nodes = await bus.bucket(Bucket.NODES, as_type=NodeRecord)
    await ipcache.put("x", IpEntry(ip="nonsense", identity=WEB, node="node-1"))
    await ipcache.put(ip_key("10.0.0.6"), IpEntry(ip="10.0.0.7", identity=WEB, node="node-1"))
    await nodes.put("node-2", NodeRecord(name="node-2", pod_cidrs=("10.1.0.0/99",)))
    await identities.put("301", record(Identity(302), "db"))
    await identities.put("word", record(Identity(303), "db"))
    await change(kubernetes, port=81)
    await eventually(partial(guarded, published, 81))
    assert not {"identity.301", "identity.302", "identity.303"} & published.values.keys()
    assert await process.ready()
