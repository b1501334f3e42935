"""One controller's to-do list: keys to reconcile, one at a time, again after a failure.

A key that is added while it waits is done once; one added while it is worked on is done again. Failures are
retried after 20 ms, doubling to 10 s; losing a race (``Outdated``, ``Gone``) is no failure worth a warning.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from .cache import Key
from .errors import ApiRefused, ApiUnreachable, Gone, Outdated

_log = logging.getLogger(__name__)

_FIRST_DELAY = 0.02
_LAST_DELAY = 10.0


class Worker:
    """Calls ``reconcile`` for every added key, in the order in which they were added."""

    def __init__(self, name: str, reconcile: Callable[[Key], Awaitable[None]]) -> None:
        self.name = name
        self._reconcile = reconcile
        self._waiting: dict[Key, None] = {}
        self._signal = asyncio.Event()
        self._failures: dict[Key, int] = {}
        self._later: dict[Key, asyncio.TimerHandle] = {}

    def add(self, key: Key) -> None:
        """Reconcile ``key`` soon."""
        self._waiting[key] = None
        self._signal.set()

    def add_later(self, key: Key, *, seconds: float) -> None:
        """Reconcile ``key`` after ``seconds``, or earlier if that was asked for."""
        loop = asyncio.get_running_loop()
        due = self._later.get(key)
        if due is not None and due.when() <= loop.time() + seconds:
            return
        if due is not None:
            due.cancel()
        self._later[key] = loop.call_later(seconds, self._come_due, key)

    def _come_due(self, key: Key) -> None:
        del self._later[key]
        self.add(key)

    async def run(self) -> None:
        """Work until cancelled."""
        while True:
            await self._signal.wait()
            while self._waiting:
                key = next(iter(self._waiting))
                del self._waiting[key]
                await self._attempt(key)
            self._signal.clear()

    async def _attempt(self, key: Key) -> None:
        try:
            await self._reconcile(key)
        except (ApiRefused, ApiUnreachable) as failed:
            level = logging.DEBUG if isinstance(failed, (Outdated, Gone)) else logging.WARNING
            delay = self._retry(key)
            _log.log(level, "%s %s: %s; trying again in %.2f s", self.name, "/".join(key), failed, delay)
        except Exception:  # one object that breaks its controller must not stop the others
            delay = self._retry(key)
            _log.exception("%s %s failed; trying again in %.2f s", self.name, "/".join(key), delay)
        else:
            self._failures.pop(key, None)

    def _retry(self, key: Key) -> float:
        failures = self._failures.get(key, 0)
        self._failures[key] = failures + 1
        delay: float = min(_FIRST_DELAY * 2 ** min(failures, 16), _LAST_DELAY)
        self.add_later(key, seconds=delay)
        return delay
