"""A replica that does not hear the API server, beside one that does."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from deploy.lab.apiserver import ApiServer
from shared.bus import BucketStore, Bus
from shared.contract.base import Message
from shared.contract.names import Bucket
from shared.contract.service import SERVICE_TYPES
from shared.kubernetes import SERVICES, Kubernetes
from tests.api_gateway import gateway_to
from tests.buckets import following
from tests.service_process import Launch
from tests.services.lb.test_service import add_service, committed, quiet
from tests.waiting import eventually


async def test_it_undoes_nothing_and_mends_again_when_it_hears(
    kubernetes: Kubernetes, bus: Bus, launch: Launch, server: ApiServer, kubeconfig: Path
) -> None:
    start = partial(launch, "lb")
    async with (
        gateway_to(kubeconfig, upstream=server.address.url) as (gateway, behind),
        following(bus, Bucket.SERVICES, as_type=SERVICE_TYPES) as published,
    ):
        current = await start()
        cut_off = await start("--verify-every=1", via=behind)
        await quiet(bus)
        gateway.answers[SERVICES.path()] = (503, "no healthy upstream")
        gateway.cut()
        await eventually(cut_off.reasons)
        await add_service(kubernetes, "web")
        await eventually(lambda: "service.default.web" in published.values and committed(published))
        await current.kill()
        await quiet(bus)
        assert ("service.default.web", None) not in published.history
        gateway.answers.clear()
        await cut_off.wait_ready()
        store: BucketStore[Message] = await bus.bucket(Bucket.SERVICES, as_type=SERVICE_TYPES)
        await store.delete("service.default.web")
        await eventually(lambda: ("service.default.web", None) in published.history)
        await eventually(lambda: "service.default.web" in published.values and committed(published))
        await cut_off.kill()
