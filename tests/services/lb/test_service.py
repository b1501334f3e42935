"""The service as a process between a real NATS server and a real (embedded) API server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from typing import Any

import pytest

from shared.bus import BucketStore, Bus
from shared.contract.base import Message
from shared.contract.names import COMMIT_KEY, Bucket, event_subject
from shared.contract.node import Event
from shared.contract.service import SERVICE_TYPES
from shared.kubernetes import ENDPOINT_SLICES, SERVICES, Kubernetes
from tests.buckets import Followed, following, lose, unwritten
from tests.nats_server import NatsServer
from tests.service_process import Launch
from tests.services.lb.samples import endpoint, service_object, slice_object
from tests.services.reasons import cannot_publish
from tests.waiting import eventually


@pytest.fixture
def start(launch: Launch) -> Launch:
    return partial(launch, "lb")


@pytest.fixture
async def published(bus: Bus) -> AsyncIterator[Followed]:
    async with following(bus, Bucket.SERVICES, as_type=SERVICE_TYPES) as followed:
        yield followed


async def add_service(kubernetes: Kubernetes, name: str, **spec: Any) -> None:
    await kubernetes.create(
        SERVICES, service_object(name, clusterIP=None, clusterIPs=None, **spec), namespace="default"
    )


async def add_slice(kubernetes: Kubernetes, name: str, *endpoints: dict[str, Any], service: str) -> None:
    body = slice_object(name, *endpoints, service=service)
    await kubernetes.create(ENDPOINT_SLICES, body, namespace="default")


def backends(published: Followed, name: str) -> list[str]:
    record = published.values.get(f"service.default.{name}")
    return [backend.ip for port in record.ports for backend in port.backends] if record else []


def committed(published: Followed) -> bool:
    return bool(published.history) and published.history[-1][0] == COMMIT_KEY


async def quiet(bus: Bus) -> dict[Bucket, int]:
    return await unwritten(bus, [Bucket.SERVICES], seconds=1.5)


async def test_every_publication_ends_with_a_commit(
    kubernetes: Kubernetes, start: Launch, published: Followed
) -> None:
    process = await start()
    await eventually(lambda: published.values.get(COMMIT_KEY))
    await add_service(kubernetes, "web")
    await add_slice(kubernetes, "web-1", endpoint("10.0.1.1"), service="web")
    await eventually(lambda: backends(published, "web") == ["10.0.1.1"] and committed(published))
    assert published.values[COMMIT_KEY].backends == 1
    await kubernetes.delete(SERVICES, name="web", namespace="default")
    await eventually(lambda: "service.default.web" not in published.values and committed(published))
    assert published.values[COMMIT_KEY].services == 0
    _, metrics = await process.page("metrics")
    assert 'stentor_lb_writes_total{operation="delete"} 1.0' in metrics
    assert await process.stop() == 0


async def test_a_restart_writes_nothing_and_completes_what_was_cut_short(
    kubernetes: Kubernetes, bus: Bus, start: Launch, published: Followed
) -> None:
    for name in ("web", "db"):
        await add_service(kubernetes, name)
        await add_slice(kubernetes, f"{name}-1", endpoint("10.0.1.1"), service=name)
    first = await start()
    await eventually(lambda: backends(published, "db") and backends(published, "web"))
    before = await quiet(bus)
    await first.kill()
    second = await start()
    assert await quiet(bus) == before
    await second.kill()

    # As after a crash between the last record and the commit.
    store: BucketStore[Message] = await bus.bucket(Bucket.SERVICES, as_type=SERVICE_TYPES)
    entry = await store.get("service.default.web")
    assert entry is not None
    assert entry.value is not None
    await store.put("service.default.web", entry.value)
    await kubernetes.delete(SERVICES, name="db", namespace="default")
    await start()
    await eventually(lambda: "service.default.db" not in published.values and committed(published))
    assert backends(published, "web") == ["10.0.1.1"]


async def test_an_interrupted_publication_without_other_changes_is_closed(
    kubernetes: Kubernetes, bus: Bus, start: Launch, published: Followed
) -> None:
    await add_service(kubernetes, "web")
    first = await start()
    await eventually(lambda: "service.default.web" in published.values)
    await quiet(bus)
    await first.kill()
    store: BucketStore[Message] = await bus.bucket(Bucket.SERVICES, as_type=SERVICE_TYPES)
    await store.put("service.default.web", published.values["service.default.web"])
    await eventually(lambda: not committed(published))
    await start()
    await eventually(lambda: committed(published))


async def test_nats_killed_and_started_again_and_the_stream_lost(
    kubernetes: Kubernetes, nats: NatsServer, bus: Bus, start: Launch, published: Followed
) -> None:
    await add_service(kubernetes, "web")
    process = await start()
    await eventually(lambda: "service.default.web" in published.values)
    await nats.kill()
    await add_slice(kubernetes, "web-1", endpoint("10.0.1.1"), service="web")
    await eventually(lambda: cannot_publish(process))
    await nats.start()
    await eventually(lambda: backends(published, "web") == ["10.0.1.1"] and committed(published))

    await add_service(kubernetes, "db")
    await eventually(lambda: "service.default.db" in published.values)
    await lose(bus, Bucket.SERVICES)
    published.history.clear()
    await add_slice(kubernetes, "db-1", endpoint("10.0.1.2"), service="db")

    def restored() -> bool:
        return (
            backends(published, "web") == ["10.0.1.1"]
            and backends(published, "db") == ["10.0.1.2"]
            and committed(published)
        )

    await eventually(restored, seconds=40)
    # No commit of the new stream closed less than everything.
    seen: set[str] = set()
    for key, value in published.history:
        if key == COMMIT_KEY and value is not None:
            assert {"service.default.web", "service.default.db"} <= seen
        seen.add(key)


async def test_foreign_changes_are_mended(
    kubernetes: Kubernetes, bus: Bus, start: Launch, published: Followed
) -> None:
    await add_service(kubernetes, "web")
    await start()
    good = await eventually(lambda: published.values.get("service.default.web"))
    store: BucketStore[Message] = await bus.bucket(Bucket.SERVICES, as_type=SERVICE_TYPES)
    await store.put("service.default.ghost", good)
    await store.delete("service.default.web")
    await eventually(lambda: published.values.keys() == {"service.default.web", COMMIT_KEY})
    await eventually(lambda: committed(published))


async def test_a_bad_slice_is_told_by_name_and_its_last_good_version_stays(
    kubernetes: Kubernetes, bus: Bus, start: Launch, published: Followed
) -> None:
    await add_service(kubernetes, "web")
    await add_slice(kubernetes, "web-1", endpoint("10.0.1.1"), service="web")
    await start()
    await eventually(lambda: backends(published, "web") == ["10.0.1.1"])
    subject = event_subject(cluster=bus.cluster, service="lb", kind="object-refused")
    async with bus.subscribe(subject, as_type=Event) as events:
        bad = {"endpoints": [endpoint("127.0.0.1")]}
        await kubernetes.patch(ENDPOINT_SLICES, bad, name="web-1", namespace="default")
        async with asyncio.timeout(10):
            _, event = await anext(events)
    assert event.object == "EndpointSlice default/web-1"
    assert backends(published, "web") == ["10.0.1.1"]


async def test_two_replicas_write_nothing_twice_and_close_nothing_half(
    kubernetes: Kubernetes, bus: Bus, start: Launch, published: Followed
) -> None:
    for number in range(20):
        await add_service(kubernetes, f"early-{number}")
    first, _ = await asyncio.gather(start(), start())
    await eventually(lambda: len(published.values) == 21 and committed(published))
    for number in range(20):
        await add_service(kubernetes, f"late-{number}")
        if number == 10:
            await first.kill()
    await eventually(lambda: len(published.values) == 41 and committed(published))
    await quiet(bus)
    records = [key for key, _ in published.history if key != COMMIT_KEY]
    assert len(records) == len(set(records)) == 40
    commits = [at for at, (key, _) in enumerate(published.history) if key == COMMIT_KEY]
    seen = {key for key, _ in published.history[: commits[0]]}
    assert len(seen) == 20, "the first commit closes all there is"
