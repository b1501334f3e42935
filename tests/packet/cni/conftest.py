"""A node in a network namespace of its own, and a datapath on it that serves CNI."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest

from shared.bus import BucketStore
from shared.contract.identity import Claim
from shared.contract.names import Bucket
from tests.nats_server import NatsServer
from tests.packet.cni.datapath import Datapath
from tests.packet.namespaces import inside, make_node, maker


@pytest.fixture
def namespaces() -> Iterator[Callable[[], str]]:
    """Makes network namespaces that vanish with the test."""
    with maker() as make:
        yield make


@pytest.fixture
def node(namespaces: Callable[[], str]) -> Iterator[str]:
    """A node with the uplink eth0; the test runs inside it, as a datapath does."""
    name = make_node(namespaces)
    with inside(name):
        yield name


@pytest.fixture
async def nats(tmp_path: Path, node: str) -> AsyncIterator[NatsServer]:
    """A nats-server on the node."""
    server = NatsServer(tmp_path / "nats")
    await server.start()
    try:
        yield server
    finally:
        await server.kill()


@pytest.fixture
async def store(nats: NatsServer) -> AsyncIterator[BucketStore[Claim]]:
    """The bucket of claims, as its keeper has it."""
    bus = await nats.connect()
    try:
        yield await bus.bucket(Bucket.CLAIMS, as_type=Claim, create=True)
    finally:
        await bus.close()


@pytest.fixture
def make_datapath(tmp_path: Path, node: str, store: BucketStore[Claim]) -> Callable[[], Datapath]:
    """Makes datapaths that find what the former left."""
    return lambda: Datapath(tmp_path / "state", node, store)


@pytest.fixture
async def datapath(make_datapath: Callable[[], Datapath]) -> AsyncIterator[Datapath]:
    """One that serves."""
    async with make_datapath().running() as datapath:
        yield datapath
