"""Prometheus metrics of the datapath, read from the kernel and the realiser when they are asked for."""

from __future__ import annotations

from collections.abc import Iterator

from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from services.datapath.kernel.layout import DROP_COUNTER, U32
from services.datapath.realise import Realiser
from shared.contract.drops import DropReason


class DatapathCollector(Collector):
    """Drops by reason and direction, events lost by class, map occupancy, revisions, drift."""

    def __init__(self, realiser: Realiser) -> None:
        self._realiser = realiser

    def collect(self) -> Iterator[Metric]:
        """All metrics, now."""
        yield from self._drops()
        lost = CounterMetricFamily(
            "stentor_datapath_events_lost", "Events that found their ring full.", labels=["class"]
        )
        for name, count in self._realiser.events_lost().items():
            lost.add_metric([name], count)
        yield lost
        state = self._realiser.report()
        entries = GaugeMetricFamily("stentor_datapath_map_entries", "Entries of eBPF maps.", labels=["map"])
        capacity = GaugeMetricFamily("stentor_datapath_map_capacity", "Room of eBPF maps.", labels=["map"])
        for name, use in state.maps.items():
            entries.add_metric([name], use.entries)
            capacity.add_metric([name], use.capacity)
        yield entries
        yield capacity
        revisions = GaugeMetricFamily(
            "stentor_datapath_realised_revision", "Revision that the kernel holds.", labels=["bucket"]
        )
        revisions.add_metric(["policy"], state.policy_revision)
        revisions.add_metric(["services"], state.services_revision)
        revisions.add_metric(["ipcache"], state.ipcache_revision)
        yield revisions
        yield CounterMetricFamily(
            "stentor_datapath_drift_repaired",
            "Kernel entries found wrong and mended.",
            value=state.drift_repaired,
        )
        ready = GaugeMetricFamily("stentor_datapath_endpoints", "Pods of this node.", labels=["ready"])
        for value in (True, False):
            ready.add_metric([str(value).lower()], sum(e.ready is value for e in state.endpoints))
        yield ready

    def _drops(self) -> Iterator[Metric]:
        packets = CounterMetricFamily(
            "stentor_datapath_drop_packets", "Dropped packets.", labels=["reason", "direction"]
        )
        octets = CounterMetricFamily(
            "stentor_datapath_drop_bytes", "Dropped bytes.", labels=["reason", "direction"]
        )
        for reason in DropReason:
            for index, direction in enumerate(("egress", "ingress")):
                values = self._realiser.kernel.drops.per_cpu(U32.pack(reason * 2 + index))
                counts = [DROP_COUNTER.unpack(value) for value in values]
                packets.add_metric([reason.text, direction], sum(count[0] for count in counts))
                octets.add_metric([reason.text, direction], sum(count[1] for count in counts))
        yield packets
        yield octets
