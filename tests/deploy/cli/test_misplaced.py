"""NATS vouches for the key of a ``realised`` record, so no node can speak for another in its own record."""

from __future__ import annotations

import json

from shared.contract.identity import NodeRecord
from shared.contract.names import Bucket, token
from shared.contract.node import EndpointState, Realised
from tests.deploy.cli.conftest import Start
from tests.deploy.cli.world import BACKEND, NODES, World

DOTTED = "node-3.example"


def record(node: str, *, revision: int = 99) -> Realised:
    """All is well, says the record."""
    ready = EndpointState(
        namespace="default", pod="backend-b", ips=("10.244.1.3",), identity=BACKEND, ready=True
    )
    return Realised(
        node=node, time="", instance="i", enforcing=True, policy_revision=revision, endpoints=(ready,)
    )


async def test_a_record_that_names_another_node_hides_nothing_and_is_named(
    world: World, start: Start
) -> None:
    await world.answer_health()
    await world.realise("node-2", ready=False)
    await world.put(Bucket.REALISED, [("node-1", record("node-2", revision=world.policy_revision))])
    problems = json.loads((await start("status", "-o", "json")).stdout)["problems"]
    assert "endpoint default/backend-b is not ready on its node node-2" in problems
    assert "node node-1: its datapath has not reported yet" in problems
    assert "cannot read node-1: the record is of node node-2, but lies under another node's key" in problems
    listed = json.loads((await start("endpoint", "list", "-o", "json")).stdout)
    assert not any(item["ready"] for item in listed)


async def test_wait_is_not_ended_by_a_record_that_names_another_node(world: World, start: Start) -> None:
    await world.realise("node-2", policy_revision=world.policy_revision - 1)
    await world.put(Bucket.REALISED, [("node-1", record("node-2", revision=world.policy_revision))])
    done = await start("policy", "wait", "--timeout", "0.5")
    assert done.returncode == 1
    assert (
        "waiting for a record of node node-1 that can be read (node-1: the record is of node node-2, but "
        "lies under another node's key), node node-2 to realise revision 4 (it has 3)"
    ) in done.stderr


async def test_a_record_of_a_newer_version_is_named_by_wait(world: World, start: Start) -> None:
    newer = Realised(v=9, node="node-1", time="", instance="", enforcing=True)
    await world.put(Bucket.REALISED, [("node-1", newer)])
    done = await start("policy", "wait", "--timeout", "0.5")
    assert "a record of node node-1 that can be read (" in done.stderr
    assert "upgrade the reader" in done.stderr


async def test_a_node_whose_name_has_dots_has_its_record(world: World, start: Start) -> None:
    await world.put(Bucket.NODES, [(token(DOTTED), NodeRecord(name=DOTTED))])
    await world.put(Bucket.REALISED, [(token(DOTTED), record(DOTTED, revision=world.policy_revision))])
    assert (await start("policy", "wait")).returncode == 0
    report = json.loads((await start("status", "-o", "json")).stdout)
    assert [node["node"] for node in report["nodes"] if node["reported"]] == [*NODES, DOTTED]
