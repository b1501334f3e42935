"""What the policy service counts."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

POLICIES = Gauge("stentor_policy_policies", "Policies in force.")
REFUSED = Gauge("stentor_policy_refused", "Policies refused as written.")
SETS = Gauge("stentor_policy_sets", "Policy sets published.")
ROWS = Gauge("stentor_policy_rows", "Rows published, without the sets' default rows.")
CLASSES = Gauge("stentor_policy_classes", "Peer classes that published rows speak of.")
RETIRED = Gauge("stentor_policy_retired", "Published things that wait to be taken away.")
WRITES = Counter("stentor_policy_writes", "Records written, commits included.")
PUBLISH_SECONDS = Histogram(
    "stentor_policy_publish_seconds",
    "Time from taking up changes to the acknowledgement of their commit.",
    buckets=(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10),
)
