"""A real nats-server on a free loopback port, which tests may kill, stop, and start again."""

from __future__ import annotations

import shutil
import signal
import subprocess
from dataclasses import replace
from pathlib import Path
from typing import Any

from shared.bus import Bus, BusSettings
from tests.waiting import eventually, free_port, listens

CLUSTER = "test"


class NatsServer:
    """One nats-server with JetStream in ``directory``, or with a configuration that names its own store."""

    def __init__(
        self, directory: Path, *, configuration: Path | None = None, port: int | None = None
    ) -> None:
        self.port = port or free_port()
        self.url = f"nats://127.0.0.1:{self.port}"
        self.store = directory / "jetstream"
        self._directory = directory
        self._configuration = configuration
        self._process: subprocess.Popen[bytes] | None = None

    def spawn(self) -> None:
        """Start, without waiting; clients wait themselves."""
        self._directory.mkdir(exist_ok=True)
        if self._configuration is not None:
            command = ["-c", str(self._configuration)]
        else:
            command = ["-a", "127.0.0.1", "-p", str(self.port), "-js", "-sd", str(self.store)]
        # It does not outlive the tests, whatever ends them.
        mortal = ["setpriv", "--pdeathsig", "KILL", "--"]
        self._process = subprocess.Popen(
            [*mortal, "nats-server", *command, "-l", self._directory / "nats.log"]
        )

    async def start(self) -> None:
        """Start and wait until it takes connections."""
        self.spawn()
        await eventually(lambda: listens(self.port))

    def end(self) -> None:
        """SIGKILL, and wait for its end, which does not take long."""
        if self._process is not None:
            self._process.kill()
            self._process.wait()
            self._process = None

    async def kill(self) -> None:
        """SIGKILL."""
        self.end()

    def freeze(self, *, frozen: bool = True) -> None:
        """Stop or continue the process: connections stay open and nothing comes."""
        assert self._process is not None
        self._process.send_signal(signal.SIGSTOP if frozen else signal.SIGCONT)

    def reload(self) -> None:
        """Have the configuration read again."""
        assert self._process is not None
        self._process.send_signal(signal.SIGHUP)

    def wipe(self) -> None:
        """Delete all that was stored; the server must not run."""
        assert self._process is None
        shutil.rmtree(self.store)

    def settings(self, **more: Any) -> BusSettings:
        """Settings for a connection that notices trouble fast."""
        quick = BusSettings(url=self.url, request_seconds=3.0, idle_heartbeat_seconds=0.3, cluster=CLUSTER)
        return replace(quick, **more)

    async def connect(self, **more: Any) -> Bus:
        """A bus."""
        return await Bus.connect(self.settings(**more), name="test")
