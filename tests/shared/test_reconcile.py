"""Many events become few runs, and the last event is always followed by one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from shared.reconcile import Reconciler
from tests.waiting import eventually


class Work:
    """Counts runs, and fails the first ``failures`` of them."""

    def __init__(self, *, failures: int = 0, seconds: float = 0.0) -> None:
        self.times: list[float] = []
        self.running = 0
        self.overlapped = False
        self._failures = failures
        self._seconds = seconds

    async def __call__(self) -> None:
        self.times.append(asyncio.get_running_loop().time())
        self.running += 1
        self.overlapped |= self.running > 1
        try:
            await asyncio.sleep(self._seconds)
            if len(self.times) <= self._failures:
                raise OSError("not yet")
        finally:
            self.running -= 1


@asynccontextmanager
async def reconciling(work: Work, **times: Any) -> AsyncIterator[Reconciler]:
    reconciler = Reconciler("test", work, **times)
    task = asyncio.create_task(reconciler.run())
    try:
        yield reconciler
    finally:
        task.cancel()
        await asyncio.wait([task])


async def test_the_first_event_runs_at_once() -> None:
    work = Work()
    async with reconciling(work, interval=10, resync=None) as reconciler:
        await asyncio.sleep(0)
        began = asyncio.get_running_loop().time()
        reconciler.trigger()
        await eventually(lambda: work.times, seconds=1)
        assert work.times[0] - began < 0.5


async def test_without_an_event_nothing_runs() -> None:
    work = Work()
    async with reconciling(work, interval=0.01, resync=None):
        await asyncio.sleep(0.2)
    assert not work.times


async def test_a_storm_of_events_is_few_runs_that_never_overlap() -> None:
    work = Work(seconds=0.02)
    async with reconciling(work, interval=0.1, resync=None) as reconciler:
        for _ in range(500):
            reconciler.trigger()
            await asyncio.sleep(0.001)
        storm = len(work.times)
        await asyncio.sleep(0.3)
    assert 2 <= storm <= 20
    assert not work.overlapped
    assert min(b - a for a, b in zip(work.times, work.times[1:], strict=False)) >= 0.095


async def test_an_event_during_a_run_is_followed_by_another_run() -> None:
    work = Work(seconds=0.1)
    async with reconciling(work, interval=0.01, resync=None) as reconciler:
        reconciler.trigger()
        await eventually(lambda: work.running)
        reconciler.trigger()
        await eventually(lambda: len(work.times) == 2)
        await asyncio.sleep(0.3)
    assert len(work.times) == 2


async def test_a_failed_run_is_tried_again_until_it_succeeds() -> None:
    results: list[Exception | None] = []
    work = Work(failures=3)
    async with reconciling(
        work, interval=0.01, resync=None, retry=(0.05, 0.1), on_result=results.append
    ) as reconciler:
        reconciler.trigger()
        await eventually(lambda: results and results[-1] is None)
        assert reconciler.failures == 0
    assert [type(result) for result in results] == [OSError, OSError, OSError, type(None)]
    assert work.times[-1] - work.times[0] >= 0.025 + 0.05 + 0.05


async def test_everything_is_reconciled_now_and_then_without_events() -> None:
    work = Work()
    async with reconciling(work, interval=0.01, resync=0.05):
        await eventually(lambda: len(work.times) >= 3)
