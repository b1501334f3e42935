"""A nats-server with the configuration that deploy/nats writes."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path

import pytest

from deploy.nats import write_configuration
from shared.bus import Bus
from tests.nats_server import NatsServer
from tests.waiting import free_port

NODES = ("node-1", "node-2.example")

Connect = Callable[[str], Awaitable[Bus]]


@pytest.fixture
async def connect(tmp_path: Path) -> AsyncIterator[Connect]:
    """Connects as a user."""
    port = free_port()
    layout = write_configuration(tmp_path / "nats", cluster="test", nodes=NODES, port=port)
    server = NatsServer(tmp_path, configuration=layout.configuration, port=port)
    await server.start()
    async with AsyncExitStack() as stack:
        stack.push_async_callback(server.kill)

        async def connect(user: str) -> Bus:
            bus = await server.connect(
                user=user, password_file=layout.password_file(user), request_seconds=1.5
            )
            stack.push_async_callback(bus.close)
            return bus

        yield connect
