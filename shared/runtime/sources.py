"""What a service reads, and whether it has read all of it.

Each watched resource and each followed bucket is a *part* with a task of its own, which gives its batches to
a function in their order. A part is read when its first snapshot was taken. Until every part is
(:attr:`Sources.complete`) nothing may be concluded from what is missing: so a service that starts publishes
nothing and deletes nothing for want of knowledge. Parts show in the service's health.

A watch that cannot go on leaves what is known as it is. Meanwhile, and until what was missed has come, the
service is not :attr:`~Sources.current`: what another replica publishes may be newer, so it undoes nothing.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable
from typing import Protocol, TypeVar

from shared.bus import Batch
from shared.contract.base import M
from shared.kubernetes import Kubernetes, ObjectBatch, Resource, watch
from shared.runtime.runtime import Runtime

log = logging.getLogger(__name__)


class _Snapshot(Protocol):
    @property
    def snapshot(self) -> bool: ...


B = TypeVar("B", bound=_Snapshot)

_UNREAD = "not read yet"
_CALM_SECONDS = 1.0
"""From the end of the last trouble until what was missed is believed to have come."""


class Sources:
    """The inputs of one service.

    ``on_change`` is called after each batch that was taken, and when the service has become current again.
    """

    def __init__(self, runtime: Runtime, *, on_change: Callable[[], None]) -> None:
        self._runtime = runtime
        self._on_change = on_change
        self._unread: set[str] = set()
        self._parts: set[str] = set()
        self._troubled: set[str] = set()
        self._calm: asyncio.TimerHandle | None = None

    @property
    def complete(self) -> bool:
        """Every part has been read."""
        return not self._unread

    @property
    def current(self) -> bool:
        """Every part has been read and follows what happens."""
        return self.complete and not self._troubled and self._calm is None

    def watch(self, api: Kubernetes, resource: Resource, take: Callable[[ObjectBatch], object]) -> None:
        """Read a resource of the Kubernetes API; the part has the resource's name."""
        part = str(resource)
        self._start(part, watch(api, resource, on_problem=self._problem_of(part)), take)

    def follow(
        self, bucket: str, batches: AsyncIterator[Batch[M]], take: Callable[[Batch[M]], object]
    ) -> None:
        """Read a bucket; the part is called ``bucket <name>``, as there are resources of the same name."""
        self._start(f"bucket {bucket}", batches, take)

    def _start(self, part: str, batches: AsyncIterator[B], take: Callable[[B], object]) -> None:
        if part in self._parts:
            raise ValueError(f"{part} is read already: two parts of one name would complete each other")
        self._parts.add(part)
        self._unread.add(part)
        self._runtime.health.set_not_ready(part, _UNREAD)
        self._runtime.start(f"read {part}", self._read(part, batches, take))

    async def _read(self, part: str, batches: AsyncIterator[B], take: Callable[[B], object]) -> None:
        async for batch in batches:
            take(batch)
            if batch.snapshot and part in self._unread:
                self._unread.discard(part)
                self._runtime.health.set_ready(part)
                log.info("read %s", part)
            self._on_change()

    def _problem_of(self, part: str) -> Callable[[str], None]:
        def tell(problem: str) -> None:
            self._note_trouble(part, bool(problem))
            if problem:
                self._runtime.health.set_not_ready(part, problem)
            elif part in self._unread:
                self._runtime.health.set_not_ready(part, _UNREAD)
            else:
                self._runtime.health.set_ready(part)

        return tell

    def _note_trouble(self, part: str, troubled: bool) -> None:
        if troubled:
            self._troubled.add(part)
        elif part in self._troubled:
            self._troubled.discard(part)
            if self._calm is not None:
                self._calm.cancel()
            self._calm = asyncio.get_running_loop().call_later(_CALM_SECONDS, self._calmed)

    def _calmed(self) -> None:
        self._calm = None
        self._on_change()
