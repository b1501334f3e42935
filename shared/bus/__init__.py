"""NATS as Stentor uses it: typed key-value buckets that can be followed, and plain subjects."""

from shared.bus.bucket import BucketStore
from shared.bus.compact import keep_compact
from shared.bus.connection import Bus
from shared.bus.errors import (
    BadKey,
    BucketMissing,
    BusError,
    BusUnavailable,
    EntryError,
    JetStreamError,
    KeyExists,
    NotPermitted,
    RevisionConflict,
    TooLarge,
)
from shared.bus.mirror import Mirror
from shared.bus.patience import patiently
from shared.bus.records import Batch, Entry
from shared.bus.settings import BusSettings
from shared.bus.subscription import Subscription

__all__ = [
    "BadKey",
    "Batch",
    "BucketMissing",
    "BucketStore",
    "Bus",
    "BusError",
    "BusSettings",
    "BusUnavailable",
    "Entry",
    "EntryError",
    "JetStreamError",
    "KeyExists",
    "Mirror",
    "NotPermitted",
    "RevisionConflict",
    "Subscription",
    "TooLarge",
    "keep_compact",
    "patiently",
]
