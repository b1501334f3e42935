"""A real nats-server for all tests of the command line, a cluster for each, the program as a process."""

from __future__ import annotations

import asyncio
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pytest

from shared.bus import Bus, BusSettings
from tests.deploy.cli.world import World
from tests.nats_server import NatsServer

REPOSITORY = Path(__file__).resolve().parents[3]

Run = Callable[..., "subprocess.CompletedProcess[str]"]
Start = Callable[..., "asyncio.Future[subprocess.CompletedProcess[str]]"]


@pytest.fixture(scope="session")
def nats_url(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    server = NatsServer(tmp_path_factory.mktemp("nats"))
    server.spawn()
    yield server.url
    server.end()


@pytest.fixture
def cluster(request: pytest.FixtureRequest) -> str:
    """A name that no other test has, so that all can share the server."""
    return f"t{abs(hash(request.node.nodeid)):x}"


@pytest.fixture
async def bus(nats_url: str, cluster: str) -> AsyncIterator[Bus]:
    bus = await Bus.connect(BusSettings(url=nats_url, cluster=cluster), name="test")
    yield bus
    await bus.close()


@pytest.fixture
async def world(bus: Bus) -> World:
    """A cluster of two nodes in which all is well."""
    made = World(bus)
    await made.publish()
    return made


def environment(**more: str) -> dict[str, str]:
    """As a user's shell has it, without anything that steers Stentor or colours."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("STENTOR_")}
    for name in ("NO_COLOR", "FORCE_COLOR", "GITHUB_ACTIONS", "PY_COLORS", "KUBECONFIG"):
        kept.pop(name, None)
    return {**kept, "PYTHONPATH": str(REPOSITORY), **more}


def execute(
    command: Sequence[str], *, variables: Mapping[str, str], head: int | None
) -> subprocess.CompletedProcess[str]:
    """Run to the end; with ``head`` the reader of its output goes away after so many lines."""
    with subprocess.Popen(
        command,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment(**variables),
    ) as process:
        if head is None:
            out, err = process.communicate(timeout=60)
        else:
            assert process.stdout is not None
            assert process.stderr is not None
            out = "".join(process.stdout.readline() for _ in range(head))
            process.stdout.close()
            err = process.stderr.read()
            process.wait(timeout=60)
    return subprocess.CompletedProcess(list(command), process.returncode, out, err)


@pytest.fixture
def stentor(nats_url: str, cluster: str) -> Run:
    """Runs the program against the test's cluster; ``connect=False`` leaves the connection flags out."""

    def run(
        *arguments: str, connect: bool = True, head: int | None = None, **variables: str
    ) -> subprocess.CompletedProcess[str]:
        flags = ["--nats-url", nats_url, "--cluster", cluster] if connect else []
        command = [sys.executable, "-m", "deploy.cli", *arguments, *flags]
        return execute(command, variables=variables, head=head)

    return run


@pytest.fixture
def start(stentor: Run) -> Start:
    """The same beside the test's own tasks."""

    def run(*arguments: str, **options: Any) -> asyncio.Future[subprocess.CompletedProcess[str]]:
        return asyncio.ensure_future(asyncio.to_thread(stentor, *arguments, **options))

    return run
