"""The running service: policies, identities and addresses in; commits and statuses out.

Nothing is published before every input and the own buckets were read completely: a restart publishes only
differences, and never an open cluster for want of knowledge. Nor before the identity service has published
its nodes, which come last, nor while it leaves other labels out of identities than this service assumes. What
a lost bucket of the identity service lacks stays in force while it is filled again. The first event is taken
up at once, bursts together.

A publication goes into the bucket only as the bucket was when it was planned, so that a commit closes neither
a half-written one nor a bucket that was made anew and holds less than everything. When writing fails
half-way, all is planned again from what arrived. Whatever somebody else writes into the bucket is seen and
put right; several replicas take turns, and one that does not hear the API server takes none.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections.abc import Mapping
from dataclasses import dataclass

from services.policy import metrics
from services.policy.compiler import Compiler
from services.policy.errors import HashCollision, name_of
from services.policy.inputs import Inputs
from services.policy.planner import Planner, Publication
from services.policy.published import Published
from services.policy.retirement import Patience
from services.policy.statuses import Noted, Statuses, refusal_text
from services.policy.turn import Turn
from shared.bus import Batch, BucketStore, BusError, RevisionConflict, keep_compact, patiently
from shared.contract.base import Message, timestamp
from shared.contract.identity import IdentityRecord, IpEntry, LabelRules, NodeRecord
from shared.contract.names import Bucket
from shared.contract.node import Realised
from shared.contract.policy import POLICY_TYPES, PolicyStatus
from shared.kubernetes import NETWORK_POLICIES
from shared.labels import LabelFilter
from shared.reconcile import Reconciler
from shared.runtime.notices import Notices
from shared.runtime.sources import Sources
from shared.runtime.upkeep import Forestalled, Room, Upkeep, read_if_unlike, read_now
from shared.service import Runtime

log = logging.getLogger(__name__)

_PART = "publication"
_TURN_SECONDS = 1.0
_VERIFY_SECONDS = 2.0
_DOUBTS = 3
"""Readings of the bucket in vain, until a publication waits for one."""


@dataclass(frozen=True, kw_only=True)
class Options:
    """How this service behaves; times in seconds."""

    min_interval: float
    verify: float
    """Between comparisons of the whole bucket with what was published."""
    patience: Patience
    selectable: LabelFilter


class PolicyService:
    """All parts of one replica, wired."""

    def __init__(
        self,
        runtime: Runtime,
        options: Options,
        *,
        store: BucketStore[Message],
        statuses: BucketStore[PolicyStatus],
    ) -> None:
        self._runtime = runtime
        self._options = options
        self._store = store
        self._status_store = statuses
        self._compiler = Compiler()
        self._notices = Notices()
        self._room = Room(runtime.bus, self._notices)
        self._planner = Planner(self._compiler, patience=options.patience, fits=self._room.fits)
        self._inputs = Inputs(self._compiler, selectable=options.selectable)
        self._statuses = Statuses(self._compiler, self._inputs, room=Room(runtime.bus, self._notices))
        self._reconciler = Reconciler(
            "publish policy",
            self._publish,
            interval=options.min_interval,
            resync=options.verify,
            retry=(0.1, 2.0),
            on_result=self._on_result,
        )
        self._sources = Sources(runtime, on_change=self._reconciler.trigger)
        self._turn = Turn(patience=_TURN_SECONDS * random.uniform(0.5, 1.5))  # noqa: S311 - replicas differ
        self._upkeep = Upkeep(every=options.verify)
        self._verifier = Reconciler("verify policy", self._verify, interval=1.0, resync=None)
        self._doubts = 0
        self._forestalled = Forestalled()

    async def run(self) -> None:
        """Until cancelled."""
        runtime, bus, sources, inputs = self._runtime, self._runtime.bus, self._sources, self._inputs
        runtime.health.set_not_ready(_PART, "nothing published yet")
        identities = await bus.bucket(Bucket.IDENTITIES, as_type=IdentityRecord)
        addresses = await bus.bucket(Bucket.IPCACHE, as_type=IpEntry)
        nodes = await bus.bucket(Bucket.NODES, as_type=NodeRecord)
        settings = await bus.bucket(Bucket.SETTINGS, as_type=LabelRules)
        realised = await bus.bucket(Bucket.REALISED, as_type=Realised, create=True)
        sources.follow(Bucket.IDENTITIES, patiently(identities.follow()), inputs.take_identities)
        sources.follow(Bucket.IPCACHE, patiently(addresses.follow()), inputs.take_addresses)
        sources.follow(Bucket.NODES, patiently(nodes.follow()), inputs.take_nodes)
        sources.follow(Bucket.SETTINGS, patiently(settings.follow()), inputs.take_settings)
        sources.follow(Bucket.REALISED, realised.follow(), inputs.take_realised)
        sources.follow(Bucket.POLICY_STATUS, self._status_store.follow(), self._statuses.take)
        sources.follow(Bucket.POLICY, self._store.follow(), self._take_published)
        sources.watch(await runtime.kubernetes(), NETWORK_POLICIES, inputs.take_policies)
        runtime.start("compact buckets", keep_compact([self._store, self._status_store, realised]))
        runtime.start("verify", self._verifier.run())
        await self._reconciler.run()

    # ---- the own bucket

    def _take_published(self, batch: Batch[Message]) -> None:
        if batch.snapshot:
            # Its revisions may be those of a new bucket.
            self._statuses.recheck()
            self._planner.adopt(Published.of(batch))
            return
        published, foreign = self._planner.published, bool(batch.errors)
        for entry in batch.entries:
            if entry.revision > published.known:
                foreign |= published.enter(entry.key, entry.value, revision=entry.revision)
        published.enter_unreadable(error.key for error in batch.errors)
        published.known = max(published.known, batch.revision)
        if foreign:
            self._planner.adopt(published)

    async def _verify(self) -> None:
        """Read the buckets anew: what vanished from them without a word is published again.

        That takes long when they are large, and publications go on meanwhile. When there always was one
        while the bucket was read, the next one waits.
        """
        if await self._verify_bucket():
            self._doubts = 0
        else:
            self._doubts += 1
            self._verifier.trigger()
        self._reconciler.trigger()

    async def _verify_bucket(self) -> bool:
        """Whether the bucket could be compared: nothing was published while it was read."""
        stored = Published.of(await read_now(self._store))
        published = self._planner.published
        if stored.known != published.known:
            return False
        if not stored.holds_the_same(published):
            log.warning("the policy bucket does not hold what was published; it is put right")
            self._planner.adopt(stored)
        if batch := await read_if_unlike(self._status_store, self._statuses.mirror):
            self._statuses.take(batch)
        self._statuses.recheck()
        return True

    # ---- publication

    async def _publish(self) -> None:
        if not self._sources.complete:
            return
        if reason := self._inputs.objection:
            self._runtime.health.set_not_ready(_PART, reason)
            return
        loop = asyncio.get_running_loop()
        if self._upkeep.due(current=self._sources.current):
            # What is to be published now would move under the reader.
            self._verifier.trigger_at(loop.time() + _VERIFY_SECONDS)
        if self._doubts > _DOUBTS and await self._verify_bucket():
            self._doubts = 0
        # Inputs go on arriving while the publication is under way: what is said of it is noted before.
        began = time.perf_counter()
        known = self._planner.published.known
        realised = self._inputs.least_realised(known=known)
        publication = self._plan(realised=realised)
        self._room.only(lambda key: key.removeprefix("set.") in self._compiler.sets)
        noted, revision = self._statuses.note(), self._planner.published.revision
        changes = self._statuses.changes(noted, revision=revision) if publication is None else None
        if publication is None and not changes:
            self._statuses.settled()
            self._turn.nothing_to_do()
            self._forestalled.over()
        elif not self._turn.is_own(revision=revision, now=loop.time(), current=self._sources.current):
            self._look_again(self._turn.due)
            return
        elif publication is not None and not await self._put(publication, after=known):
            return
        else:
            metrics.PUBLISH_SECONDS.observe(time.perf_counter() - began)
            await self._tell(noted)
        self._runtime.health.set_ready(_PART)
        await self._notices.tell(self._runtime)
        self._measure()
        self._look_again(self._planner.next_release(realised=realised, now=loop.time()))

    def _plan(self, *, realised: float) -> Publication | None:
        while True:
            self._inputs.restore(self._statuses.published)
            now = asyncio.get_running_loop().time()
            try:
                return self._planner.plan(realised=realised, now=now, time=timestamp())
            except HashCollision as collision:
                self._inputs.resolve(collision)

    async def _put(self, publication: Publication, *, after: int) -> bool:
        """Store it; False when somebody else was faster."""
        self._planner.sending(publication)
        try:
            revision = await self._store.put_many(publication.items, after=after)
        except BaseException as error:
            # What arrived is not known until it was read back: then all is planned from there.
            self._planner.adopt(self._planner.published)
            if not isinstance(error, RevisionConflict):
                raise
            self._look_again(self._forestalled.count(error))
            return False
        self._forestalled.over()
        self._planner.committed(publication, revision=revision, now=asyncio.get_running_loop().time())
        self._turn.taken(revision=revision)
        metrics.WRITES.inc(len(publication.items))
        return True

    async def _tell(self, noted: Mapping[str, Noted]) -> None:
        """Write what became of each policy, and say aloud which were refused."""
        changes = self._statuses.changes(noted, revision=self._planner.published.revision)
        if changes:
            stored = await self._status_store.put_many(changes.items)
            self._statuses.wrote(changes, revision=stored)
        self._statuses.settled()
        for status in changes.refusals:
            await self._runtime.event(
                kind="policy-rejected", object=name_of(status.policy), message=refusal_text(status)
            )
        self._turn.nothing_to_do()

    def _look_again(self, due: float | None) -> None:
        """At that time, though nothing else happens."""
        if due is not None:
            self._reconciler.trigger_at(max(due, asyncio.get_running_loop().time() + 0.01))

    def _on_result(self, error: Exception | None) -> None:
        if error is None:
            return
        if not isinstance(error, BusError | HashCollision):
            log.error("publishing failed", exc_info=error)
        self._runtime.health.set_not_ready(_PART, f"cannot publish: {error}")

    def _measure(self) -> None:
        published, inputs = self._planner.published, self._inputs
        counts = {
            "policies": len(self._compiler.policies),
            "refused": len(inputs.refused),
            "sets": len(published.sets),
            "classes": self._planner.classes,
        }
        self._runtime.health.detail.update(counts)
        metrics.POLICIES.set(counts["policies"])
        metrics.REFUSED.set(counts["refused"])
        metrics.SETS.set(counts["sets"])
        metrics.CLASSES.set(counts["classes"])
        metrics.ROWS.set(published.rows)
        metrics.RETIRED.set(self._planner.pending)


async def open_service(runtime: Runtime, options: Options) -> PolicyService:
    """Opens the service's buckets, creating them unless they exist."""
    bus = runtime.bus
    store: BucketStore[Message] = await bus.bucket(Bucket.POLICY, as_type=POLICY_TYPES, create=True)
    statuses = await bus.bucket(Bucket.POLICY_STATUS, as_type=PolicyStatus, create=True)
    return PolicyService(runtime, options, store=store, statuses=statuses)
