"""Follows the buckets of the control services and feeds the realiser.

One task for each bucket. What a batch says is in :class:`Desire` before the realiser is triggered; a record
that cannot be read keeps its last good value and is told as an event. A bucket that NATS has lost withdraws
nothing before its owner had the time to fill it again: policy and services by their commits, the others
because what a new snapshot lacks is not believed at once. Nor is what the first snapshot lacks of the
addresses that an earlier process has left in the kernel.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from typing import Any

from services.datapath.realise import Realiser
from shared.bus import Batch, Bus, patiently
from shared.contract.identity import EndpointRecord, IdentityRecord, IpEntry, NodeRecord
from shared.contract.names import Bucket, token
from shared.contract.policy import POLICY_TYPES
from shared.contract.service import SERVICE_TYPES
from shared.service import Runtime

_COMMITTED = (Bucket.POLICY, Bucket.SERVICES)

_SETTLING = (Bucket.NODES, Bucket.IPCACHE)
"""Never empty once the identity service has spoken."""

_BEGIN_SECONDS = 1.0
"""How long after the addresses were read what an earlier process left may stand without a commit."""

_SETTLE_SECONDS = 10.0
"""In which the identity service, which writes all it knows at once, fills a bucket that NATS has lost."""


class Followers:
    """The tasks that follow; :meth:`start` them once the kernel is there."""

    def __init__(self, runtime: Runtime, realiser: Realiser, *, node: str) -> None:
        self.identities: dict[int, IdentityRecord] = {}
        """Bucket ``identities``: labels for flows."""
        self._runtime = runtime
        self._realiser = realiser
        self._node = node
        self._on_nodes: Callable[[], None] = lambda: None
        self._spoken = {bucket: asyncio.Event() for bucket in _SETTLING}

    def on_nodes(self, call: Callable[[], None]) -> None:
        """``call`` after every change of the bucket ``nodes``."""
        self._on_nodes = call

    async def start(self, bus: Bus) -> None:
        """Begins to follow all buckets."""
        desire = self._realiser.desire
        await self._follow(bus, Bucket.IDENTITIES, IdentityRecord, self._take_identities)
        await self._follow(bus, Bucket.NODES, NodeRecord, self._take_nodes)
        await self._follow(bus, Bucket.IPCACHE, IpEntry, self._take_ipcache)
        await self._follow(
            bus, Bucket.ENDPOINTS, EndpointRecord, desire.take_endpoints, prefix=f"{token(self._node)}.>"
        )
        await self._follow(bus, Bucket.POLICY, POLICY_TYPES, desire.take_policy)
        await self._follow(bus, Bucket.SERVICES, SERVICE_TYPES, desire.services.take)
        self._runtime.start("begin", self._begin())
        self._runtime.start("settle", self._settle())

    async def _follow(
        self,
        bus: Bus,
        bucket: Bucket,
        as_type: Any,
        take: Callable[[Batch[Any]], bool | None],
        *,
        prefix: str = ">",
    ) -> None:
        store = await bus.bucket(bucket, as_type=as_type)
        batches: AsyncGenerator[Batch[Any], None] = store.follow(prefix=prefix)
        if bucket not in _COMMITTED:
            batches = patiently(batches)
        self._runtime.health.set_not_ready(bucket, "nothing has come from NATS yet")
        self._runtime.start(f"follow {bucket}", self._feed(bucket, batches, take))

    async def _feed(
        self, bucket: Bucket, batches: AsyncIterator[Batch[Any]], take: Callable[[Batch[Any]], bool | None]
    ) -> None:
        """``take`` says False when a batch changes nothing that the kernel is to hold."""
        async for batch in batches:
            concerns_kernel = take(batch) is not False
            for error in batch.errors:
                await self._runtime.event(
                    kind="record-unreadable", object=f"{bucket}/{error.key}", message=str(error)
                )
            self._runtime.health.set_ready(bucket)
            if batch.entries and bucket in self._spoken:
                self._spoken[bucket].set()
            if concerns_kernel:
                # What comes next would have to wait until this has been applied.
                self._realiser.trigger()

    async def _begin(self) -> None:
        await self._spoken[Bucket.IPCACHE].wait()
        await asyncio.sleep(_BEGIN_SECONDS)
        self._realiser.desire.begin()
        self._realiser.trigger()

    async def _settle(self) -> None:
        for spoken in self._spoken.values():
            await spoken.wait()
        await asyncio.sleep(_SETTLE_SECONDS)
        self._realiser.desire.settle()
        self._realiser.trigger()

    def _take_identities(self, batch: Batch[IdentityRecord]) -> bool:
        if batch.snapshot:
            self.identities.clear()
        for entry in batch.entries:
            if entry.value is None:
                self.identities.pop(int(entry.key), None)
            else:
                self.identities[entry.value.id] = entry.value
        return False

    def _take_nodes(self, batch: Batch[NodeRecord]) -> None:
        self._realiser.desire.take_nodes(batch)
        self._on_nodes()

    def _take_ipcache(self, batch: Batch[IpEntry]) -> None:
        self._realiser.desire.take_ipcache(batch)
        self._realiser.ipcache_revision = batch.revision
