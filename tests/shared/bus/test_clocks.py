"""Times that are compared are of one clock, and of one that goes on."""

from __future__ import annotations

import time
from dataclasses import dataclass

import pytest

from shared.bus import Bus
from shared.bus.records import MARKERS_KEPT_SECONDS
from shared.contract.identity import NodeRecord
from shared.contract.names import Bucket
from tests.nats_server import NatsServer
from tests.shared.bus.reader import node, reading


@dataclass
class Machine:
    """How long it was suspended: the clock that counts it goes on, others stand still."""

    suspended: float = 0.0


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Machine:
    made = Machine()
    real = time.clock_gettime

    def clock_gettime(clock: int) -> float:
        return real(clock) + (made.suspended if clock == time.CLOCK_BOOTTIME else 0)

    monkeypatch.setattr(time, "clock_gettime", clock_gettime)
    return made


@pytest.mark.parametrize(("suspended", "snapshots"), [(0, 1), (MARKERS_KEPT_SECONDS, 2)])
async def test_a_reader_that_was_suspended_for_long_reads_everything_again(
    nats: NatsServer, bus: Bus, machine: Machine, suspended: float, snapshots: int
) -> None:
    """Deletion markers that it has not seen may have been compacted meanwhile."""
    nodes = await bus.bucket(Bucket.NODES, as_type=NodeRecord, create=True)
    await nodes.put("a", node("a"))
    async with reading(nodes.follow()) as reader:
        await reader.until(lambda: reader.snapshots == 1)
        machine.suspended = suspended
        # What the socket held all the time comes first.
        await nodes.put("b", node("b"))
        await reader.until(lambda: "b" in reader.state)
        await nats.kill()
        await nats.start()
        await nodes.put("c", node("c"))
        await reader.until(lambda: "c" in reader.state)
        assert reader.snapshots == snapshots


@pytest.mark.parametrize("ahead", [-7200, 7200])
async def test_markers_age_by_the_servers_clock(
    bus: Bus, monkeypatch: pytest.MonkeyPatch, ahead: float
) -> None:
    nodes = await bus.bucket(Bucket.NODES, as_type=NodeRecord, create=True)
    await nodes.put_many([("a", node("a")), ("a", None), ("b", node("b"))])
    real = time.time
    monkeypatch.setattr(time, "time", lambda: real() + ahead)
    assert await nodes.compact() == 0
    assert await nodes.compact(older_than_seconds=0) == 1
