"""What the lb service counts."""

from __future__ import annotations

from prometheus_client import Counter, Gauge, Histogram

SERVICES = Gauge("stentor_lb_services", "Services with frontends.")
BACKENDS = Gauge("stentor_lb_backends", "Backends of all ports of all Services.")
REFUSED = Gauge("stentor_lb_objects_refused", "Services and EndpointSlices that cannot be read.")
WRITES = Counter("stentor_lb_writes", "Service records written, by operation.", ["operation"])
COMMITS = Counter("stentor_lb_commits", "Publications.")
PUBLISH_SECONDS = Histogram(
    "stentor_lb_publish_seconds",
    "Time from taking up changes to their last acknowledgement.",
    buckets=(0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5, 10),
)
