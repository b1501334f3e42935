"""Records of nodes that are no more."""

from __future__ import annotations

import asyncio
from collections.abc import Set
from typing import Any

import pytest

from services.identity import departed
from services.identity.departed import Departures
from shared.bus import BucketStore, Bus
from shared.contract.identity import Claim
from shared.contract.names import Bucket, pod_key, token
from shared.contract.node import Realised
from tests.waiting import PATIENCE_SECONDS, eventually

STAYS, GOES = "node-1", "node-2.example"


class Records:
    """The buckets that nodes write."""

    def __init__(self, claims: BucketStore[Claim], realised: BucketStore[Realised]) -> None:
        self.claims = claims
        self.realised = realised
        self.departures = Departures((claims, realised), after=300)

    async def claim(self, node: str, pod: str) -> None:
        made = Claim(node=node, namespace="ns", pod=pod, uid="", container_id="", ips=("10.0.0.1",))
        await self.claims.put(pod_key(node=node, namespace="ns", pod=pod), made)

    async def realise(self, node: str) -> None:
        await self.realised.put(token(node), Realised(node=node, time="", instance="", enforcing=True))

    async def nodes(self) -> set[str]:
        """Those that have records."""
        keys = {**await self.claims.keys(), **await self.realised.keys()}
        return {key.partition(".")[0] for key in keys}


@pytest.fixture
async def records(bus: Bus) -> Records:
    made = Records(
        await bus.bucket(Bucket.CLAIMS, as_type=Claim, create=True),
        await bus.bucket(Bucket.REALISED, as_type=Realised, create=True),
    )
    for node in (STAYS, GOES):
        await made.realise(node)
        for pod in ("p", "q"):
            await made.claim(node, pod)
    return made


async def test_what_a_departed_node_has_left_goes_after_some_minutes(records: Records) -> None:
    await records.departures.sweep({STAYS}, now=0)
    await records.departures.sweep({STAYS}, now=299)
    assert await records.nodes() == {STAYS, token(GOES)}
    await records.departures.sweep({STAYS}, now=300)
    assert set(await records.claims.keys()) == {f"{STAYS}.ns.p", f"{STAYS}.ns.q"}
    assert set(await records.realised.keys()) == {STAYS}
    revision = await records.claims.last_revision()
    await records.departures.sweep({STAYS}, now=900)
    assert await records.claims.last_revision() == revision


async def test_a_node_that_still_writes_has_not_departed(records: Records) -> None:
    for now in range(0, 1000, 100):
        await records.realise(GOES)
        await records.departures.sweep({STAYS}, now=now)
    assert await records.nodes() == {STAYS, token(GOES)}
    await records.departures.sweep({STAYS}, now=1200)
    assert await records.nodes() == {STAYS}


async def test_a_node_that_comes_back_in_time_keeps_its_records(records: Records) -> None:
    await records.departures.sweep({STAYS}, now=0)
    await records.departures.sweep({STAYS, token(GOES)}, now=200)
    await records.departures.sweep({STAYS}, now=400)
    await records.departures.sweep({STAYS}, now=699)
    assert await records.nodes() == {STAYS, token(GOES)}


async def test_what_is_written_while_it_is_deleted_stays(
    records: Records, monkeypatch: pytest.MonkeyPatch
) -> None:
    await records.departures.sweep({STAYS}, now=0)
    keys = records.realised.keys

    async def crossed() -> Any:
        found = await keys()
        await records.realise(GOES)
        return found

    monkeypatch.setattr(records.realised, "keys", crossed)
    await records.departures.sweep({STAYS}, now=300)
    monkeypatch.undo()
    assert set(await records.realised.keys()) == {STAYS, token(GOES)}


async def test_a_bucket_that_does_not_exist_yet_holds_nothing(bus: Bus) -> None:
    departures = Departures((await bus.bucket(Bucket.REALISED, as_type=Realised),), after=0)
    await departures.sweep(set(), now=0)


async def test_nobody_departs_while_it_is_not_known_which_nodes_exist(
    bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    known: list[set[str] | None] = [None, None, {STAYS}, None]
    swept: asyncio.Queue[Set[str]] = asyncio.Queue()

    async def sweep(_: Departures, nodes: Set[str], *, now: float) -> None:
        await swept.put(nodes)

    monkeypatch.setattr(departed, "_EVERY_SECONDS", 0)
    monkeypatch.setattr(Departures, "sweep", sweep)
    task = asyncio.create_task(departed.clear_departed(bus, nodes=lambda: known.pop(0) if known else None))
    assert await asyncio.wait_for(swept.get(), PATIENCE_SECONDS) == {STAYS}
    await eventually(lambda: not known)
    assert swept.empty()
    task.cancel()
