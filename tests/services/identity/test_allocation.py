"""The ledger on a real NATS server, with several replicas at once and crashes between any two writes."""

from __future__ import annotations

import asyncio
import random
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager

import pytest

from services.identity.allocation import IdentityAllocator
from services.identity.errors import NumbersExhausted
from services.identity.labels import LabelSet
from services.identity.ledger import LabelsAllocation, NumberHold, labels_key, number_key, open_ledger
from shared.bus import BucketStore, Bus, BusError, Mirror
from shared.contract.base import Identity, Message
from tests.nats_server import NatsServer
from tests.waiting import eventually


def label_set(name: str) -> LabelSet:
    return LabelSet(namespace="default", namespace_labels={}, service_account="", pod_labels={"app": name})


class Replica:
    """One replica's view of the ledger."""

    def __init__(self, ledger: BucketStore[Message], *, last: int) -> None:
        self.ledger = ledger
        self.mirror: Mirror[Message] = Mirror()
        self.allocator = IdentityAllocator(
            ledger, self.mirror, is_taken=lambda identity, labels: False, last=last
        )

    async def follow(self) -> None:
        async for batch in self.ledger.follow():
            self.mirror.absorb(batch)

    async def acquire(self, name: str) -> Identity:
        labels = label_set(name)
        return await self.allocator.acquire(labels.digest(), labels)

    async def release(self, name: str) -> None:
        """What the sweep does with a label set whose grace time is over."""
        allocation = self.mirror.entry(labels_key(label_set(name).digest()))
        if allocation is None or not isinstance(allocation.value, LabelsAllocation):
            return
        hold = self.mirror.entry(number_key(allocation.value.id))
        await self.allocator.remove(allocation)
        if hold is not None:
            await self.allocator.remove(hold)


@asynccontextmanager
async def replica(bus: Bus, *, last: int = (1 << 24) - 1) -> AsyncIterator[Replica]:
    made = Replica(await open_ledger(bus), last=last)
    task = asyncio.create_task(made.follow())
    try:
        await eventually(lambda: made.mirror.complete)
        yield made
    finally:
        task.cancel()
        await asyncio.wait([task])


async def test_a_label_set_keeps_its_number_and_others_get_others(bus: Bus) -> None:
    async with replica(bus) as one:
        numbers = [await one.acquire(name) for name in "abcabc"]
    assert numbers[:3] == numbers[3:]
    assert len(set(numbers)) == 3
    assert all(256 <= number < 1 << 24 for number in numbers)
    async with replica(bus) as reborn:
        assert [await reborn.acquire(name) for name in "abc"] == numbers[:3]


async def test_the_same_numbers_come_again_in_a_cluster_that_lost_its_ledger(bus: Bus) -> None:
    async with replica(bus) as one:
        before = [await one.acquire(name) for name in "abc"]
        for name in "abc":
            await one.release(name)
        assert [await one.acquire(name) for name in "cba"] == before[::-1]


async def test_racing_replicas_agree(nats: NatsServer) -> None:
    names = [f"app-{number}" for number in range(60)]
    async with AsyncExitStack() as stack:
        replicas = []
        for _ in range(3):
            bus = await nats.connect()
            stack.push_async_callback(bus.close)
            # So few numbers that nearly every candidate collides.
            replicas.append(await stack.enter_async_context(replica(bus, last=256 + 79)))
        results = await asyncio.gather(
            *(
                asyncio.gather(*(one.acquire(name) for name in random.sample(names, len(names))))
                for one in replicas
            )
        )
        assert len(results) == 3
        final = [[await one.acquire(name) for name in names] for one in replicas]
        assert final[0] == final[1] == final[2]
        assert len(set(final[0])) == len(names)
        assert all(256 <= number <= 256 + 79 for number in final[0])


@pytest.mark.parametrize("seed", range(4))
async def test_no_number_has_two_label_sets_while_replicas_acquire_release_and_die(
    nats: NatsServer, seed: int
) -> None:
    """Whatever a replica was told last about labels in use stays true for it until those are released."""
    chance = random.Random(seed)
    names = [f"app-{number}" for number in range(6)]
    locks = {name: asyncio.Lock() for name in names}

    async def live(bus: Bus, rounds: int, one: Replica) -> None:
        for _ in range(rounds):
            name = chance.choice(names)
            try:
                if chance.random() < 0.5:
                    async with asyncio.timeout(chance.choice((0.001, 0.002, 5))):
                        await one.acquire(name)
                else:
                    async with locks[name]:
                        await one.release(name)
            except (TimeoutError, BusError):
                continue

    async with AsyncExitStack() as stack:
        replicas = []
        for _ in range(3):
            bus = await nats.connect()
            stack.push_async_callback(bus.close)
            replicas.append((bus, await stack.enter_async_context(replica(bus, last=256 + 7))))
        await asyncio.gather(*(live(bus, 60, one) for bus, one in replicas))
        numbers = await asyncio.gather(
            *(asyncio.gather(*(one.acquire(name) for name in names)) for _, one in replicas)
        )
        assert numbers[0] == numbers[1] == numbers[2]
        assert len(set(numbers[0])) == len(names)
        ledger = replicas[0][1].ledger
        for name, number in zip(names, numbers[0], strict=True):
            allocation = await ledger.get(labels_key(label_set(name).digest()))
            hold = await ledger.get(number_key(number))
            assert allocation is not None
            assert allocation.value == LabelsAllocation(id=number)
            assert hold is not None
            assert hold.value == NumberHold(labels=label_set(name).digest(), confirmed=True)


async def test_an_acquisition_that_died_half_way_is_taken_up_again(bus: Bus) -> None:
    async with replica(bus) as one:
        labels = label_set("a").digest()
        await one.ledger.create(number_key(Identity(4242)), NumberHold(labels=labels))
        await one.ledger.create(labels_key(labels), LabelsAllocation(id=Identity(4242)))
        assert await one.acquire("a") == 4242
        hold = await one.ledger.get(number_key(Identity(4242)))
        assert hold is not None
        assert isinstance(hold.value, NumberHold)
        assert hold.value.confirmed


async def test_an_allocation_whose_number_belongs_to_others_is_not_believed(bus: Bus) -> None:
    async with replica(bus) as one:
        other = await one.acquire("other")
        await one.ledger.create(labels_key(label_set("a").digest()), LabelsAllocation(id=other))
        assert await one.acquire("a") != other
        assert await one.acquire("other") == other


async def test_being_marked_unused_is_taken_back_by_acquiring(bus: Bus) -> None:
    async with replica(bus) as one:
        number = await one.acquire("a")
        labels = label_set("a").digest()
        await one.allocator.mark_unused(labels, since="2026-01-01T00:00:00+00:00")
        marked = await one.ledger.get(labels_key(labels))
        assert marked is not None
        assert one.allocator.known(labels) is None
        assert await one.acquire("a") == number
        with pytest.raises(BusError):
            await one.allocator.remove(marked)


async def test_when_all_numbers_are_held_it_says_so(bus: Bus) -> None:
    async with replica(bus, last=257) as one:
        await one.acquire("a")
        await one.acquire("b")
        with pytest.raises(NumbersExhausted, match="app=c"):
            await one.acquire("c")
