"""Numbers for label sets: at most one number each, no number twice, the same over any restart.

Acquiring a new number takes three compare-and-sets: hold ``number.<n>``, create ``labels.<hash>`` = n,
confirm ``number.<n>``. Whoever creates ``labels.<hash>`` decides; others adopt it. A number counts only when
both keys agree and the hold is confirmed. Releasing removes ``labels.<hash>`` first and the hold last, each
only at the revision that was judged, so a replica that takes the labels up again in between makes the
removal fail. A replica that dies half-way leaves a hold that the same label set takes up again, or that
:mod:`services.identity.release` removes.

The number tried first is derived from the hash, so that even a cluster that lost its ledger comes by mostly
the same numbers again.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec

from services.identity.errors import AllocationContended, NumbersExhausted
from services.identity.labels import LabelSet, LabelsHash
from services.identity.ledger import LabelsAllocation, NumberHold, labels_key, number_key
from shared.bus import BucketStore, Entry, KeyExists, Mirror, RevisionConflict
from shared.contract.base import Identity, Message
from shared.contract.reserved import FIRST_ALLOCATED, LAST_ALLOCATED

ATTEMPTS = 32
"""Lost compare-and-sets in a row before an acquisition is put off."""


class IdentityAllocator:
    """Acquires numbers. ``mirror`` is the followed ledger, ``is_taken`` names numbers to avoid."""

    def __init__(
        self,
        ledger: BucketStore[Message],
        mirror: Mirror[Message],
        *,
        is_taken: Callable[[Identity, LabelsHash], bool],
        first: int = FIRST_ALLOCATED,
        last: int = LAST_ALLOCATED,
    ) -> None:
        self._ledger = ledger
        self._mirror = mirror
        self._is_taken = is_taken
        self._first = first
        self.capacity = last - first + 1
        """How many numbers there are."""

    def known(self, labels: LabelsHash) -> Identity | None:
        """The label set's number if it is settled and marked as in use; costs no request."""
        allocation = self._mirror.get(labels_key(labels))
        if not isinstance(allocation, LabelsAllocation) or allocation.unused_since:
            return None
        hold = self._mirror.get(number_key(allocation.id))
        settled = isinstance(hold, NumberHold) and hold.labels == labels and hold.confirmed
        return allocation.id if settled else None

    async def acquire(
        self, labels: LabelsHash, label_set: LabelSet, *, preferred: Identity | None = None
    ) -> Identity:
        """The label set's number, allocated if it has none; ``preferred`` is tried first then.

        Raises :class:`NumbersExhausted`, :class:`AllocationContended`, or a BusError; may then be repeated.
        """
        identity = self.known(labels)
        if identity is not None:
            return identity
        for _ in range(ATTEMPTS):
            try:
                identity = await self._attempt(labels, label_set, preferred)
            except (KeyExists, RevisionConflict):
                continue
            if identity is not None:
                return identity
        raise AllocationContended(labels=label_set.describe(), attempts=ATTEMPTS)

    async def _attempt(
        self, labels: LabelsHash, label_set: LabelSet, preferred: Identity | None
    ) -> Identity | None:
        """One try; None (or a lost compare-and-set) means that the state is to be looked at again."""
        key = labels_key(labels)
        entry = await self._ledger.get(key)
        if entry is None or not isinstance(entry.value, LabelsAllocation):
            identity, revision = await self._hold(labels, label_set, preferred)
            await self._create(key, LabelsAllocation(id=identity))
            await self._update(number_key(identity), NumberHold(labels=labels, confirmed=True), revision)
            return identity
        allocation = entry.value
        identity = allocation.id
        hold = await self._ledger.get(number_key(identity))
        if hold is None:
            await self._create(number_key(identity), NumberHold(labels=labels, confirmed=True))
            return None
        if not isinstance(hold.value, NumberHold) or hold.value.labels != labels:
            await self._remove(key, entry.revision)
            return None
        self._mirror.wrote([(hold.key, hold.value)], revision=hold.revision)
        if not hold.value.confirmed:
            await self._update(hold.key, NumberHold(labels=labels, confirmed=True), hold.revision)
        if allocation.unused_since:
            await self._update(key, LabelsAllocation(id=identity), entry.revision)
        else:
            self._mirror.wrote([(key, allocation)], revision=entry.revision)
        return identity

    async def _hold(
        self, labels: LabelsHash, label_set: LabelSet, preferred: Identity | None
    ) -> tuple[Identity, int]:
        """Holds a number for the label set, unconfirmed; returns it and the hold's revision."""
        wanted = NumberHold(labels=labels)
        for identity in self._candidates(labels, preferred):
            key = number_key(identity)
            known = self._mirror.get(key)
            if isinstance(known, NumberHold) and known.labels != labels:
                continue
            if self._is_taken(identity, labels):
                continue
            try:
                return identity, await self._create(key, wanted)
            except KeyExists:
                held: Entry[Message] | None = await self._ledger.get(key)
            if held is not None and isinstance(held.value, NumberHold) and held.value.labels == labels:
                return identity, await self._update(key, wanted, held.revision)
        raise NumbersExhausted(labels=label_set.describe(), capacity=self.capacity)

    def _candidates(self, labels: LabelsHash, preferred: Identity | None) -> Iterator[Identity]:
        if preferred is not None and self._first <= preferred < self._first + self.capacity:
            yield preferred
        start = int(labels[:16], 16)
        for offset in range(self.capacity):
            yield Identity(self._first + (start + offset) % self.capacity)

    async def mark_unused(self, labels: LabelsHash, *, since: str) -> None:
        """Note durably since when no pod has these labels; may raise RevisionConflict."""
        entry = self._mirror.entry(labels_key(labels))
        if entry is not None and isinstance(entry.value, LabelsAllocation):
            marked = msgspec.structs.replace(entry.value, unused_since=since)
            await self._update(entry.key, marked, entry.revision)

    async def remove(self, entry: Entry[Message]) -> None:
        """Remove a key of the ledger as it was seen; raises RevisionConflict if it has changed."""
        await self._remove(entry.key, entry.revision)

    async def _create(self, key: str, message: Message) -> int:
        revision = await self._ledger.create(key, message)
        self._mirror.wrote([(key, message)], revision=revision)
        return revision

    async def _update(self, key: str, message: Message, revision: int) -> int:
        revision = await self._ledger.update(key, message, revision=revision)
        self._mirror.wrote([(key, message)], revision=revision)
        return revision

    async def _remove(self, key: str, revision: int) -> None:
        removed = await self._ledger.delete(key, revision=revision)
        self._mirror.wrote([(key, None)], revision=removed)
