"""A service as a child process, as it runs in a cluster."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path

import aiohttp

from tests.nats_server import CLUSTER, NatsServer
from tests.waiting import eventually, free_port

ROOT = Path(__file__).parents[1]

Launch = Callable[..., Awaitable["ServiceProcess"]]
"""The fixture ``launch``."""


class ServiceProcess:
    """``python -m services.<name>`` with its readiness page."""

    def __init__(
        self, name: str, *, nats: NatsServer, kubeconfig: Path, log: Path, flags: Sequence[str] = ()
    ) -> None:
        self.port = free_port()
        self._command = (
            sys.executable,
            "-m",
            f"services.{name}",
            f"--nats-url={nats.url}",
            f"--cluster={CLUSTER}",
            f"--kubeconfig={kubeconfig}",
            f"--listen=127.0.0.1:{self.port}",
            *flags,
        )
        self._log = log
        self._process: asyncio.subprocess.Process | None = None

    async def start(self, *, ready: bool = True) -> None:
        """Start, and with ``ready`` wait until it does its work."""
        environment = {key: value for key, value in os.environ.items() if not key.startswith("STENTOR_")}
        with self._log.open("ab") as log:
            self._process = await asyncio.create_subprocess_exec(
                *self._command, cwd=ROOT, stderr=log, env=environment
            )
        if ready:
            await self.wait_ready()

    async def wait_ready(self) -> None:
        """Until ``/readyz`` answers 200."""
        await eventually(self.ready)

    async def ready(self) -> bool:
        """Whether ``/readyz`` answers 200; fails when the process has ended."""
        status, _ = await self.answer("readyz")
        return status == 200

    async def reasons(self) -> str:
        """Why it is not ready, empty when it is or does not answer yet."""
        status, text = await self.answer("readyz")
        return text if status == 503 else ""

    async def answer(self, path: str) -> tuple[int, str]:
        """A page, or status 0 while it does not answer yet; fails when the process has ended."""
        assert self._process is not None
        assert self._process.returncode is None, f"the service ended:\n{self._log.read_text()}"
        try:
            return await self.page(path)
        except (aiohttp.ClientError, OSError):
            return 0, ""

    async def page(self, path: str) -> tuple[int, str]:
        """Status and text of a page of its HTTP server."""
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"http://127.0.0.1:{self.port}/{path}") as response,
        ):
            return response.status, await response.text()

    def log(self) -> str:
        """What it has logged."""
        return self._log.read_text()

    async def stop(self) -> int:
        """SIGTERM; returns the exit code."""
        assert self._process is not None
        process, self._process = self._process, None
        if process.returncode is None:
            process.send_signal(signal.SIGTERM)
        return await process.wait()

    async def kill(self) -> None:
        """SIGKILL."""
        if self._process is not None:
            process, self._process = self._process, None
            if process.returncode is None:
                process.kill()
            await process.wait()
