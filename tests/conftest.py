"""Real servers for all tests: NATS, and the embedded API server."""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from deploy.lab.apiserver import ApiServer
from shared.bus import Bus
from shared.kubernetes import Kubernetes, connect
from tests.nats_server import NatsServer

# Started in the background of a script, this process ignores Ctrl-C, and what it starts would, too.
signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.fixture
async def nats(tmp_path: Path) -> AsyncIterator[NatsServer]:
    """A running nats-server without users."""
    server = NatsServer(tmp_path / "nats")
    await server.start()
    try:
        yield server
    finally:
        await server.kill()


@pytest.fixture
async def bus(nats: NatsServer) -> AsyncIterator[Bus]:
    """A connection to it."""
    bus = await nats.connect()
    try:
        yield bus
    finally:
        await bus.close()


@pytest.fixture
async def server() -> AsyncIterator[ApiServer]:
    """A running API server with the initial namespaces."""
    server = ApiServer()
    await server.start()
    try:
        yield server
    finally:
        await server.stop()


@pytest.fixture
def kubeconfig(server: ApiServer, tmp_path: Path) -> Path:
    """The file by which to reach it."""
    path = tmp_path / "kubeconfig"
    path.write_text(server.kubeconfig())
    return path


@pytest.fixture
async def kubernetes(kubeconfig: Path) -> AsyncIterator[Kubernetes]:
    """A connection to it."""
    api = await connect(kubeconfig=str(kubeconfig))
    try:
        yield api
    finally:
        await api.close()
