"""A bucket that was lost is not taken for one from which everything was deleted."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator

from shared.bus import Batch, Bus, Entry, patiently
from shared.contract.identity import NodeRecord
from shared.contract.names import Bucket
from tests.buckets import lose
from tests.shared.bus.reader import node, reading
from tests.shared.virtual_time import in_virtual_time, pass_time
from tests.waiting import eventually


async def test_what_a_lost_bucket_held_is_kept_until_its_writer_has_had_time(bus: Bus) -> None:
    nodes = await bus.bucket(Bucket.NODES, as_type=NodeRecord, create=True)
    await nodes.put_many((name, node(name)) for name in "abc")
    async with reading(patiently(nodes.follow(), seconds=3.0)) as reader:
        await eventually(lambda: set(reader.state) == set("abc"))
        await lose(bus, Bucket.NODES)
        await eventually(lambda: len(reader.batches) == 2)
        assert set(reader.state) == set("abc")
        await nodes.put("b", node("b, again"))
        await eventually(lambda: reader.state["b"].name == "b, again")
        assert set(reader.state) == set("abc")
        await eventually(lambda: set(reader.state) == {"b"})
        assert reader.snapshots == 1


async def test_what_is_deleted_by_name_goes_at_once(bus: Bus) -> None:
    nodes = await bus.bucket(Bucket.NODES, as_type=NodeRecord, create=True)
    await nodes.put_many((name, node(name)) for name in "ab")
    async with reading(patiently(nodes.follow(), seconds=60.0)) as reader:
        await eventually(lambda: set(reader.state) == set("ab"))
        await nodes.delete("a")
        await eventually(lambda: set(reader.state) == {"b"})
        await lose(bus, Bucket.NODES)
        await eventually(lambda: len(reader.batches) == 3)
        await nodes.put("b", node("b"))
        await nodes.delete("b")
        await eventually(lambda: not reader.state)


async def batches_of(coming: asyncio.Queue[Batch[NodeRecord]]) -> AsyncGenerator[Batch[NodeRecord], None]:
    """What is put into a queue, for ever."""
    while True:
        yield await coming.get()


@in_virtual_time
async def test_an_empty_bucket_takes_nothing_back_until_its_writer_speaks() -> None:
    coming: asyncio.Queue[Batch[NodeRecord]] = asyncio.Queue()
    async with reading(patiently(batches_of(coming), seconds=60.0)) as reader:
        coming.put_nowait(batch(*"abc", snapshot=True))
        coming.put_nowait(batch(snapshot=True))
        await pass_time(86_400)
        assert (set(reader.state), len(reader.batches)) == (set("abc"), 2)
        coming.put_nowait(batch("b", snapshot=False))
        await pass_time(59)
        assert set(reader.state) == set("abc")
        await pass_time(2)
        assert set(reader.state) == {"b"}


@in_virtual_time
async def test_an_empty_bucket_that_is_seen_again_half_filled_takes_nothing_back_at_once() -> None:
    coming: asyncio.Queue[Batch[NodeRecord]] = asyncio.Queue()
    async with reading(patiently(batches_of(coming), seconds=60.0)) as reader:
        coming.put_nowait(batch(*"abc", snapshot=True))
        coming.put_nowait(batch(snapshot=True))
        await pass_time(86_400)
        coming.put_nowait(batch("b", snapshot=True))
        await pass_time(59)
        assert set(reader.state) == set("abc")
        await pass_time(2)
        assert set(reader.state) == {"b"}


@in_virtual_time
async def test_what_was_deleted_and_put_anew_in_one_batch_is_known_and_goes_with_its_bucket() -> None:
    coming: asyncio.Queue[Batch[NodeRecord]] = asyncio.Queue()
    async with reading(patiently(batches_of(coming), seconds=60.0)) as reader:
        coming.put_nowait(batch(*"ab", snapshot=True))
        entries: tuple[Entry[NodeRecord], ...] = (Entry("a", None, 3), Entry("a", node("a"), 4))
        coming.put_nowait(Batch(snapshot=False, entries=entries, revision=4, caught_up=True))
        coming.put_nowait(batch("b", snapshot=True))
        await pass_time(61)
        assert set(reader.state) == {"b"}


def batch(*names: str, snapshot: bool) -> Batch[NodeRecord]:
    entries = tuple(Entry(name, node(name), number) for number, name in enumerate(names, 1))
    return Batch(snapshot=snapshot, entries=entries, revision=len(names), caught_up=True)


async def test_a_reader_that_ends_leaves_nothing_behind(bus: Bus) -> None:
    nodes = await bus.bucket(Bucket.NODES, as_type=NodeRecord, create=True)
    async with reading(patiently(nodes.follow(), seconds=60.0)) as reader:
        await eventually(lambda: reader.batches)
    await eventually(lambda: not [task for task in asyncio.all_tasks() if "anext" in repr(task)])
