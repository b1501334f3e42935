"""Following a bucket: nothing lost, nothing seen twice, whatever happens to NATS."""

from __future__ import annotations

import asyncio
import logging
import shutil
import time
from contextlib import aclosing
from functools import partial

import pytest

from shared.bus import Batch, BucketStore, Bus, BusError
from shared.contract.identity import Claim, NodeRecord
from shared.contract.names import Bucket
from tests.nats_server import NatsServer
from tests.shared.bus.reader import node, reading
from tests.waiting import PATIENCE_SECONDS, eventually


@pytest.fixture
async def nodes(bus: Bus) -> BucketStore[NodeRecord]:
    return await bus.bucket(Bucket.NODES, as_type=NodeRecord, create=True)


async def test_first_the_snapshot_then_each_change(nodes: BucketStore[NodeRecord]) -> None:
    await nodes.put_many([("a", node("a")), ("b", node("b")), ("c", node("c")), ("b", None)])
    async with aclosing(nodes.follow()) as batches:
        first = await anext(batches)
        assert first.snapshot
        assert first.caught_up
        assert first.revision == 4
        assert [entry.key for entry in first.entries] == ["a", "c"]
        await nodes.put("d", node("d"))
        second = await anext(batches)
        assert not second.snapshot
        assert [(entry.key, entry.value, entry.revision) for entry in second.entries] == [("d", node("d"), 5)]
        await nodes.delete("a")
        third = await anext(batches)
        assert [(entry.key, entry.value) for entry in third.entries] == [("a", None)]
        assert (third.revision, third.caught_up) == (6, True)


async def test_an_empty_bucket_is_an_empty_snapshot_at_once(nodes: BucketStore[NodeRecord]) -> None:
    began = time.monotonic()
    batch = await anext(nodes.follow())
    assert batch == Batch(snapshot=True, entries=(), revision=0, caught_up=True)
    assert time.monotonic() - began < 0.25


async def test_a_bucket_with_deletions_alone_is_an_empty_snapshot_at_its_revision(
    nodes: BucketStore[NodeRecord],
) -> None:
    await nodes.put("a", node("a"))
    await nodes.delete("a")
    batch = await anext(nodes.follow())
    assert (batch.snapshot, batch.entries, batch.revision) == (True, (), 2)


async def test_a_prefix_gives_only_its_keys_but_the_whole_revision(nodes: BucketStore[NodeRecord]) -> None:
    await nodes.put_many([("n1.a", node("1a")), ("n2.a", node("2a"))])
    async with aclosing(nodes.follow(prefix="n1.>")) as batches:
        first = await anext(batches)
        assert [entry.key for entry in first.entries] == ["n1.a"]
        assert first.revision == 2
        await nodes.put_many([("n2.b", node("2b")), ("n1.b", node("1b"))])
        second = await anext(batches)
        assert [(entry.key, entry.revision) for entry in second.entries] == [("n1.b", 4)]


async def test_values_that_cannot_be_read_are_reported_by_key_and_the_others_go_on(
    bus: Bus, nodes: BucketStore[NodeRecord]
) -> None:
    wrong = await bus.bucket(Bucket.NODES, as_type=Claim)
    claim = Claim(node="n", namespace="ns", pod="p", uid="", container_id="", ips=())
    await nodes.put("good", node("good"))
    await wrong.put("bad", claim)
    async with aclosing(nodes.follow()) as batches:
        first = await anext(batches)
        assert [entry.key for entry in first.entries] == ["good"]
        assert [(error.key, error.revision) for error in first.errors] == [("bad", 2)]
        await wrong.put("good", claim)
        second = await anext(batches)
        assert second.entries == ()
        (error,) = second.errors
        assert error.key == "good"
        assert "NodeRecord" in str(error)
        assert second.caught_up


async def test_follow_waits_for_the_owner_to_create_the_bucket(nats: NatsServer, bus: Bus) -> None:
    early = await bus.bucket(Bucket.NODES, as_type=NodeRecord)
    async with reading(early.follow()) as reader:
        owner = await nats.connect()
        store = await owner.bucket(Bucket.NODES, as_type=NodeRecord, create=True)
        await store.put("a", node("a"))
        await reader.until(lambda: reader.state == {"a": node("a")})
        await owner.close()


async def test_kill_and_restart_lose_and_double_nothing(
    nats: NatsServer, nodes: BucketStore[NodeRecord]
) -> None:
    other = await nats.connect()
    writer = await other.bucket(Bucket.NODES, as_type=NodeRecord)
    await nodes.put("before", node("before"))
    async with reading(nodes.follow()) as reader:
        await reader.until(lambda: reader.snapshots == 1)
        await nodes.put("1", node("1"))
        await reader.until(lambda: "1" in reader.state)
        for round_number in range(2, 5):
            await nats.kill()
            await nats.start()
            await other.session()
            await writer.put(str(round_number), node(str(round_number)))
            await reader.until(partial(reader.state.__contains__, str(round_number)))
        assert reader.snapshots == 1
        assert reader.changes == [("1", 2), ("2", 3), ("3", 4), ("4", 5)]
    await other.close()


async def test_changes_written_while_nats_dies_again_and_again_all_arrive_once(
    nats: NatsServer, nodes: BucketStore[NodeRecord]
) -> None:
    """A key is put again until acknowledged, so its revisions may repeat it; a revision never comes twice."""
    count = 300

    async def write() -> None:
        other = await nats.connect(request_seconds=0.5)
        writer = await other.bucket(Bucket.NODES, as_type=NodeRecord)
        for number in range(count):
            while True:
                try:
                    await writer.put(f"k{number}", node(str(number)))
                    break
                except BusError:
                    await asyncio.sleep(0.01)
        await other.close()

    async with reading(nodes.follow()) as reader:
        await reader.until(lambda: reader.snapshots == 1)
        writing = asyncio.create_task(write())
        for _ in range(3):
            known = min(len(reader.state), count - 1)
            await reader.until(partial(reader.knows_more_than, known))
            await nats.kill()
            await nats.start()
        await writing
        await reader.until(lambda: len(reader.state) == count)
        last_snapshot = max(number for number, batch in enumerate(reader.batches) if batch.snapshot)
        revisions = [
            entry.revision for batch in reader.batches[last_snapshot + 1 :] for entry in batch.entries
        ]
        assert revisions == sorted(set(revisions))
        assert reader.state == {f"k{number}": node(str(number)) for number in range(count)}


async def test_a_deletion_during_the_outage_is_seen(nats: NatsServer, nodes: BucketStore[NodeRecord]) -> None:
    await nodes.put_many([("a", node("a")), ("b", node("b"))])
    async with reading(nodes.follow()) as reader:
        await reader.until(lambda: len(reader.state) == 2)
        reconnecting = await nats.connect()
        store = await reconnecting.bucket(Bucket.NODES, as_type=NodeRecord)
        await nats.kill()
        await nats.start()
        await reconnecting.session()
        await store.delete("a")
        await reader.until(lambda: reader.state == {"b": node("b")})
        await reconnecting.close()


async def test_a_recreated_stream_is_a_new_snapshot(nats: NatsServer, nodes: BucketStore[NodeRecord]) -> None:
    await nodes.put_many([("old", node("old")), ("kept", node("kept"))])
    async with reading(nodes.follow()) as reader:
        await reader.until(lambda: len(reader.state) == 2)
        session = await nodes.bus.session()
        await session.request(f"$JS.API.STREAM.DELETE.{nodes.stream}", b"")
        await nodes.put_many([("kept", node("kept")), ("new", node("new")), ("newer", node("newer"))])
        await reader.until(lambda: set(reader.state) == {"kept", "new", "newer"})
        assert reader.snapshots >= 2


async def test_wiped_storage_is_a_new_snapshot(nats: NatsServer, nodes: BucketStore[NodeRecord]) -> None:
    await nodes.put_many([("old", node("old")), ("kept", node("kept"))])
    async with reading(nodes.follow()) as reader:
        await reader.until(lambda: len(reader.state) == 2)
        await nats.kill()
        nats.wipe()
        await nats.start()
        await nodes.put("new", node("new"))
        await reader.until(lambda: set(reader.state) == {"new"})


@pytest.mark.parametrize("written_since", [0, 1, 3])
async def test_a_server_that_lost_its_last_writes_is_a_new_snapshot(
    nats: NatsServer, nodes: BucketStore[NodeRecord], written_since: int
) -> None:
    """As after a power failure: the same stream, some sequences behind, then used again for other keys."""
    await nodes.put("kept", node("kept"))
    async with reading(nodes.follow()) as reader:
        await reader.until(lambda: reader.snapshots == 1)
        await nats.kill()
        backup = nats.store.with_name("backup")
        shutil.copytree(nats.store, backup)
        await nats.start()
        await nodes.put_many([("lost1", node("1")), ("lost2", node("2"))])
        await reader.until(lambda: len(reader.state) == 3)
        await nats.kill()
        nats.wipe()
        shutil.move(backup, nats.store)
        await nats.start()
        await nodes.put_many((f"new{number}", node("new")) for number in range(written_since))
        expected = {"kept", *(f"new{number}" for number in range(written_since))}
        await reader.until(lambda: set(reader.state) == expected)


async def test_a_frozen_server_is_noticed_and_reading_goes_on(
    nats: NatsServer, nodes: BucketStore[NodeRecord], caplog: pytest.LogCaptureFixture
) -> None:
    await nodes.put("a", node("a"))
    caplog.set_level(logging.INFO)
    async with reading(nodes.follow()) as reader:
        await reader.until(lambda: reader.snapshots == 1)
        nats.freeze()
        await eventually(lambda: "reading again from revision 1: NATS was silent" in caplog.text)
        nats.freeze(frozen=False)
        await nodes.bus.session()
        await nodes.put("b", node("b"))
        await reader.until(lambda: "b" in reader.state)
        assert reader.changes == [("b", 2)]


async def test_a_slow_reader_gets_everything_in_few_batches(nodes: BucketStore[NodeRecord]) -> None:
    async with aclosing(nodes.follow()) as batches:
        await anext(batches)
        count = 30_000
        await nodes.put_many((str(number), node(str(number))) for number in range(count))
        seen: list[int] = []
        calls = 0
        while len(seen) < count:
            batch = await asyncio.wait_for(anext(batches), PATIENCE_SECONDS)
            seen += [entry.revision for entry in batch.entries]
            calls += 1
        assert seen == list(range(1, count + 1))
        assert batch.caught_up
        assert calls < count / 10


async def test_compaction_hides_no_deletion_from_a_reader(
    nats: NatsServer, nodes: BucketStore[NodeRecord]
) -> None:
    await nodes.put_many((f"k{number}", node("n")) for number in range(10))
    async with reading(nodes.follow()) as reader:
        await reader.until(lambda: len(reader.state) == 10)
        await nodes.put_many((f"k{number}", None) for number in range(10))
        await nodes.compact(older_than_seconds=0)
        await nodes.put("last", node("last"))
        await reader.until(lambda: set(reader.state) == {"last"})


async def test_a_snapshot_of_twenty_thousand_keys_costs_less_than_a_second(
    nodes: BucketStore[NodeRecord],
) -> None:
    count = 20_000
    await nodes.put_many((str(number), node(f"node-{number}")) for number in range(count))
    seconds: list[float] = []
    for _ in range(3):
        # Processor time, because other tests may keep the machine busy.
        began = time.process_time()
        batch = await anext(nodes.follow())
        seconds.append(time.process_time() - began)
        assert len(batch.entries) == count
    assert min(seconds) < 1.0
