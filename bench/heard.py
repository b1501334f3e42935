"""When a client of NATS hears of commits, of policies' statuses, and of what a node realised."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from deploy.cli.errors import Unmet
from shared.bus import Batch, BucketStore, Bus
from shared.contract.base import Message
from shared.contract.names import COMMIT_KEY, Bucket, token
from shared.contract.node import Realised
from shared.contract.policy import POLICY_TYPES, Commit, PolicyStatus


@dataclass(frozen=True, slots=True)
class Moment:
    """Something that a revision holds, and when it was heard of (``time.perf_counter``)."""

    revision: int
    at: float


class Heard:
    """Of one node; made by :func:`hearing`."""

    def __init__(self, node: str) -> None:
        self.commit: Commit | None = None
        """The last one."""
        self.record: Realised | None = None
        """The node's last one."""
        self._node = token(node)
        self._counts: dict[int, Moment] = {}
        self._versions: dict[str, Moment] = {}
        self._policy: list[Moment] = []
        self._ipcache: list[Moment] = []
        self._changed = asyncio.Condition()

    async def commit_of(self, policies: int, *, seconds: float) -> Moment:
        """The last commit, when it counts this many policies."""
        return await self._until(
            lambda: self._counts.get(policies), f"a commit of {policies} policies", seconds=seconds
        )

    async def version(self, resource_version: str, *, seconds: float) -> Moment:
        """The commit that holds a version of a policy."""
        return await self._until(
            lambda: self._versions.get(resource_version), "the policy's status", seconds=seconds
        )

    async def statuses(self, count: int, *, seconds: float) -> None:
        """Waits until at least so many policies have one."""
        await self._until(
            lambda: Moment(0, 0.0) if len(self._versions) >= count else None,
            f"statuses of {count} policies",
            seconds=seconds,
        )

    async def policy(self, revision: int, *, seconds: float) -> float:
        """When the node told that its kernel holds a policy revision."""
        found = await self._until(
            lambda: _first(self._policy, revision), f"revision {revision} to be realised", seconds=seconds
        )
        return found.at

    async def ipcache(self, revision: int, *, seconds: float) -> float:
        """When the node told that its kernel holds a revision of the ipcache."""
        found = await self._until(
            lambda: _first(self._ipcache, revision), f"ipcache {revision} to be realised", seconds=seconds
        )
        return found.at

    def forget(self) -> None:
        """What was heard until now does not count any more."""
        self._counts.clear()
        self._policy.clear()
        self._ipcache.clear()

    def take_commits(self, batch: Batch[Message]) -> None:
        """Of the bucket ``policy``."""
        for entry in batch.entries:
            if isinstance(entry.value, Commit):
                self.commit = entry.value
                self._counts = {entry.value.policies: Moment(entry.revision, time.perf_counter())}

    def take_statuses(self, batch: Batch[PolicyStatus]) -> None:
        """Of the bucket ``policy-status``."""
        for entry in batch.entries:
            if entry.value is not None:
                moment = Moment(entry.value.revision, time.perf_counter())
                self._versions.setdefault(entry.value.resource_version, moment)

    def take_realised(self, batch: Batch[Realised]) -> None:
        """Of the bucket ``realised``."""
        now = time.perf_counter()
        for entry in batch.entries:
            if entry.key == self._node and entry.value is not None:
                self.record = entry.value
                for moments, revision in (
                    (self._policy, entry.value.policy_revision),
                    (self._ipcache, entry.value.ipcache_revision),
                ):
                    if not moments or moments[-1].revision < revision:
                        moments.append(Moment(revision, now))

    async def tell(self) -> None:
        """Wakes those who wait."""
        async with self._changed:
            self._changed.notify_all()

    async def _until(self, find: Callable[[], Moment | None], what: str, *, seconds: float) -> Moment:
        try:
            async with asyncio.timeout(seconds), self._changed:
                await self._changed.wait_for(lambda: find() is not None)
        except TimeoutError:
            raise Unmet(f"the lab was waited for in vain: {what} within {seconds:g} s.") from None
        found = find()
        if found is None:
            raise AssertionError(what)
        return found


def _first(moments: list[Moment], revision: int) -> Moment | None:
    return next((moment for moment in moments if moment.revision >= revision), None)


@asynccontextmanager
async def hearing(bus: Bus, *, node: str) -> AsyncIterator[Heard]:
    """Hears during the context."""
    heard = Heard(node)
    commits: BucketStore[Message] = await bus.bucket(Bucket.POLICY, as_type=POLICY_TYPES)
    statuses = await bus.bucket(Bucket.POLICY_STATUS, as_type=PolicyStatus)
    realised = await bus.bucket(Bucket.REALISED, as_type=Realised)

    async def follow(batches: AsyncGenerator[Batch[Any], None], take: Callable[[Batch[Any]], None]) -> None:
        async with aclosing(batches):
            async for batch in batches:
                take(batch)
                await heard.tell()

    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(follow(commits.follow(prefix=COMMIT_KEY), heard.take_commits), name="commits"),
            group.create_task(follow(statuses.follow(), heard.take_statuses), name="statuses"),
            group.create_task(follow(realised.follow(), heard.take_realised), name="realised"),
        ]
        try:
            yield heard
        finally:
            for task in tasks:
                task.cancel()
