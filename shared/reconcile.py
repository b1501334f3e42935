"""Bounded-frequency reconciliation: many events, few runs.

The first event runs at once; while events keep coming, runs start at most every ``interval`` seconds, and one
run follows the last event always. A failed run is tried again with jittered backoff; without events the state
is reconciled every ``resync`` seconds all the same. Runs never overlap. What is put off to a later time has
one timer, whoever puts off what: it is set for the earliest.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Iterable
from typing import Generic, TypeVar

log = logging.getLogger(__name__)

K = TypeVar("K")


class Reconciler:
    """Runs ``work`` when triggered; :meth:`run` is the task that does it."""

    def __init__(
        self,
        name: str,
        work: Callable[[], Awaitable[None]],
        *,
        interval: float = 0.1,
        resync: float | None = 60.0,
        retry: tuple[float, float] = (0.2, 10.0),
        on_result: Callable[[Exception | None], None] | None = None,
    ) -> None:
        """Times are in seconds; ``retry`` is the least and the greatest wait after failures.

        ``on_result`` hears of each run's end, to report health: None after success.
        """
        self.name = name
        self.runs = 0
        self.failures = 0
        """Failed runs since the last that succeeded."""
        self._work = work
        self._interval = interval
        self._resync = resync
        self._retry = retry
        self._on_result = on_result
        self._wanted = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None

    def trigger(self) -> None:
        """Something changed: reconcile soon."""
        self._wanted.set()

    def trigger_at(self, due: float) -> None:
        """Reconcile at this time of the loop's clock, though nothing else happens."""
        if self._timer is not None:
            if self._timer.when() <= due:
                return
            self._timer.cancel()
        self._timer = asyncio.get_running_loop().call_at(due, self._due)

    def _due(self) -> None:
        self._timer = None
        self.trigger()

    async def run(self) -> None:
        """Reconcile on each trigger until cancelled. A run that raises is tried again; nothing is raised."""
        loop = asyncio.get_running_loop()
        while True:
            await self._wait(self._delay_for_next())
            self._wanted.clear()
            began = loop.time()
            self.runs += 1
            try:
                await self._work()
            except Exception as error:
                self.failures += 1
                log.warning("%s: attempt %d failed: %s", self.name, self.failures, error, exc_info=True)
                if self._on_result is not None:
                    self._on_result(error)
                await asyncio.sleep(self._backoff())
                self._wanted.set()
            else:
                self.failures = 0
                if self._on_result is not None:
                    self._on_result(None)
                await asyncio.sleep(max(0.0, began + self._interval - loop.time()))

    def _delay_for_next(self) -> float | None:
        return None if self._resync is None else self._resync * random.uniform(0.9, 1.1)  # noqa: S311 - jitter

    def _backoff(self) -> float:
        least, greatest = self._retry
        delay = min(least * 2.0 ** min(self.failures - 1, 30), greatest)
        return delay * random.uniform(0.5, 1)  # noqa: S311 - jitter

    async def _wait(self, seconds: float | None) -> None:
        try:
            async with asyncio.timeout(seconds):
                await self._wanted.wait()
        except TimeoutError:
            log.debug("%s: periodic resync", self.name)


class PutOff(Generic[K]):
    """Keys that are to be looked at again after ``seconds``, when ``reconciler`` runs then."""

    def __init__(self, reconciler: Reconciler, *, seconds: float) -> None:
        self._reconciler = reconciler
        self._seconds = seconds
        self._due: dict[K, float] = {}

    def put_off(self, keys: Iterable[K]) -> None:
        """Those that are put off already stay due when they were."""
        due = asyncio.get_running_loop().time() + self._seconds
        for key in keys:
            self._due.setdefault(key, due)
            self._reconciler.trigger_at(self._due[key])

    def take(self) -> set[K]:
        """Those that are due; they are not put off any more."""
        now = asyncio.get_running_loop().time()
        due = {key for key, time in self._due.items() if time <= now}
        for key in due:
            del self._due[key]
        if self._due:
            self._reconciler.trigger_at(min(self._due.values()))
        return due
