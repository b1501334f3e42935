"""A reader of a followed bucket."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager

from shared.bus import Batch
from shared.contract.identity import NodeRecord
from tests.waiting import PATIENCE_SECONDS


def node(name: str) -> NodeRecord:
    return NodeRecord(name=name)


class Reader:
    """Follows in a task and keeps what it was given, as a service would."""

    def __init__(self, batches: AsyncGenerator[Batch[NodeRecord], None]) -> None:
        self.state: dict[str, NodeRecord] = {}
        self.batches: list[Batch[NodeRecord]] = []
        self._source = batches
        self._changed = asyncio.Condition()

    async def run(self) -> None:
        async with aclosing(self._source) as source:
            async for batch in source:
                async with self._changed:
                    if batch.snapshot:
                        self.state.clear()
                    for entry in batch.entries:
                        if entry.value is None:
                            self.state.pop(entry.key, None)
                        else:
                            self.state[entry.key] = entry.value
                    self.batches.append(batch)
                    self._changed.notify_all()

    @property
    def snapshots(self) -> int:
        return sum(batch.snapshot for batch in self.batches)

    @property
    def changes(self) -> list[tuple[str, int]]:
        """All single changes so far, those of snapshots not counted."""
        return [
            (entry.key, entry.revision)
            for batch in self.batches
            if not batch.snapshot
            for entry in batch.entries
        ]

    def knows_more_than(self, count: int) -> bool:
        return len(self.state) > count

    async def until(self, check: Callable[[], object]) -> None:
        async with asyncio.timeout(PATIENCE_SECONDS), self._changed:
            await self._changed.wait_for(check)


@asynccontextmanager
async def reading(batches: AsyncGenerator[Batch[NodeRecord], None]) -> AsyncIterator[Reader]:
    """A reader at work."""
    reader = Reader(batches)
    task = asyncio.create_task(reader.run())
    try:
        yield reader
        assert not task.done(), task
    finally:
        task.cancel()
        await asyncio.wait([task])
