"""A nats-server that takes only small messages."""

from __future__ import annotations

from pathlib import Path

from tests.nats_server import NatsServer
from tests.waiting import free_port

LARGEST = 16 * 1024


def small_nats(directory: Path) -> NatsServer:
    """It takes at most :data:`LARGEST` bytes."""
    port = free_port()
    configuration = directory / "small.conf"
    store = f'jetstream {{ store_dir: "{directory}/small" }}'
    configuration.write_text(f'listen: "127.0.0.1:{port}"\nmax_payload: {LARGEST}\n{store}\n')
    return NatsServer(directory / "nats", configuration=configuration, port=port)
