"""Services as processes between the real servers."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from tests.nats_server import NatsServer
from tests.service_process import Launch, ServiceProcess


@pytest.fixture
async def launch(nats: NatsServer, kubeconfig: Path, tmp_path: Path) -> AsyncIterator[Launch]:
    """Starts a service by name, with flags; ``via`` another kubeconfig; without waiting unless ``ready``."""
    processes: list[ServiceProcess] = []

    async def launch(name: str, *flags: str, via: Path = kubeconfig, ready: bool = True) -> ServiceProcess:
        log = tmp_path / f"{name}-{len(processes)}.log"
        process = ServiceProcess(name, nats=nats, kubeconfig=via, log=log, flags=flags)
        processes.append(process)
        await process.start(ready=ready)
        return process

    yield launch
    for process in processes:
        await process.kill()
