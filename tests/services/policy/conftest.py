"""The policy service as a process, and the cluster around it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial

import pytest

from shared.bus import BucketStore, Bus
from shared.contract.identity import IdentityRecord
from shared.contract.names import Bucket, event_subject
from shared.contract.node import Event
from shared.contract.policy import POLICY_TYPES, PolicyStatus
from tests.buckets import Followed, following
from tests.service_process import Launch
from tests.services.policy.cluster import Hear, Node, fill_identities, fill_ipcache, fill_nodes, fill_settings


@pytest.fixture
def start(launch: Launch) -> Launch:
    """Starts a replica of the service."""
    return partial(launch, "policy")


@pytest.fixture
async def node(bus: Bus) -> AsyncIterator[Node]:
    made = Node(bus)
    running = asyncio.create_task(made.run())
    yield made
    running.cancel()
    await asyncio.wait([running])


@pytest.fixture
async def identities(bus: Bus, node: Node) -> BucketStore[IdentityRecord]:
    """The identity service's buckets, with a client and a server in namespace ``default``."""
    await fill_settings(bus)
    await fill_ipcache(bus)
    await fill_nodes(bus)
    return await fill_identities(bus)


@pytest.fixture
async def published(bus: Bus) -> AsyncIterator[Followed]:
    async with following(bus, Bucket.POLICY, as_type=POLICY_TYPES) as followed:
        yield followed


@pytest.fixture
async def statuses(bus: Bus) -> AsyncIterator[Followed]:
    async with following(bus, Bucket.POLICY_STATUS, as_type=PolicyStatus) as followed:
        yield followed


@pytest.fixture
async def hear(bus: Bus) -> AsyncIterator[Hear]:
    """Begins to listen for events of a kind; gives the list that they come into."""
    listening: list[asyncio.Task[None]] = []

    async def listen(kind: str, events: list[Event]) -> None:
        subject = event_subject(cluster=bus.cluster, service="policy", kind=kind)
        async for _, event in bus.subscribe(subject, as_type=Event):
            events.append(event)

    def begin(kind: str) -> list[Event]:
        events: list[Event] = []
        listening.append(asyncio.create_task(listen(kind, events)))
        return events

    yield begin
    for task in listening:
        task.cancel()
    await asyncio.gather(*listening, return_exceptions=True)
