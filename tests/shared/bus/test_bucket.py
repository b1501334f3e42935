"""Buckets: values are stored typed, in order, once, and every failure has a name."""

from __future__ import annotations

import asyncio
import time

import pytest

from shared.bus import (
    BadKey,
    BucketMissing,
    BucketStore,
    Bus,
    BusUnavailable,
    EntryError,
    KeyExists,
    RevisionConflict,
    TooLarge,
)
from shared.contract.base import ClassId, ContractError, Identity, Message
from shared.contract.identity import NodeRecord
from shared.contract.names import Bucket
from shared.contract.policy import Commit, IdentityPolicy
from shared.contract.reserved import FIRST_ALLOCATED
from tests.buckets import lose
from tests.nats_server import NatsServer


def node(name: str, zone: str = "") -> NodeRecord:
    return NodeRecord(name=name, zone=zone)


async def test_a_value_is_read_back_with_the_revision_of_its_put(bus: Bus) -> None:
    nodes = await bus.bucket(Bucket.NODES, as_type=NodeRecord, create=True)
    first = await nodes.put("a", node("a"))
    second = await nodes.put("a", node("a", "z1"))
    entry = await nodes.get("a")
    assert second == first + 1
    assert entry is not None
    assert (entry.value, entry.revision) == (node("a", "z1"), second)
    assert await nodes.last_revision() == second


async def test_a_key_without_value_and_a_deleted_key_are_none(bus: Bus) -> None:
    nodes = await bus.bucket(Bucket.NODES, as_type=NodeRecord, create=True)
    await nodes.put("a", node("a"))
    await nodes.delete("a")
    assert await nodes.get("a") is None
    assert await nodes.get("b") is None


async def test_only_one_of_many_creators_wins(bus: Bus) -> None:
    nodes = await bus.bucket(Bucket.NODES, as_type=NodeRecord, create=True)
    results = await asyncio.gather(
        *(nodes.create("a", node("a", str(number))) for number in range(10)), return_exceptions=True
    )
    assert sum(isinstance(result, int) for result in results) == 1
    assert sum(isinstance(result, KeyExists) for result in results) == 9


async def test_a_deleted_key_can_be_created_again(bus: Bus) -> None:
    nodes = await bus.bucket(Bucket.NODES, as_type=NodeRecord, create=True)
    await nodes.create("a", node("a"))
    await nodes.delete("a")
    await nodes.create("a", node("a", "again"))
    with pytest.raises(KeyExists, match=r"nodes a: has a value since revision 3"):
        await nodes.create("a", node("a", "once more"))


async def test_an_update_needs_the_revision_that_was_read(bus: Bus) -> None:
    nodes = await bus.bucket(Bucket.NODES, as_type=NodeRecord, create=True)
    revision = await nodes.put("a", node("a"))
    await nodes.update("a", node("a", "mine"), revision=revision)
    with pytest.raises(RevisionConflict, match="nodes a"):
        await nodes.update("a", node("a", "late"), revision=revision)


@pytest.mark.parametrize("key", ["", ".", "a.", ".a", "a..b", "a b", "a>", "*", "ä", "a\r\nPUB x 0"])
async def test_keys_that_nats_cannot_hold_are_refused_by_name(bus: Bus, key: str) -> None:
    nodes = await bus.bucket(Bucket.NODES, as_type=NodeRecord, create=True)
    with pytest.raises(BadKey, match="nodes"):
        await nodes.put(key, node("a"))
    with pytest.raises(BadKey, match="nodes"):
        await nodes.put_many([(key, node("a"))])


async def test_put_many_keeps_the_order_and_returns_the_last_revision(bus: Bus) -> None:
    nodes = await bus.bucket(Bucket.NODES, as_type=NodeRecord, create=True)
    count = 5000
    last = await nodes.put_many((f"k{number}", node(f"n{number}")) for number in range(count))
    assert last == count
    batch = await anext(nodes.follow())
    assert [entry.value for entry in batch.entries] == [node(f"n{number}") for number in range(count)]
    assert [entry.revision for entry in batch.entries] == list(range(1, count + 1))


async def test_put_many_deletes_with_none_and_of_nothing_is_the_present_revision(bus: Bus) -> None:
    nodes = await bus.bucket(Bucket.NODES, as_type=NodeRecord, create=True)
    await nodes.put_many([("a", node("a")), ("b", node("b"))])
    last = await nodes.put_many([("a", None)])
    assert await nodes.get("a") is None
    assert await nodes.put_many([]) == last == 3


async def test_the_item_that_closes_a_publication_is_not_stored_when_one_before_it_was_refused(
    bus: Bus,
) -> None:
    nodes = await bus.bucket(Bucket.NODES, as_type=NodeRecord, create=True)
    too_large = node("x" * 2_000_000)
    with pytest.raises(TooLarge, match=r"nodes\.b"):
        await nodes.put_many([("a", node("a")), ("b", too_large), ("commit", node("commit"))])
    assert await nodes.get("commit") is None


async def test_put_many_after_a_revision_stores_nothing_once_somebody_else_has(bus: Bus) -> None:
    nodes = await bus.bucket(Bucket.NODES, as_type=NodeRecord, create=True)
    known = await nodes.put_many([("a", node("a")), ("commit", node("1"))], after=0)
    assert known == 2
    assert await nodes.put_many([("a", None), ("b", node("b")), ("commit", node("2"))], after=2) == 5
    with pytest.raises(RevisionConflict, match="nodes c"):
        await nodes.put_many([("c", node("c")), ("d", node("d")), ("commit", node("3"))], after=2)
    assert await nodes.last_revision() == 5


async def test_of_many_publications_after_one_revision_only_one_is_closed(bus: Bus) -> None:
    nodes = await bus.bucket(Bucket.NODES, as_type=NodeRecord, create=True)

    async def publish(writer: int) -> int:
        items = [(f"{writer}-{number}", node("n")) for number in range(30)]
        return await nodes.put_many([*items, ("commit", node(str(writer)))], after=0)

    results = await asyncio.gather(*map(publish, range(5)), return_exceptions=True)
    assert sum(isinstance(result, RevisionConflict) for result in results) == 4
    (winner,) = (number for number, result in enumerate(results) if isinstance(result, int))
    batch = await anext(nodes.follow())
    assert {entry.key.partition("-")[0] for entry in batch.entries} == {str(winner), "commit"}


async def test_put_many_after_a_revision_goes_into_no_other_bucket_of_the_name(bus: Bus) -> None:
    nodes = await bus.bucket(Bucket.NODES, as_type=NodeRecord, create=True)
    known = await nodes.put_many([("a", node("a")), ("commit", node("c"))])
    await lose(bus, Bucket.NODES)
    with pytest.raises(BucketMissing):
        await nodes.put_many([("commit", node("c"))], after=known)
    await nodes.ensure()
    with pytest.raises(RevisionConflict):
        await nodes.put_many([("commit", node("c"))], after=known)
    assert await nodes.last_revision() == 0


async def test_a_deletion_may_need_the_revision_that_was_read(bus: Bus) -> None:
    nodes = await bus.bucket(Bucket.NODES, as_type=NodeRecord, create=True)
    old = await nodes.put("a", node("a"))
    new = await nodes.put("a", node("a", "changed"))
    with pytest.raises(RevisionConflict, match="nodes a"):
        await nodes.delete("a", revision=old)
    assert await nodes.delete("a", revision=new) == new + 1
    assert await nodes.get("a") is None


async def test_a_pipelined_put_that_fails_names_its_key(bus: Bus) -> None:
    nodes = await bus.bucket(Bucket.NODES, as_type=NodeRecord)
    with pytest.raises(BucketMissing, match="nodes a"):
        await nodes.put_many([("a", node("a")), ("b", node("b"))])


async def test_an_unreadable_value_names_type_and_field(bus: Bus) -> None:
    nodes = await bus.bucket(Bucket.NODES, as_type=NodeRecord, create=True)
    wrong = await bus.bucket(Bucket.NODES, as_type=Commit)
    await wrong.put("a", Commit(time="", policies=0, identities=0, sets=0, rows=0))
    with pytest.raises(ContractError, match=r"NodeRecord.*name"):
        await nodes.get("a")


async def test_the_first_token_of_a_key_gives_the_type(bus: Bus) -> None:
    types: dict[str, type[Message]] = {"identity": IdentityPolicy, "commit": Commit}
    store: BucketStore[Message] = await bus.bucket(Bucket.POLICY, as_type=types, create=True)
    item = IdentityPolicy(identity=Identity(FIRST_ALLOCATED), peer_class=ClassId("0" * 16))
    commit = Commit(time="now", policies=1, identities=1, sets=0, rows=0)
    await store.put_many([("identity.256", item), ("other.1", item), ("commit", commit)])
    batch = await anext(store.follow())
    assert {entry.key: entry.value for entry in batch.entries} == {"identity.256": item, "commit": commit}
    (error,) = batch.errors
    assert isinstance(error, EntryError)
    assert error.key == "other.1"


async def test_a_put_while_nats_is_away_fails_by_name_in_time(nats: NatsServer, bus: Bus) -> None:
    nodes = await bus.bucket(Bucket.NODES, as_type=NodeRecord, create=True)
    await nats.kill()
    began = time.monotonic()
    with pytest.raises(BusUnavailable):
        await nodes.put("a", node("a"))
    with pytest.raises(BusUnavailable):
        await nodes.put_many([("a", node("a"))])
    assert time.monotonic() - began < 2 * bus.settings.request_seconds + 1


async def test_a_put_to_a_frozen_nats_fails_by_name_in_time(nats: NatsServer, bus: Bus) -> None:
    nodes = await bus.bucket(Bucket.NODES, as_type=NodeRecord, create=True)
    nats.freeze()
    try:
        began = time.monotonic()
        with pytest.raises(BusUnavailable, match=r"nodes"):
            await nodes.put_many((str(number), node("a" * 1000)) for number in range(20_000))
        assert time.monotonic() - began < bus.settings.request_seconds + 4
    finally:
        nats.freeze(frozen=False)


async def test_the_owner_creates_a_bucket_again_that_has_vanished(nats: NatsServer, bus: Bus) -> None:
    nodes = await bus.bucket(Bucket.NODES, as_type=NodeRecord, create=True)
    await nodes.put("a", node("a"))
    await nats.kill()
    nats.wipe()
    await nats.start()
    assert await nodes.put("b", node("b")) == 1


async def test_a_reader_is_told_that_the_bucket_is_missing(bus: Bus) -> None:
    nodes = await bus.bucket(Bucket.NODES, as_type=NodeRecord)
    with pytest.raises(BucketMissing, match="nodes a"):
        await nodes.put("a", node("a"))
    with pytest.raises(BucketMissing):
        await nodes.last_revision()


async def test_compaction_removes_old_markers_and_nothing_else(bus: Bus) -> None:
    nodes = await bus.bucket(Bucket.NODES, as_type=NodeRecord, create=True)
    await nodes.put_many((f"k{number}", node("n")) for number in range(20))
    await nodes.put_many((f"k{number}", None) for number in range(15))
    await nodes.put("k0", node("again"))
    assert await nodes.compact() == 0
    assert await nodes.compact(older_than_seconds=0) == 14
    await nodes.delete("k19")
    assert await nodes.compact(older_than_seconds=0) == 0, "the last message keeps the sequence"
    batch = await anext(nodes.follow())
    assert sorted(entry.key for entry in batch.entries) == ["k0", "k15", "k16", "k17", "k18"]
    info = await nodes.info(await bus.session())
    assert info.state.messages == 6
