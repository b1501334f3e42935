"""What the service keeps in its bucket though nobody tells it, what it leaves there, and when it is ready."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path

import pytest

from services.lb.desired import DesiredServices
from services.lb.inputs import Inputs
from shared.bus import BucketStore, Bus
from shared.contract.base import Message
from shared.contract.names import Bucket, event_subject
from shared.contract.node import Event
from shared.contract.service import SERVICE_TYPES
from shared.kubernetes import ENDPOINT_SLICES, SERVICES, Kubernetes, ObjectBatch, ObjectChange
from shared.runtime.intake import REFUSED
from shared.runtime.notices import Notices
from tests.buckets import Followed, following
from tests.nats_server import NatsServer
from tests.service_process import Launch
from tests.services.lb.samples import endpoint, slice_object
from tests.services.lb.test_service import add_service, add_slice, backends, committed, quiet
from tests.services.reasons import cannot_publish
from tests.small_nats import small_nats
from tests.waiting import eventually


@pytest.fixture
def start(launch: Launch) -> Launch:
    return partial(launch, "lb")


@pytest.fixture
async def published(bus: Bus) -> AsyncIterator[Followed]:
    async with following(bus, Bucket.SERVICES, as_type=SERVICE_TYPES) as followed:
        yield followed


async def test_what_vanishes_without_a_word_is_published_again(
    kubernetes: Kubernetes, bus: Bus, start: Launch, published: Followed
) -> None:
    """No follower hears of a message that is deleted from the stream itself."""
    await add_service(kubernetes, "web")
    await start("--verify-every=1")
    await eventually(lambda: "service.default.web" in published.values and committed(published))
    store: BucketStore[Message] = await bus.bucket(Bucket.SERVICES, as_type=SERVICE_TYPES)
    entry = await store.get("service.default.web")
    assert entry is not None
    session = await bus.session()
    await session.request(f"$JS.API.STREAM.MSG.DELETE.{store.stream}", b'{"seq": %d}' % entry.revision)
    assert await store.get("service.default.web") is None
    await eventually(partial(store.get, "service.default.web"))


async def test_an_unreadable_slice_drops_no_backend_over_a_restart(
    kubernetes: Kubernetes, bus: Bus, start: Launch, published: Followed
) -> None:
    await add_service(kubernetes, "web")
    await add_slice(kubernetes, "web-1", endpoint("10.0.1.1"), service="web")
    await add_slice(kubernetes, "web-2", endpoint("10.0.1.2"), service="web")
    first = await start()
    await eventually(lambda: backends(published, "web") == ["10.0.1.1", "10.0.1.2"])
    await first.kill()
    bad = {"endpoints": [endpoint("127.0.0.1")]}
    await kubernetes.patch(ENDPOINT_SLICES, bad, name="web-1", namespace="default")
    await start()
    await quiet(bus)
    assert backends(published, "web") == ["10.0.1.1", "10.0.1.2"]
    good = {"endpoints": [endpoint("10.0.1.3")]}
    await kubernetes.patch(ENDPOINT_SLICES, good, name="web-1", namespace="default")
    await eventually(lambda: backends(published, "web") == ["10.0.1.2", "10.0.1.3"])
    await kubernetes.patch(ENDPOINT_SLICES, bad, name="web-1", namespace="default")
    await kubernetes.delete(SERVICES, name="web", namespace="default")
    await eventually(lambda: "service.default.web" not in published.values)


async def test_a_service_that_others_always_forestall_is_not_ready(
    kubernetes: Kubernetes, bus: Bus, start: Launch, published: Followed
) -> None:
    await add_service(kubernetes, "web")
    store: BucketStore[Message] = await bus.bucket(Bucket.SERVICES, as_type=SERVICE_TYPES)

    async def write() -> None:
        while True:
            await store.delete("service.default.ghost")

    writing = asyncio.create_task(write())
    process = await start(ready=False)
    await eventually(lambda: cannot_publish(process))
    writing.cancel()
    await asyncio.wait([writing])
    await process.wait_ready()
    await eventually(lambda: "service.default.web" in published.values and committed(published))


def test_a_refused_slice_that_a_snapshot_does_not_name_is_no_complaint_any_more() -> None:
    notices = Notices()
    inputs = Inputs(DesiredServices(), notices=notices)
    bad = slice_object("web-1", endpoint("127.0.0.1"), service="web")
    inputs.slices.take(ObjectBatch(snapshot=True, objects=(ObjectChange("default", "web-1", bad, "1"),)))
    assert notices.count(REFUSED) == 1
    inputs.slices.take(ObjectBatch(snapshot=True, objects=()))
    assert notices.count(REFUSED) == 0


class TestLittleRoom:
    @pytest.fixture
    async def nats(self, tmp_path: Path) -> AsyncIterator[NatsServer]:
        """In place of the usual one."""
        server = small_nats(tmp_path)
        await server.start()
        yield server
        await server.kill()

    async def test_a_service_that_nats_does_not_take_is_told_of_and_holds_up_no_other(
        self, kubernetes: Kubernetes, bus: Bus, start: Launch, published: Followed
    ) -> None:
        process = await start()
        await add_service(kubernetes, "web")
        await add_slice(kubernetes, "web-1", endpoint("10.0.1.1"), service="web")
        await eventually(lambda: backends(published, "web") == ["10.0.1.1"])
        subject = event_subject(cluster=bus.cluster, service="lb", kind="record-too-large")
        async with bus.subscribe(subject, as_type=Event) as events:
            many = {"endpoints": [endpoint(f"10.0.2.{number}") for number in range(200)]}
            await kubernetes.patch(ENDPOINT_SLICES, many, name="web-1", namespace="default")
            async with asyncio.timeout(10):
                _, event = await anext(events)
        assert event.object == "Service default/web"
        await add_service(kubernetes, "db")
        await eventually(lambda: "service.default.db" in published.values and committed(published))
        assert backends(published, "web") == ["10.0.1.1"]
        assert await process.ready()
        few = {"endpoints": [endpoint("10.0.1.2")]}
        await kubernetes.patch(ENDPOINT_SLICES, few, name="web-1", namespace="default")
        await eventually(lambda: backends(published, "web") == ["10.0.1.2"])
