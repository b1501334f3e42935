"""What the service keeps in its buckets though nobody tells it, in what order it writes, what it leaves."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from services.identity.ledger import open_ledger
from services.identity.publication import PUBLISHED, Publication
from shared.bus import BucketStore, Bus, Mirror
from shared.contract.base import Identity, Message
from shared.contract.identity import EndpointRecord, IpEntry, LabelRules
from shared.contract.names import LABELS_KEY, Bucket, event_subject
from shared.contract.node import Event
from shared.kubernetes import Kubernetes
from shared.labels import NOISY_LABELS
from shared.runtime.upkeep import Room
from tests.buckets import Followed, following
from tests.nats_server import NatsServer
from tests.service_process import Launch
from tests.services.identity.samples import Cluster
from tests.services.identity.test_service import add_node, add_pod, relabel
from tests.small_nats import LARGEST, small_nats
from tests.waiting import eventually


@pytest.fixture
def start(launch: Launch) -> Launch:
    return partial(launch, "identity")


@pytest.fixture
async def endpoints(bus: Bus) -> AsyncIterator[Followed]:
    async with following(bus, Bucket.ENDPOINTS, as_type=EndpointRecord) as followed:
        yield followed


class _Store:
    """Notes what is put where, and takes its time."""

    def __init__(self, bucket: Bucket, notes: list[Bucket]) -> None:
        self._bucket = bucket
        self._notes = notes

    async def put_many(self, items: list[tuple[str, Message | None]]) -> int:
        await asyncio.sleep(0)
        if items:
            self._notes.append(self._bucket)
        return 1


async def test_nodes_are_published_after_all_else(bus: Bus) -> None:
    cluster = Cluster()
    cluster.pod("p", ips=("10.0.1.5",))
    cluster.settle()
    notes: list[Bucket] = []
    stores: Any = {bucket: _Store(bucket, notes) for bucket in PUBLISHED}
    mirrors: dict[Bucket, Mirror[Message]] = {bucket: Mirror() for bucket in PUBLISHED}
    rooms = {bucket: Room(bus, cluster.notices) for bucket in PUBLISHED}
    publication = Publication(cluster.desired, stores=stores, mirrors=mirrors, rooms=rooms)
    for bucket in PUBLISHED:
        publication.note_all(bucket)
    await publication.flush()
    assert notes[:2] == [Bucket.SETTINGS, Bucket.IDENTITIES]
    assert set(notes[2:4]) == {Bucket.ENDPOINTS, Bucket.IPCACHE}
    assert notes[4:] == [Bucket.NODES]


async def test_which_labels_make_identities_is_published(bus: Bus, start: Launch) -> None:
    await start("--exclude-label=team")
    async with following(bus, Bucket.SETTINGS, as_type=LabelRules) as settings:
        rules = await eventually(lambda: settings.values.get(LABELS_KEY))
    assert rules == LabelRules(excluded=tuple(sorted((*NOISY_LABELS, "team"))))


async def test_what_vanishes_without_a_word_is_published_again(
    kubernetes: Kubernetes, bus: Bus, start: Launch, endpoints: Followed
) -> None:
    """No follower hears of a message that is deleted from the stream itself."""
    await add_node(kubernetes)
    await add_pod(kubernetes, "p", ips=("10.0.1.5",))
    await start("--verify-every=1")
    endpoint = await eventually(lambda: endpoints.values.get("node-1.default.p"))
    lost: list[tuple[BucketStore[Any], str]] = [
        (await bus.bucket(Bucket.ENDPOINTS, as_type=EndpointRecord), "node-1.default.p"),
        (await bus.bucket(Bucket.IPCACHE, as_type=IpEntry), "10-0-1-5"),
        (await open_ledger(bus), f"number.{endpoint.identity}"),
    ]
    session = await bus.session()
    for store, key in lost:
        entry = await eventually(partial(store.get, key))
        await session.request(f"$JS.API.STREAM.MSG.DELETE.{store.stream}", b'{"seq": %d}' % entry.revision)
        assert await store.get(key) is None
    for store, key in lost:
        await eventually(partial(store.get, key))


@pytest.fixture
async def small(tmp_path: Path) -> AsyncIterator[NatsServer]:
    server = small_nats(tmp_path)
    await server.start()
    yield server
    await server.kill()


class TestLittleRoom:
    @pytest.fixture
    def nats(self, small: NatsServer) -> NatsServer:
        """In place of the usual one."""
        return small

    async def test_a_record_that_nats_does_not_take_is_told_of_and_holds_up_no_other(
        self, kubernetes: Kubernetes, bus: Bus, start: Launch, endpoints: Followed
    ) -> None:
        process = await start()
        subject = event_subject(cluster=bus.cluster, service="identity", kind="record-too-large")
        async with bus.subscribe(subject, as_type=Event) as events:
            many = {f"label-{number}": "x" * 60 for number in range(LARGEST // 100)}
            await add_pod(kubernetes, "large", labels=many)
            async with asyncio.timeout(10):
                _, event = await anext(events)
        assert "IdentityRecord" in event.object
        await add_pod(kubernetes, "small")
        await eventually(lambda: "node-1.default.small" in endpoints.values)
        assert await process.ready()
        await relabel(kubernetes, "small", app="moved")
        number = Identity(endpoints.values["node-1.default.small"].identity)
        await eventually(lambda: endpoints.values["node-1.default.small"].identity != number)
