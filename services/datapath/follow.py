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
from shared.bus import Batch, BucketStore, Bus, patiently
from shared.contract.identity import EndpointRecord, IdentityRecord, IpEntry, NodeRecord
from shared.contract.names import Bucket, token
from shared.contract.policy import POLICY_TYPES
from shared.contract.service import SERVICE_TYPES
from shared.service import Runtime

_TYPES: dict[Bucket, Any] = {
    Bucket.IDENTITIES: IdentityRecord,
    Bucket.NODES: NodeRecord,
    Bucket.IPCACHE: IpEntry,
    Bucket.ENDPOINTS: EndpointRecord,
    Bucket.POLICY: POLICY_TYPES,
    Bucket.SERVICES: SERVICE_TYPES,
}

_COMMITTED = (Bucket.POLICY, Bucket.SERVICES)

_SETTLING = (Bucket.NODES, Bucket.IPCACHE)
"""Never empty once the identity service has spoken."""

_BEGIN_SECONDS = 1.0
"""How long after the addresses were read what an earlier process left may stand without a commit."""

_SETTLE_SECONDS = 10.0
"""In which the identity service, which writes all it knows at once, fills a bucket that NATS has lost."""


Reading = dict[Bucket, AsyncGenerator[Batch[Any], None]]
"""What comes of each bucket."""


async def read_ahead(bus: Bus, *, node: str) -> Reading:
    """Begins to read all buckets, while programs are compiled; nothing is taken before those are there."""
    prefixes = {Bucket.ENDPOINTS: f"{token(node)}.>"}
    reading: Reading = {}
    for bucket, as_type in _TYPES.items():
        store: BucketStore[Any] = await bus.bucket(bucket, as_type=as_type)
        reading[bucket] = _ahead(store.follow(prefix=prefixes.get(bucket, ">")))
    return reading


def _ahead(batches: AsyncGenerator[Batch[Any], None]) -> AsyncGenerator[Batch[Any], None]:
    first = asyncio.ensure_future(anext(batches))

    async def everything() -> AsyncGenerator[Batch[Any], None]:
        try:
            yield await first
            async for batch in batches:
                yield batch
        finally:
            first.cancel()
            await asyncio.wait([first])
            await batches.aclose()

    return everything()


class Followers:
    """The tasks that follow; :meth:`start` them once the kernel is there."""

    def __init__(self, runtime: Runtime, realiser: Realiser, *, reading: Reading) -> None:
        self.identities: dict[int, IdentityRecord] = {}
        """Bucket ``identities``: labels for flows."""
        self._runtime = runtime
        self._realiser = realiser
        self._reading = reading
        self._on_nodes: Callable[[], None] = lambda: None
        self._spoken = {bucket: asyncio.Event() for bucket in _SETTLING}

    def on_nodes(self, call: Callable[[], None]) -> None:
        """``call`` after every change of the bucket ``nodes``."""
        self._on_nodes = call

    def start(self) -> None:
        """Begins to take what comes of all buckets."""
        desire = self._realiser.desire
        self._follow(Bucket.IDENTITIES, self._take_identities)
        self._follow(Bucket.NODES, self._take_nodes)
        self._follow(Bucket.IPCACHE, self._take_ipcache)
        self._follow(Bucket.ENDPOINTS, desire.take_endpoints)
        self._follow(Bucket.POLICY, desire.take_policy)
        self._follow(Bucket.SERVICES, desire.services.take)
        self._runtime.start("begin", self._begin())
        self._runtime.start("settle", self._settle())

    def _follow(self, bucket: Bucket, take: Callable[[Batch[Any]], bool | None]) -> None:
        batches = self._reading[bucket]
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
        self._realiser.desire.addresses.begin()
        self._realiser.trigger()

    async def _settle(self) -> None:
        for spoken in self._spoken.values():
            await spoken.wait()
        await asyncio.sleep(_SETTLE_SECONDS)
        self._realiser.desire.addresses.settle()
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
        self._realiser.desire.addresses.take_nodes(batch)
        self._on_nodes()

    def _take_ipcache(self, batch: Batch[IpEntry]) -> None:
        self._realiser.desire.addresses.take_ipcache(batch)
        self._realiser.ipcache_revision = batch.revision
