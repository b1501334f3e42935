"""Many events become few runs, and the last event is always followed by one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from shared.reconcile import Reconciler
from tests.shared.virtual_time import in_virtual_time, pass_time

LONG = 86_400


class Work:
    """Notes when it runs, and fails the first ``failures`` times."""

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
            await pass_time(self._seconds)
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
        assert not task.done(), task
    finally:
        task.cancel()
        await asyncio.wait([task])


@in_virtual_time
async def test_the_first_event_runs_at_once() -> None:
    work = Work()
    async with reconciling(work, interval=10, resync=None) as reconciler:
        await pass_time(1)
        reconciler.trigger()
        await pass_time(LONG)
    assert work.times == [1]


@in_virtual_time
async def test_without_an_event_nothing_runs() -> None:
    work = Work()
    async with reconciling(work, interval=0.01, resync=None):
        await pass_time(LONG)
    assert not work.times


@in_virtual_time
async def test_a_storm_of_events_is_few_runs_that_never_overlap() -> None:
    work = Work(seconds=0.02)
    async with reconciling(work, interval=0.1, resync=None) as reconciler:
        for _ in range(500):
            reconciler.trigger()
            await pass_time(0.001)
        await pass_time(LONG)
    assert work.times == pytest.approx([0.0, 0.1, 0.2, 0.3, 0.4, 0.5])
    assert not work.overlapped


@in_virtual_time
async def test_an_event_during_a_run_is_followed_by_another_run() -> None:
    work = Work(seconds=0.1)
    async with reconciling(work, interval=0.01, resync=None) as reconciler:
        reconciler.trigger()
        await pass_time(0.05)
        assert work.running
        reconciler.trigger()
        await pass_time(LONG)
    assert work.times == pytest.approx([0.0, 0.1])


@in_virtual_time
async def test_a_failed_run_is_tried_again_until_it_succeeds() -> None:
    results: list[Exception | None] = []
    work = Work(failures=3)
    async with reconciling(
        work, interval=0.01, resync=None, retry=(0.05, 0.1), on_result=results.append
    ) as reconciler:
        reconciler.trigger()
        await pass_time(LONG)
        assert reconciler.failures == 0
    assert [type(result) for result in results] == [OSError, OSError, OSError, type(None)]
    waits = [after - before for before, after in zip(work.times, work.times[1:], strict=False)]
    for wait, most in zip(waits, (0.05, 0.1, 0.1), strict=True):
        assert most / 2 <= wait <= most


@in_virtual_time
async def test_everything_is_reconciled_now_and_then_without_events() -> None:
    work = Work()
    async with reconciling(work, interval=1, resync=60):
        await pass_time(3600)
    # The hour holds that many minutes of 54 to 66 s, each with the interval behind it.
    assert 3600 // 67 <= len(work.times) <= 3600 // 55 + 1
