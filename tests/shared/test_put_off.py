"""What is put off to a later time: one timer for all of it, and nothing before its time."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from shared.reconcile import PutOff, Reconciler
from tests.waiting import eventually


class Runs:
    """A reconciler that notes when it runs."""

    def __init__(self) -> None:
        self.times: list[float] = []
        self.reconciler = Reconciler("test", self._work, interval=0.001, resync=None)

    async def _work(self) -> None:
        self.times.append(asyncio.get_running_loop().time())


@pytest.fixture
async def runs() -> AsyncIterator[Runs]:
    made = Runs()
    task = asyncio.create_task(made.reconciler.run())
    yield made
    task.cancel()
    await asyncio.wait([task])


async def test_many_timers_are_one_and_the_earliest_counts(runs: Runs) -> None:
    now = asyncio.get_running_loop().time()
    for number in range(50):
        runs.reconciler.trigger_at(now + 0.2 + number / 1000)
    runs.reconciler.trigger_at(now + 0.1)
    await eventually(lambda: runs.times)
    assert runs.times[0] >= now + 0.1
    runs.reconciler.trigger_at(now + 0.4)
    await eventually(lambda: len(runs.times) > 1)
    assert runs.times[1] >= now + 0.4
    assert len(runs.times) == 2


async def test_keys_come_up_when_they_are_due(runs: Runs) -> None:
    loop = asyncio.get_running_loop()
    keys: PutOff[str] = PutOff(runs.reconciler, seconds=0.1)
    began = loop.time()
    keys.put_off({"a", "b"})
    assert keys.take() == set()
    await eventually(lambda: runs.times)
    keys.put_off({"c", "a"})
    assert keys.take() == {"a", "b"}
    assert runs.times[0] >= began + 0.1
    await eventually(lambda: keys.take() == {"c"})
