"""The running service: Services and EndpointSlices in, service records out.

Nothing is published before both kinds and the own bucket were read completely, so a restart publishes only
differences and never deletes for want of knowledge. Each publication is puts, then deletions, then
``commit``; one that was cut short is completed by the next. It goes into the bucket only as the bucket was
when it was planned: so a commit closes neither another replica's half-written records nor a bucket that was
made anew and holds less than everything.

The first event is taken up at once; under load publications start at most every ``min_interval``. A key that
somebody else changed is compared again after a short while, so that a replica that is a little behind is not
fought, and all keys now and then. While the API server is not heard, others may know more: neither happens
then, but that an empty bucket is filled.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass

from services.lb import metrics
from services.lb.desired import DesiredServices
from services.lb.inputs import Inputs
from shared.bus import Batch, BucketStore, Mirror, RevisionConflict, keep_compact
from shared.contract.base import Message, timestamp
from shared.contract.names import COMMIT_KEY, Bucket
from shared.contract.service import SERVICE_TYPES, ServicesSynced
from shared.kubernetes import ENDPOINT_SLICES, SERVICES
from shared.reconcile import PutOff, Reconciler
from shared.runtime.intake import REFUSED
from shared.runtime.notices import Notices
from shared.runtime.sources import Sources
from shared.runtime.upkeep import Forestalled, Room, Upkeep, read_if_unlike
from shared.service import Runtime

log = logging.getLogger(__name__)

_PART = "publication"
_REPAIR_SECONDS = 1.0


@dataclass(frozen=True, kw_only=True)
class Options:
    """How this service behaves; times in seconds."""

    min_interval: float
    verify: float
    """Between comparisons of the whole bucket with what was published."""


class LoadBalancingService:
    """All parts of one replica, wired."""

    def __init__(self, runtime: Runtime, options: Options, *, store: BucketStore[Message]) -> None:
        self._runtime = runtime
        self._store = store
        self._desired = DesiredServices()
        self._notices = Notices()
        self._room = Room(runtime.bus, self._notices)
        self._inputs = Inputs(self._desired, notices=self._notices)
        self._published: Mirror[Message] = Mirror()
        self._pending: set[str] = set()
        self._reconciler = Reconciler(
            "publish services",
            self._publish,
            interval=options.min_interval,
            resync=options.verify,
            retry=(0.1, 2.0),
            on_result=self._on_result,
        )
        self._sources = Sources(runtime, on_change=self._reconciler.trigger)
        self._foreign: PutOff[str] = PutOff(self._reconciler, seconds=_REPAIR_SECONDS)
        self._upkeep = Upkeep(every=options.verify)
        self._forestalled = Forestalled()
        self._begun = False
        """All was current once, and is compared."""
        self._complete = False
        """The first publication is done."""
        self._commit_wanted = False

    async def run(self) -> None:
        """Until cancelled."""
        self._runtime.health.set_not_ready(_PART, "nothing published yet")
        kubernetes, sources = await self._runtime.kubernetes(), self._sources
        sources.watch(kubernetes, SERVICES, self._inputs.services.take)
        sources.watch(kubernetes, ENDPOINT_SLICES, self._inputs.slices.take)
        sources.follow(Bucket.SERVICES, self._store.follow(), self._on_published)
        self._runtime.start("compact bucket", keep_compact([self._store]))
        await self._reconciler.run()

    # ---- the own bucket

    @property
    def _is_committed(self) -> bool:
        """The last change of the bucket is a commit: no publication was left half-way."""
        commit = self._published.entry(COMMIT_KEY)
        return commit is not None and commit.revision >= self._published.revision

    def _on_published(self, batch: Batch[Message]) -> None:
        touched = self._published.absorb(batch) - {COMMIT_KEY}
        differing = {key for key in touched if self._differs(key)}
        current = self._sources.current
        if batch.snapshot and (current or not self._published.live_keys()):
            # A bucket read anew may have lost anything: the next commit has to close all of it.
            self._pending |= differing
            self._commit_wanted |= not self._is_committed
        elif self._complete and current:
            self._foreign.put_off(differing if self._is_committed else {*differing, COMMIT_KEY})

    def _service_keys(self) -> set[str]:
        return self._published.live_keys() - {COMMIT_KEY}

    # ---- publication

    def _differs(self, key: str) -> bool:
        if key in self._desired.unreadable:
            return False
        return self._desired.records.get(key) != self._published.get(key)

    async def _publish(self) -> None:
        if not self._sources.complete:
            return
        current, foreign = self._sources.current, self._foreign.take()
        if current:
            self._pending |= foreign - {COMMIT_KEY}
            self._commit_wanted |= COMMIT_KEY in foreign
        if self._upkeep.due(current=current):
            self._begun = True
            if batch := await read_if_unlike(self._store, self._published):
                self._on_published(batch)
            self._pending |= self._desired.settle() | self._desired.records.keys() | self._service_keys()
            self._commit_wanted = True
        if not self._begun:
            return
        with metrics.PUBLISH_SECONDS.time():
            self._pending |= self._desired.settle()
            try:
                await self._write()
            except RevisionConflict as conflict:
                self._reconciler.trigger_at(self._forestalled.count(conflict))
                return
        self._forestalled.over()
        if not self._complete:
            self._complete = True
            log.info("published %d services", len(self._desired.records))
        self._runtime.health.set_ready(_PART)
        self._measure()
        await self._notices.tell(self._runtime)

    async def _write(self) -> None:
        """Write what differs of the pending keys; raises a BusError, and all of it stays pending."""
        pending, self._pending = self._pending, set()
        self._room.only(self._desired.records.__contains__)
        changed = sorted(filter(self._differs, pending))
        changed = [key for key in changed if self._room.fits(key, self._desired.records.get(key))]
        if not changed and not (self._commit_wanted and not self._is_committed):
            self._commit_wanted = False
            return
        puts = [(key, self._desired.records[key]) for key in changed if key in self._desired.records]
        deletions = [(key, None) for key in changed if key not in self._desired.records]
        commit = ServicesSynced(
            time=timestamp(),
            services=len(self._desired.records),
            backends=self._desired.backend_count,
        )
        items: list[tuple[str, Message | None]] = [*puts, *deletions, (COMMIT_KEY, commit)]
        try:
            revision = await self._store.put_many(items, after=self._published.revision)
        except BaseException:
            self._pending |= pending
            self._commit_wanted = True
            raise
        self._published.wrote(items, revision=revision)
        self._commit_wanted = False
        metrics.WRITES.labels("put").inc(len(puts))
        metrics.WRITES.labels("delete").inc(len(deletions))
        metrics.COMMITS.inc()

    def _on_result(self, error: Exception | None) -> None:
        if error is not None:
            self._runtime.health.set_not_ready(_PART, f"cannot publish: {error}")

    def _measure(self) -> None:
        services, backends = len(self._desired.records), self._desired.backend_count
        self._runtime.health.detail.update(services=services, backends=backends)
        metrics.SERVICES.set(services)
        metrics.BACKENDS.set(backends)
        metrics.REFUSED.set(self._notices.count(REFUSED))


async def open_service(runtime: Runtime, options: Options) -> LoadBalancingService:
    """Opens the bucket, creating it unless it exists."""
    store: BucketStore[Message] = await runtime.bus.bucket(
        Bucket.SERVICES, as_type=SERVICE_TYPES, create=True
    )
    return LoadBalancingService(runtime, options, store=store)
