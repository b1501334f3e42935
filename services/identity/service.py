"""The running service: inputs in, publications out.

Nothing is published before every input and every own bucket was read completely, so a restart publishes only
differences and never deletes for want of knowledge. The first event is taken up at once; under load
publications start at most every ``min_interval``. A key that somebody else changed is compared again after a
short while, so that a replica that is a little behind is not fought; all keys are compared once a minute.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from services.identity import metrics
from services.identity.allocation import IdentityAllocator
from services.identity.desired import Change, DesiredState
from services.identity.inputs import REFUSED, Inputs
from services.identity.ledger import open_ledger
from services.identity.notices import Notices
from services.identity.numbering import Numbering, is_taken, numbers_held
from services.identity.occupancy import Occupancy
from services.identity.publication import PUBLISHED, Publication
from services.identity.release import NumberRelease
from shared.bus import Batch, BucketStore, BusError, Mirror, keep_compact, patiently
from shared.contract.base import Message
from shared.contract.identity import Claim, EndpointRecord, IdentityRecord, IpEntry, NodeRecord
from shared.contract.names import Bucket
from shared.kubernetes import NAMESPACES, NODES, PODS
from shared.labels import LabelFilter
from shared.reconcile import Reconciler
from shared.runtime.sources import Sources
from shared.service import Runtime

log = logging.getLogger(__name__)

_RECORDS: dict[Bucket, type[Message]] = {
    Bucket.IDENTITIES: IdentityRecord,
    Bucket.NODES: NodeRecord,
    Bucket.ENDPOINTS: EndpointRecord,
    Bucket.IPCACHE: IpEntry,
}
_PART = "publication"
_REPAIR_SECONDS = 1.0
_RETRY_SECONDS = 1.0
_COMPARE_ALL_SECONDS = 60.0


@dataclass(frozen=True, kw_only=True)
class Options:
    """How this service behaves; times in seconds."""

    label_filter: LabelFilter
    release_after: float
    min_interval: float

    @property
    def sweep_seconds(self) -> float:
        """Time between two looks for numbers to release."""
        return min(30.0, max(0.1, self.release_after / 4))


class IdentityService:
    """All parts of one replica, wired."""

    def __init__(
        self,
        runtime: Runtime,
        options: Options,
        *,
        ledger: BucketStore[Message],
        claims: BucketStore[Claim],
        stores: dict[Bucket, BucketStore[Message]],
    ) -> None:
        self._runtime = runtime
        self._options = options
        self._ledger = ledger
        self._claims = claims
        self._stores = stores
        self._notices = Notices()
        self._desired = DesiredState(
            cluster=runtime.bus.cluster,
            label_filter=options.label_filter,
            notices=self._notices,
        )
        self._inputs = Inputs(self._desired, notices=self._notices)
        self._mirrors: dict[Bucket, Mirror[Message]] = {bucket: Mirror() for bucket in PUBLISHED}
        self._ledger_mirror: Mirror[Message] = Mirror()
        identities = self._mirrors[Bucket.IDENTITIES]
        allocator = IdentityAllocator(
            ledger,
            self._ledger_mirror,
            is_taken=lambda identity, labels: is_taken(identities, identity, labels),
        )
        self._occupancy = Occupancy(capacity=allocator.capacity, notices=self._notices)
        self._numbering = Numbering(
            self._desired,
            allocator,
            ledger=self._ledger_mirror,
            identities=identities,
            notices=self._notices,
        )
        self._publication = Publication(self._desired, stores=stores, mirrors=self._mirrors)
        self._release = NumberRelease(
            self._desired,
            allocator,
            ledger=self._ledger_mirror,
            mirrors=self._mirrors,
            identities=stores[Bucket.IDENTITIES],
            release_after=timedelta(seconds=options.release_after),
            orphaned_after=timedelta(seconds=min(60.0, options.release_after)),
        )
        self._reconciler = Reconciler(
            "publish identities",
            self._publish,
            interval=options.min_interval,
            resync=_COMPARE_ALL_SECONDS,
            retry=(0.1, 2.0),
            on_result=self._on_result,
        )
        self._sources = Sources(runtime, on_change=self._reconciler.trigger)
        self._published = False
        self._compared_all = 0.0

    async def run(self) -> None:
        """Until cancelled."""
        self._runtime.health.set_not_ready(_PART, "nothing published yet")
        kubernetes, sources, inputs = await self._runtime.kubernetes(), self._sources, self._inputs
        sources.watch(kubernetes, NAMESPACES, inputs.namespaces)
        sources.watch(kubernetes, NODES, inputs.nodes)
        sources.watch(kubernetes, PODS, inputs.pods)
        # The claims of a lost bucket come again from every datapath, each when it notices.
        sources.follow(Bucket.CLAIMS, patiently(self._claims.follow()), inputs.claims)
        sources.follow(Bucket.ALLOCATIONS, self._ledger.follow(), self._numbering.absorb)
        for bucket in PUBLISHED:
            sources.follow(bucket, self._stores[bucket].follow(), self._own_reader(bucket))
        self._runtime.start("release numbers", self._sweep())
        kept: tuple[BucketStore[Any], ...] = (*self._stores.values(), self._ledger, self._claims)
        self._runtime.start("compact buckets", keep_compact(kept))
        await self._reconciler.run()

    # ---- inputs

    def _own_reader(self, bucket: Bucket) -> Callable[[Batch[Message]], None]:
        def take(batch: Batch[Message]) -> None:
            mirror, desired = self._mirrors[bucket], self._desired.of(bucket)
            touched = mirror.absorb(batch)
            differing = {Change(bucket, key) for key in touched if desired.get(key) != mirror.get(key)}
            if batch.snapshot:
                self._publication.note(differing)
            elif differing and self._published:
                self._later(_REPAIR_SECONDS, lambda: self._publication.note(differing))

        return take

    def _later(self, seconds: float, work: Callable[[], Any]) -> None:
        def do() -> None:
            work()
            self._reconciler.trigger()

        asyncio.get_running_loop().call_later(seconds, do)

    # ---- publication

    async def _publish(self) -> None:
        if not self._sources.complete:
            return
        with metrics.PUBLISH_SECONDS.time():
            self._publication.note(self._desired.settle())
            if self._published:
                # What needs no new number does not wait for those that do.
                await self._publication.flush()
            await self._numbering.complete()
            self._publication.note(self._desired.settle())
            now = asyncio.get_running_loop().time()
            if not self._published or now - self._compared_all > _COMPARE_ALL_SECONDS * 0.8:
                self._compared_all = now
                for bucket in PUBLISHED:
                    self._publication.note_all(bucket)
            await self._publication.flush()
        if not self._published:
            self._published = True
            log.info("published %s", self._counts())
        if self._numbering.refused:
            self._later(_RETRY_SECONDS, lambda: None)
        self._measure()
        for notice in self._notices.drain():
            await self._runtime.event(kind=notice.kind, object=notice.object, message=notice.message)

    def _on_result(self, error: Exception | None) -> None:
        if error is not None:
            self._runtime.health.set_not_ready(_PART, f"cannot publish: {error}")
        elif self._published:
            self._runtime.health.set_ready(_PART)

    def _counts(self) -> dict[str, int]:
        return {bucket.value: len(self._desired.of(bucket)) for bucket in PUBLISHED}

    def _measure(self) -> None:
        counts = self._counts()
        self._runtime.health.detail.update(counts)
        for bucket, count in counts.items():
            metrics.DESIRED.labels(bucket).set(count)
        metrics.WAITING.set(len(self._desired.waiting))
        metrics.INVALID_CLAIMS.set(self._notices.count("claim-invalid"))
        metrics.ADDRESS_CONFLICTS.set(self._notices.count("address-conflict"))
        metrics.REFUSED.set(self._notices.count(REFUSED))

    async def _sweep(self) -> None:
        while True:
            await asyncio.sleep(self._options.sweep_seconds)
            if not self._published or not self._publication.idle:
                continue
            try:
                await self._release.sweep()
            except BusError as error:
                log.warning("numbers are not released for now: %s", error)
            if self._occupancy.observe(numbers_held(self._ledger_mirror)):
                self._reconciler.trigger()


async def open_service(runtime: Runtime, options: Options) -> IdentityService:
    """Opens the buckets, creating those that do not exist."""
    bus = runtime.bus
    stores: dict[Bucket, BucketStore[Message]] = {}
    for bucket, record in _RECORDS.items():
        stores[bucket] = await bus.bucket(bucket, as_type=record, create=True)
    claims = await bus.bucket(Bucket.CLAIMS, as_type=Claim, create=True)
    return IdentityService(runtime, options, ledger=await open_ledger(bus), claims=claims, stores=stores)
