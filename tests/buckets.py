"""Looking at buckets from outside, as any reader does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from typing import Any

from shared.bus import Bus, BusError
from shared.contract.base import Message
from shared.contract.names import Bucket


class Followed:
    """What a follower of a bucket has seen."""

    def __init__(self) -> None:
        self.values: dict[str, Any] = {}
        """Live keys."""
        self.history: list[tuple[str, Message | None]] = []
        """Every change in order, None a deletion."""


@asynccontextmanager
async def following(bus: Bus, bucket: Bucket, *, as_type: Any) -> AsyncIterator[Followed]:
    """The bucket's contents, kept up to date while the context lasts."""
    store = await bus.bucket(bucket, as_type=as_type, create=True)
    followed = Followed()

    async def read() -> None:
        async for batch in store.follow():
            if batch.snapshot:
                followed.values.clear()
            for entry in batch.entries:
                followed.history.append((entry.key, entry.value))
                if entry.value is None:
                    followed.values.pop(entry.key, None)
                else:
                    followed.values[entry.key] = entry.value

    task = asyncio.create_task(read())
    try:
        yield followed
    finally:
        task.cancel()
        await asyncio.wait([task])


async def revisions(bus: Bus, buckets: Sequence[Bucket]) -> dict[Bucket, int]:
    """The last revision of each bucket: equal twice means that nothing was written in between."""

    async def one(bucket: Bucket) -> int:
        for _ in range(200):
            try:
                return await (await bus.bucket(bucket, as_type=Message)).last_revision()
            except BusError:
                await asyncio.sleep(0.1)
        raise AssertionError(f"{bucket} cannot be read")

    return {bucket: await one(bucket) for bucket in buckets}


async def unwritten(bus: Bus, buckets: Sequence[Bucket], *, seconds: float) -> dict[Bucket, int]:
    """The buckets' revisions once nothing was written to any for a while."""
    before = await revisions(bus, buckets)
    while True:
        await asyncio.sleep(seconds)
        after = await revisions(bus, buckets)
        if after == before:
            return after
        before = after


async def lose(bus: Bus, *buckets: Bucket) -> None:
    """Delete the streams behind buckets, as an operator's mistake would."""
    session = await bus.session()
    for bucket in buckets:
        await session.request(f"$JS.API.STREAM.DELETE.KV_{bucket.of(bus.cluster)}", b"")
