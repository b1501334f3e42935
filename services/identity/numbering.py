"""Keeps every label set in use numbered: acquires what is missing, and again what the ledger lost."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable

from services.identity.allocation import IdentityAllocator
from services.identity.desired import DesiredState
from services.identity.errors import IdentityError
from services.identity.labels import LabelSet, LabelsHash, label_set_of
from services.identity.ledger import NumberHold
from shared.bus import Batch, BusError, Mirror
from shared.contract.base import ContractError, Identity, Message
from shared.contract.identity import IdentityRecord
from shared.runtime.notices import Notices

_AT_ONCE = 64
NOT_ALLOCATED = "identity-not-allocated"


class Numbering:
    """Between the desired state, which knows the labels in use, and the ledger, which knows their numbers."""

    def __init__(
        self,
        desired: DesiredState,
        allocator: IdentityAllocator,
        *,
        ledger: Mirror[Message],
        identities: Mirror[Message],
        notices: Notices,
    ) -> None:
        self._desired = desired
        self._allocator = allocator
        self._ledger = ledger
        self._identities = identities
        self._notices = notices
        self._doubtful: set[LabelsHash] = set()
        self._published: dict[LabelsHash, Identity] | None = None
        """Numbers of the published records, read when the ledger was read anew."""
        self.refused: set[LabelsHash] = set()
        """Label sets that got no number at the last attempt and need one still."""

    def absorb(self, batch: Batch[Message]) -> bool:
        """Take a batch of the followed ledger; True when a number in use may have been lost by it."""
        touched = self._ledger.absorb(batch)
        if batch.snapshot:
            self._published = None
            self._doubtful |= self._desired.used_label_sets().keys()
        else:
            self._doubtful |= set(self._labels_of(touched, batch))
        self._doubtful = {labels for labels in self._doubtful if self._is_doubtful(labels)}
        return bool(self._doubtful)

    def _labels_of(self, touched: Iterable[str], batch: Batch[Message]) -> Iterable[LabelsHash]:
        for key in touched:
            kind, _, rest = key.partition(".")
            if kind == "labels":
                yield LabelsHash(rest)
        for entry in batch.entries:
            if isinstance(entry.value, NumberHold):
                yield entry.value.labels
            elif entry.value is None and entry.key.startswith("number."):
                record = self._identities.get(entry.key.removeprefix("number."))
                if isinstance(record, IdentityRecord):
                    yield label_set_of(record).digest()

    def _is_doubtful(self, labels: LabelsHash) -> bool:
        number = self._desired.number(labels)
        return number is not None and self._allocator.known(labels) != number

    async def complete(self) -> None:
        """Number what can be numbered; raises a BusError when NATS fails, and may be repeated."""
        wanted = dict(self._desired.unnumbered)
        used = self._desired.used_label_sets() if self._doubtful else {}
        for labels in self._doubtful:
            if labels in used and self._is_doubtful(labels):
                wanted[labels] = used[labels]
        self._doubtful.clear()
        for labels in self.refused - wanted.keys():
            self._notices.clear(NOT_ALLOCATED, about=labels)
        self.refused.clear()
        missing = {}
        for labels, label_set in wanted.items():
            known = self._allocator.known(labels)
            if known is None:
                missing[labels] = label_set
            else:
                self._accept(labels, known)
        if missing:
            await self._acquire(missing)

    async def _acquire(self, missing: dict[LabelsHash, LabelSet]) -> None:
        limit = asyncio.Semaphore(_AT_ONCE)
        failures: list[BusError] = []
        published = self._published_numbers()

        async def acquire(labels: LabelsHash, label_set: LabelSet) -> None:
            preferred = self._desired.number(labels) or published.get(labels)
            try:
                async with limit:
                    identity = await self._allocator.acquire(labels, label_set, preferred=preferred)
            except BusError as error:
                failures.append(error)
                self._doubtful.add(labels)
            except (IdentityError, ContractError) as error:
                self.refused.add(labels)
                self._doubtful.add(labels)
                self._notices.report(
                    NOT_ALLOCATED, about=labels, object=label_set.describe(), message=f"no identity: {error}"
                )
            else:
                self._accept(labels, identity)

        async with asyncio.TaskGroup() as tasks:
            for labels, label_set in missing.items():
                tasks.create_task(acquire(labels, label_set), name=f"acquire {labels[:16]}")
        if failures:
            raise failures[0]

    def _accept(self, labels: LabelsHash, identity: Identity) -> None:
        self._notices.clear(NOT_ALLOCATED, about=labels)
        self._desired.set_number(labels, identity)

    def _published_numbers(self) -> dict[LabelsHash, Identity]:
        """Numbers by label set as published: what a cluster that lost its ledger goes by."""
        if self._published is None:
            self._published = {
                label_set_of(record).digest(): record.id
                for key, record in self._identities.items()
                if isinstance(record, IdentityRecord) and str(record.id) == key
            }
        return self._published


def is_taken(identities: Mirror[Message], identity: Identity, labels: LabelsHash) -> bool:
    """Whether a record of this number is published for other labels, whatever the ledger says."""
    record = identities.get(str(identity))
    return isinstance(record, IdentityRecord) and label_set_of(record).digest() != labels


def numbers_held(ledger: Mirror[Message]) -> int:
    """How many numbers are held."""
    return sum(1 for _, value in ledger.items() if isinstance(value, NumberHold))
