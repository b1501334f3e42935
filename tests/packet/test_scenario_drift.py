"""What somebody else changes in the kernel is put right at the next comparison, counted, and told."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from typing import Any

import pytest

from services.datapath.kernel.layout import ENDPOINT, PEER, ROW_KEY, ROW_SIZE, SET_OPEN, U32, U64, packed
from tests.packet.agents import DENIED_SECONDS, Traffic, job, traffic
from tests.packet.labs import Lab, eventually, in_node, programs
from tests.packet.leftovers import differences
from tests.packet.manifests import from_pods, pod, policy

NS = "drift"
NODE = "node-1"
ANNOTATION = "azure.microsoft.com/use-cilium"
MAPS = {
    "policy_rows": (ROW_KEY.size, ROW_SIZE),
    "identity_class": (U32.size, U64.size),
    "endpoints4": (4, ENDPOINT.size),
    "ipcache4": (4, PEER.size),
}


@pytest.fixture(scope="module")
def drifting(annotated_lab: Lab) -> Iterator[Lab]:
    """A server that admits a friend and no stranger, all on a node that enforces."""
    lab = annotated_lab
    objects = [
        pod("server", namespace=NS, node=NODE, app="server"),
        pod("friend", namespace=NS, node=NODE, app="friend"),
        pod("stranger", namespace=NS, node=NODE, app="stranger"),
        policy("door", namespace=NS, subject={"app": "server"}, peers=[from_pods(app="friend")]),
    ]
    asyncio.run(lab.kubectl("annotate", "node", NODE, f"{ANNOTATION}=true"))
    try:
        with lab.lasting_namespace(NS, *objects):
            asyncio.run(lab.well())
            yield lab
    finally:
        asyncio.run(lab.kubectl("annotate", "node", NODE, f"{ANNOTATION}-"))


@pytest.fixture
async def seen(drifting: Lab) -> AsyncIterator[Traffic]:
    """New connections of friend and stranger."""
    server = drifting.ip("server", namespace=NS)
    jobs = {name: [job("new", server, id=name, patience=DENIED_SECONDS)] for name in ("friend", "stranger")}
    async with traffic(drifting, NS, **jobs) as seen:
        await as_it_must_be(seen)
        yield seen


async def as_it_must_be(seen: Traffic) -> None:
    """Waits until the friend gets in and the stranger does not."""
    for name, outcome in (("friend", "open"), ("stranger", "denied")):
        await eventually(
            lambda name=name, outcome=outcome: (  # type: ignore[misc]
                [each.outcome for each in seen.tries[name]][-5:] == [outcome] * 5
            )
        )


async def repaired(lab: Lab) -> int:
    """How many entries the node says that it has mended."""
    report = json.loads((await lab.cli("status", "-o", "json")).output)
    (node,) = [each for each in report["nodes"] if each["node"] == NODE]
    return int(node["drift_repaired"])


async def told(events: list[dict[str, Any]]) -> dict[str, Any]:
    """The event about the repair."""
    await eventually(lambda: bool(events))
    return events[0]


@pytest.mark.parametrize("name", MAPS)
async def test_entries_deleted_from_a_map_come_back(drifting: Lab, seen: Traffic, name: str) -> None:
    lab = drifting
    before = await repaired(lab)
    async with lab.heard("event.datapath.drift-repaired") as events:
        with lab.map(NODE, name, key=MAPS[name][0], value=MAPS[name][1]) as held:
            entries = dict(held.items())
            held.delete_all(entries)
            event = await told(events)
            assert (event["kind"], event["node"]) == ("drift-repaired", NODE)
            await eventually(lambda: dict(held.items()) == entries)
            await eventually(lambda: sum(int(each["message"].split()[0]) for each in events) == len(entries))

        async def counted() -> bool:
            return await repaired(lab) == before + len(entries)

        await eventually(counted)
    await as_it_must_be(seen)
    assert await differences(lab) == []


async def test_entries_added_and_changed_are_undone(drifting: Lab, seen: Traffic) -> None:
    """Somebody opens the server to everybody, and gives an address to a friend."""
    lab = drifting
    server = packed(lab.ip("server", namespace=NS))
    async with lab.heard("event.datapath.drift-repaired") as events:
        with (
            lab.map(NODE, "endpoints4", key=4, value=ENDPOINT.size) as endpoints,
            lab.map(NODE, "ipcache4", key=4, value=PEER.size) as ipcache,
        ):
            value = endpoints.get(server)
            assert value is not None
            friend = ipcache.get(packed(lab.ip("friend", namespace=NS)))
            assert friend is not None
            endpoints.put(server, U64.pack(SET_OPEN) + value[U64.size :])
            ipcache.put(packed("198.51.100.7"), friend)
            await told(events)
            await eventually(lambda: endpoints.get(server) == value)
            await eventually(lambda: ipcache.get(packed("198.51.100.7")) is None)
    await as_it_must_be(seen)


@pytest.mark.parametrize("what", ["filter", "qdisc"])
async def test_program_removed_from_a_link_comes_back(drifting: Lab, seen: Traffic, what: str) -> None:
    lab = drifting
    before = programs(lab, NODE)
    mine = next(name for name, _ in before if name != "eth0")
    async with lab.heard("event.datapath.drift-repaired") as events:
        if what == "filter":
            in_node(lab, NODE, "tc", "filter", "del", "dev", mine, "ingress")
        else:
            in_node(lab, NODE, "tc", "qdisc", "del", "dev", mine, "clsact")
        await told(events)
        await eventually(lambda: programs(lab, NODE) == before)
    await as_it_must_be(seen)
