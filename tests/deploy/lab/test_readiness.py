"""When children are ready, and what is said of those that are not."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from deploy.lab import podserver, readiness
from deploy.lab.errors import NotReadyError
from deploy.lab.relay import free_port
from deploy.lab.supervisor import ChildSpec, Supervisor


@pytest.fixture
async def supervisor(tmp_path: Path) -> AsyncIterator[Supervisor]:
    async with (
        asyncio.TaskGroup() as tasks,
        Supervisor(tasks, logs=tmp_path / "logs", records=tmp_path / "records", env={}) as made,
    ):
        yield made


def serving(port: int) -> ChildSpec:
    ports = [{"port": port, "protocol": "TCP"}]
    spec = json.dumps({"pod": "p", "namespace": "n", "node": "x", "ports": ports})
    return ChildSpec(
        name="web",
        argv=(sys.executable, "-I", "-S", podserver.__file__, spec),
        ready_url=f"http://127.0.0.1:{port}/readyz",
    )


async def test_child_is_ready_when_it_answers(supervisor: Supervisor) -> None:
    child = supervisor.add(serving(free_port()))
    (before,) = await readiness.child_statuses([child])
    assert before.ready is False
    await readiness.wait_until_ready([child], seconds=10)
    (after,) = await readiness.child_statuses([child])
    assert after.ready is True


async def test_late_child_is_named(supervisor: Supervisor) -> None:
    port = free_port()
    child = supervisor.add(
        ChildSpec(name="mute", argv=("sleep", "60"), ready_url=f"http://127.0.0.1:{port}/readyz")
    )
    with pytest.raises(NotReadyError, match=r"mute does not answer yet .*mute\.log"):
        await readiness.wait_until_ready([child], seconds=0.5)


async def test_child_that_keeps_ending_is_not_waited_for_to_the_end(supervisor: Supervisor) -> None:
    script = "import sys; sys.exit('the map is full')"
    child = supervisor.add(
        ChildSpec(
            name="fickle",
            argv=(sys.executable, "-S", "-c", script),
            ready_url=f"tcp://127.0.0.1:{free_port()}",
        )
    )
    began = time.monotonic()
    with pytest.raises(NotReadyError, match=r"fickle keeps ending.*with 1.*the map is full"):
        await readiness.wait_until_ready([child], seconds=60)
    assert time.monotonic() - began < 40
