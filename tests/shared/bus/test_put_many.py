"""Publications whose way another writer crosses."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from shared.bus import Bus, RevisionConflict
from shared.contract.identity import NodeRecord
from shared.contract.names import Bucket
from tests.nats_server import NatsServer
from tests.shared.bus.reader import node


async def test_a_foreign_write_in_the_middle_leaves_the_publication_open(
    nats: NatsServer, bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Items behind it may be stored, as they were under way. The last one, which closes it, never is."""
    nodes = await bus.bucket(Bucket.NODES, as_type=NodeRecord, create=True)
    other = await nats.connect()
    foreign = await other.bucket(Bucket.NODES, as_type=NodeRecord)
    session = await bus.session()
    start = session.start
    sent: list[Any] = []

    async def crossed(*arguments: Any, **more: Any) -> Any:
        if len(sent) == 3:
            await asyncio.wait(sent)
            await foreign.put("foreign", node("foreign"))
        sent.append(await start(*arguments, **more))
        return sent[-1]

    known = await nodes.put_many([("commit", node("old"))])
    monkeypatch.setattr(session, "start", crossed)
    items = [(f"k{number}", node("n")) for number in range(6)]
    with pytest.raises(RevisionConflict, match="nodes k3"):
        await nodes.put_many([*items, ("commit", node("new"))], after=known)
    assert await nodes.keys() == {"commit": 1, "k0": 2, "k1": 3, "k2": 4, "foreign": 5, "k4": 6, "k5": 7}
    await other.close()
