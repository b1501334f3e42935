"""The running service: inputs in, publications out.

Nothing is published before every input and every own bucket was read completely, so a restart publishes only
differences and never deletes for want of knowledge. The first event is taken up at once; under load
publications start at most every ``min_interval``. A key that somebody else changed is compared again after a
short while, so that a replica that is a little behind is not fought, and all keys now and then. While the API
server is not heard, others may know more: neither happens then, but that an empty bucket is filled.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Set
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

from services.identity import metrics
from services.identity.allocation import IdentityAllocator
from services.identity.departed import clear_departed
from services.identity.desired import Change, DesiredState
from services.identity.inputs import Inputs
from services.identity.ledger import open_ledger
from services.identity.named import NamedNumbers
from services.identity.numbering import Numbering, is_taken, numbers_held
from services.identity.occupancy import Occupancy
from services.identity.publication import PUBLISHED, Publication
from services.identity.release import NumberRelease
from shared.bus import Batch, BucketStore, BusError, Mirror, keep_compact, patiently
from shared.contract.base import Message
from shared.contract.identity import Claim, EndpointRecord, IdentityRecord, IpEntry, LabelRules, NodeRecord
from shared.contract.names import Bucket
from shared.contract.policy import POLICY_TYPES
from shared.kubernetes import NAMESPACES, NODES, PODS
from shared.labels import LabelFilter
from shared.reconcile import PutOff, Reconciler
from shared.runtime.intake import REFUSED
from shared.runtime.notices import Notices
from shared.runtime.sources import Sources
from shared.runtime.upkeep import Room, Upkeep, read_if_unlike
from shared.service import Runtime

log = logging.getLogger(__name__)

_RECORDS: dict[Bucket, type[Message]] = {
    Bucket.SETTINGS: LabelRules,
    Bucket.IDENTITIES: IdentityRecord,
    Bucket.NODES: NodeRecord,
    Bucket.ENDPOINTS: EndpointRecord,
    Bucket.IPCACHE: IpEntry,
}
_PART = "publication"
_REPAIR_SECONDS = 1.0
_RETRY_SECONDS = 1.0


@dataclass(frozen=True, kw_only=True)
class Options:
    """How this service behaves; times in seconds."""

    label_filter: LabelFilter
    release_after: float
    min_interval: float
    verify: float
    """Between comparisons of whole buckets with what was published."""

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
        policy: BucketStore[Message],
    ) -> None:
        self._runtime = runtime
        self._options = options
        self._ledger = ledger
        self._claims = claims
        self._stores = stores
        self._policy = policy
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
        rooms = {bucket: Room(runtime.bus, self._notices) for bucket in PUBLISHED}
        self._publication = Publication(self._desired, stores=stores, mirrors=self._mirrors, rooms=rooms)
        self._named = NamedNumbers()
        self._release = NumberRelease(
            self._desired,
            allocator,
            ledger=self._ledger_mirror,
            mirrors=self._mirrors,
            identities=stores[Bucket.IDENTITIES],
            named=self._named,
            release_after=timedelta(seconds=options.release_after),
            orphaned_after=timedelta(seconds=min(60.0, options.release_after)),
        )
        self._reconciler = Reconciler(
            "publish identities",
            self._publish,
            interval=options.min_interval,
            resync=options.verify,
            retry=(0.1, 2.0),
            on_result=self._on_result,
        )
        self._sources = Sources(runtime, on_change=self._reconciler.trigger)
        self._foreign: PutOff[Change] = PutOff(self._reconciler, seconds=_REPAIR_SECONDS)
        self._upkeep = Upkeep(every=options.verify)
        self._comparing_all = False
        self._begun = False
        """All was current once, and is compared."""
        self._published = False

    async def run(self) -> None:
        """Until cancelled."""
        self._runtime.health.set_not_ready(_PART, "nothing published yet")
        kubernetes, sources, inputs = await self._runtime.kubernetes(), self._sources, self._inputs
        sources.watch(kubernetes, NAMESPACES, inputs.namespaces.take)
        sources.watch(kubernetes, NODES, inputs.nodes.take)
        sources.watch(kubernetes, PODS, inputs.pods.take)
        # The claims of a lost bucket come again from every datapath, each when it notices.
        sources.follow(Bucket.CLAIMS, patiently(self._claims.follow()), inputs.take_claims)
        sources.follow(Bucket.ALLOCATIONS, self._ledger.follow(), self._numbering.absorb)
        for bucket in PUBLISHED:
            sources.follow(bucket, self._stores[bucket].follow(), self._own_reader(bucket))
        self._runtime.start("read policy", self._named.follow(self._policy))
        self._runtime.start("release numbers", self._sweep())
        self._runtime.start("clear departed", clear_departed(self._runtime.bus, nodes=self._heard_nodes))
        kept: tuple[BucketStore[Any], ...] = (*self._stores.values(), self._ledger, self._claims)
        self._runtime.start("compact buckets", keep_compact(kept))
        await self._reconciler.run()

    # ---- inputs

    def _heard_nodes(self) -> Set[str] | None:
        return self._desired.nodes.keys() if self._sources.current else None

    def _own_reader(self, bucket: Bucket) -> Callable[[Batch[Message]], None]:
        def take(batch: Batch[Message]) -> None:
            mirror, desired = self._mirrors[bucket], self._desired.of(bucket)
            touched = mirror.absorb(batch)
            differing = {Change(bucket, key) for key in touched if desired.get(key) != mirror.get(key)}
            if batch.snapshot and (self._sources.current or not mirror.live_keys()):
                self._publication.note(differing)
            elif self._published and self._sources.current:
                self._foreign.put_off(differing)

        return take

    async def _read_again(self) -> None:
        """Learn of what vanished without a word."""
        for bucket in PUBLISHED:
            if batch := await read_if_unlike(self._stores[bucket], self._mirrors[bucket]):
                self._own_reader(bucket)(batch)
        if batch := await read_if_unlike(self._ledger, self._ledger_mirror):
            self._numbering.absorb(batch)

    # ---- publication

    async def _publish(self) -> None:
        if not self._sources.complete:
            return
        current, foreign = self._sources.current, self._foreign.take()
        if current:
            self._publication.note(foreign)
        if self._upkeep.due(current=current):
            self._comparing_all = True
            if self._begun:
                await self._read_again()
            self._begun = True
        if not self._begun:
            return
        with metrics.PUBLISH_SECONDS.time():
            self._publication.note(self._desired.settle())
            if self._published:
                # What needs no new number does not wait for those that do.
                await self._publication.flush()
            await self._numbering.complete()
            self._publication.note(self._desired.settle())
            if self._comparing_all:
                self._comparing_all = False
                for bucket in PUBLISHED:
                    self._publication.note_all(bucket)
            await self._publication.flush()
        if not self._published:
            self._published = True
            log.info("published %s", self._counts())
        if self._numbering.refused:
            self._reconciler.trigger_at(asyncio.get_running_loop().time() + _RETRY_SECONDS)
        self._measure()
        await self._notices.tell(self._runtime)

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
            if not (self._published and self._publication.idle and self._sources.current):
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
    policy: BucketStore[Message] = await bus.bucket(Bucket.POLICY, as_type=POLICY_TYPES)
    ledger = await open_ledger(bus)
    return IdentityService(runtime, options, ledger=ledger, claims=claims, stores=stores, policy=policy)
