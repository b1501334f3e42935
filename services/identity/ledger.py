"""The bucket ``allocations``: which number belongs to which label set.

``labels.<hash>`` says a label set's number; ``number.<n>`` says whose a number is. Every write is a
compare-and-set, so any number of replicas may write at once and any may die between two writes.
"""

from __future__ import annotations

from services.identity.labels import LabelsHash
from shared.bus import BucketStore, Bus
from shared.contract.base import Identity, Message
from shared.contract.names import Bucket


class LabelsAllocation(Message, frozen=True, kw_only=True):
    """Key ``labels.<hash>``: the number of a label set, good while ``number.<id>`` agrees."""

    id: Identity
    unused_since: str = ""
    """RFC 3339, UTC: since when no pod has these labels; empty while one has."""


class NumberHold(Message, frozen=True, kw_only=True):
    """Key ``number.<n>``: the one label set that may have this number."""

    labels: LabelsHash
    confirmed: bool = False
    """Written again after ``labels.<hash>`` was: from here on the pair is settled."""


def labels_key(labels: LabelsHash) -> str:
    """The key of a label set's allocation."""
    return f"labels.{labels}"


def number_key(identity: Identity) -> str:
    """The key of a number's hold."""
    return f"number.{identity}"


async def open_ledger(bus: Bus) -> BucketStore[Message]:
    """The bucket of this cluster, created unless it exists."""
    types: dict[str, type[Message]] = {"labels": LabelsAllocation, "number": NumberHold}
    return await bus.bucket(Bucket.ALLOCATIONS, as_type=types, create=True)
