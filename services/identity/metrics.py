"""What the identity service counts."""

from __future__ import annotations

from collections.abc import Sequence

from prometheus_client import Counter, Gauge, Histogram

from shared.contract.base import Message
from shared.contract.names import Bucket

WRITES = Counter("stentor_identity_writes", "Keys written, by bucket and operation.", ["bucket", "operation"])
DESIRED = Gauge("stentor_identity_desired_keys", "Keys that ought to be published, by bucket.", ["bucket"])
ALLOCATED = Gauge("stentor_identity_numbers_held", "Identity numbers held by a label set, used or not.")
OCCUPANCY = Gauge("stentor_identity_occupancy_ratio", "Share of all identity numbers that is held.")
ALARM = Gauge(
    "stentor_identity_occupancy_alarm", "1 while occupancy is above the threshold in percent.", ["threshold"]
)
RELEASED = Counter("stentor_identity_numbers_released", "Numbers freed after their grace time.")
WAITING = Gauge("stentor_identity_pods_waiting", "Bound pods without a published identity yet.")
INVALID_CLAIMS = Gauge("stentor_identity_claims_invalid", "Claims of datapaths that are ignored.")
ADDRESS_CONFLICTS = Gauge("stentor_identity_address_conflicts", "Addresses that more than one object tells.")
REFUSED = Gauge("stentor_identity_objects_refused", "Kubernetes objects that cannot be read.")
PUBLISH_SECONDS = Histogram(
    "stentor_identity_publish_seconds",
    "Time from taking up changes to their last acknowledgement.",
    buckets=(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10),
)


def writes(bucket: Bucket, items: Sequence[tuple[str, Message | None]]) -> None:
    """Count acknowledged writes; None is a deletion."""
    deletions = sum(1 for _, value in items if value is None)
    WRITES.labels(bucket.value, "put").inc(len(items) - deletions)
    WRITES.labels(bucket.value, "delete").inc(deletions)
