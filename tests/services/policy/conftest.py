"""The policy service as a process, and the cluster around it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial

import pytest

from shared.bus import BucketStore, Bus
from shared.contract.identity import IdentityRecord, IpEntry, NodeRecord
from shared.contract.names import Bucket, ip_key
from shared.contract.policy import POLICY_TYPES, PolicyStatus
from tests.buckets import Followed, following
from tests.service_process import Launch
from tests.services.policy.cluster import DB, WEB, Node, record


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
    store = await bus.bucket(Bucket.IDENTITIES, as_type=IdentityRecord, create=True)
    ipcache = await bus.bucket(Bucket.IPCACHE, as_type=IpEntry, create=True)
    nodes = await bus.bucket(Bucket.NODES, as_type=NodeRecord, create=True)
    await store.put(str(WEB), record(WEB, "web"))
    await store.put(str(DB), record(DB, "db"))
    await ipcache.put(ip_key("10.0.0.5"), IpEntry(ip="10.0.0.5", identity=WEB, node="node-1"))
    await nodes.put("node-1", NodeRecord(name="node-1", pod_cidrs=("10.0.0.0/24",)))
    return store


@pytest.fixture
async def published(bus: Bus) -> AsyncIterator[Followed]:
    async with following(bus, Bucket.POLICY, as_type=POLICY_TYPES) as followed:
        yield followed


@pytest.fixture
async def statuses(bus: Bus) -> AsyncIterator[Followed]:
    async with following(bus, Bucket.POLICY_STATUS, as_type=PolicyStatus) as followed:
        yield followed
