"""``/healthz`` (the process turns), ``/readyz`` (it does its work; if not 503, reasons) and ``/metrics``."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

from aiohttp import web
from prometheus_client import CONTENT_TYPE_LATEST, REGISTRY, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from shared.runtime.runtime import Runtime


class _RuntimeMetrics(Collector):
    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    def collect(self) -> Iterator[Metric]:
        bus, health = self._runtime.bus_if_made, self._runtime.health
        yield GaugeMetricFamily("stentor_ready", "1 when the service does its work.", value=int(health.ready))
        connected = bus is not None and bus.connected
        yield GaugeMetricFamily("stentor_nats_connected", "1 while connected to NATS.", value=int(connected))
        yield CounterMetricFamily(
            "stentor_nats_dropped_messages",
            "Flows and events not sent because NATS was away or too slow.",
            value=bus.dropped if bus else 0,
        )
        detail = GaugeMetricFamily("stentor_detail", "Counts of the service, by name.", labels=["name"])
        for name, value in health.detail.items():
            detail.add_metric([name], value)
        yield detail


@asynccontextmanager
async def serve_http(runtime: Runtime, *, host: str, port: int) -> AsyncIterator[int]:
    """Serve while the context lasts; gives the port, which the system chooses for port 0."""

    async def healthz(_: web.Request) -> web.Response:
        return web.Response(text="ok\n")

    async def readyz(_: web.Request) -> web.Response:
        reasons = runtime.health.reasons
        return web.Response(text="\n".join(reasons or ("ready",)) + "\n", status=503 if reasons else 200)

    async def metrics(_: web.Request) -> web.Response:
        return web.Response(body=generate_latest(REGISTRY), headers={"Content-Type": CONTENT_TYPE_LATEST})

    application = web.Application()
    application.add_routes(
        [web.get("/healthz", healthz), web.get("/readyz", readyz), web.get("/metrics", metrics)]
    )
    collector = _RuntimeMetrics(runtime)
    runner = web.AppRunner(application, handle_signals=False)
    await runner.setup()
    try:
        site = web.TCPSite(runner, host, port)
        await site.start()
        REGISTRY.register(collector)
        try:
            yield int(runner.addresses[0][1])
        finally:
            REGISTRY.unregister(collector)
    finally:
        await runner.cleanup()
