"""Gives numbers back: those unused for the grace time, and what a crash left half-way.

Being unused is noted in the ledger with the wall-clock time, so restarts do not begin the grace time anew.
A number goes in this order: the label set's allocation, the identity record, the hold; nobody else can get
the number before the last step. Nothing is released that any published endpoint or address still has, and the
hold stays until the policy service has taken away what it says of the number, which it does without a record.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from datetime import UTC, datetime, timedelta

from services.identity import metrics
from services.identity.allocation import IdentityAllocator
from services.identity.desired import DesiredState
from services.identity.labels import LabelsHash
from services.identity.ledger import LabelsAllocation, NumberHold, labels_key, number_key
from services.identity.named import NamedNumbers
from shared.bus import BucketStore, Entry, Mirror, RevisionConflict
from shared.contract.base import Identity, Message
from shared.contract.identity import EndpointRecord, IpEntry
from shared.contract.names import Bucket

log = logging.getLogger(__name__)


class NumberRelease:
    """Sweeps the ledger and the identity records. ``now`` gives the time, UTC."""

    def __init__(
        self,
        desired: DesiredState,
        allocator: IdentityAllocator,
        *,
        ledger: Mirror[Message],
        mirrors: Mapping[Bucket, Mirror[Message]],
        identities: BucketStore[Message],
        named: NamedNumbers,
        release_after: timedelta,
        orphaned_after: timedelta,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._desired = desired
        self._allocator = allocator
        self._ledger = ledger
        self._mirrors = mirrors
        self._identities = identities
        self._named = named
        self._release_after = release_after
        self._orphaned_after = orphaned_after
        self._now = now
        self._orphans: dict[str, tuple[int, datetime]] = {}
        """Keys that nothing vouches for: the revision they were seen at, and since when."""

    async def sweep(self) -> None:
        """One pass; raises a BusError when NATS fails, and may then be repeated."""
        busy = self._busy_numbers()
        orphans: set[str] = set()
        for key in self._ledger.live_keys():
            entry = self._ledger.entry(key)
            if entry is None:
                continue
            try:
                if isinstance(entry.value, LabelsAllocation):
                    await self._judge_allocation(entry, entry.value, busy)
                elif isinstance(entry.value, NumberHold) and self._is_orphan(entry, entry.value):
                    orphans.add(key)
                    if self._is_old_orphan(key, entry.revision):
                        await self._free(Identity(int(key.partition(".")[2])), entry, busy)
            except RevisionConflict as conflict:
                log.info("left as it is, another replica was faster: %s", conflict)
        await self._sweep_records(busy, orphans)
        for key in self._orphans.keys() - orphans:
            del self._orphans[key]

    async def _judge_allocation(
        self, entry: Entry[Message], allocation: LabelsAllocation, busy: set[Identity]
    ) -> None:
        labels = LabelsHash(entry.key.partition(".")[2])
        if self._desired.in_use(labels):
            return
        now = self._now()
        if not allocation.unused_since:
            await self._allocator.mark_unused(labels, since=now.isoformat())
            return
        unused = now - datetime.fromisoformat(allocation.unused_since)
        if unused < self._release_after or allocation.id in busy:
            return
        hold = self._ledger.entry(number_key(allocation.id))
        await self._allocator.remove(entry)
        if hold is not None and isinstance(hold.value, NumberHold) and hold.value.labels == labels:
            await self._free(allocation.id, hold, busy)

    async def _free(self, identity: Identity, hold: Entry[Message], busy: set[Identity]) -> None:
        """Remove the identity record, then the hold; the allocation is gone already.

        A hold that has to stay is an orphan from then on, and comes up again.
        """
        if identity in busy or str(identity) in self._desired.identities:
            return
        await self._delete_record(str(identity))
        if identity in self._named:
            return
        await self._allocator.remove(hold)
        metrics.RELEASED.inc()
        log.info("identity %d is free again", identity)

    async def _delete_record(self, key: str) -> None:
        mirror = self._mirrors[Bucket.IDENTITIES]
        if mirror.entry(key) is not None:
            mirror.wrote([(key, None)], revision=await self._identities.delete(key))

    def _is_orphan(self, entry: Entry[Message], hold: NumberHold) -> bool:
        allocation = self._ledger.get(labels_key(hold.labels))
        return not isinstance(allocation, LabelsAllocation) or number_key(allocation.id) != entry.key

    def _is_old_orphan(self, key: str, revision: int) -> bool:
        now = self._now()
        seen = self._orphans.get(key)
        if seen is None or seen[0] != revision:
            self._orphans[key] = (revision, now)
            return False
        return now - seen[1] >= self._orphaned_after

    async def _sweep_records(self, busy: set[Identity], orphans: set[str]) -> None:
        """Delete identity records whose number nobody holds or uses."""
        for key in self._mirrors[Bucket.IDENTITIES].live_keys():
            if key in self._desired.identities or self._ledger.entry(f"number.{key}") is not None:
                continue
            orphans.add(key)
            numeric = key.isdigit()
            if self._is_old_orphan(key, 0) and not (numeric and Identity(int(key)) in busy):
                await self._delete_record(key)

    def _busy_numbers(self) -> set[Identity]:
        """Numbers that something published refers to."""
        busy: set[Identity] = set()
        for bucket in (Bucket.ENDPOINTS, Bucket.IPCACHE):
            for _, value in self._mirrors[bucket].items():
                if isinstance(value, EndpointRecord | IpEntry):
                    busy.add(value.identity)
        return busy
