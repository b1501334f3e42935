"""Nothing is ever half-applied: new and lasting connections of every peer class, while everything changes.

What always is allowed and what never is, is said in :mod:`tests.packet.hammer_world`; what changes
meanwhile, in :mod:`tests.packet.hammer_churn`. Not one packet may be judged otherwise: an allowed
connection must not even have to send a segment again, and no datapath may tell of a drop on it; a forbidden
one must neither be answered nor be told of as passed.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Iterable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from random import Random
from typing import Any

import pytest

from deploy.lab import client, podserver
from deploy.lab.supervisor import bound_to_parent
from deploy.lab.topology import IpFamily
from shared.kubernetes import connect
from tests.packet.agents import Traffic, Try, traffic_of
from tests.packet.hammer_churn import Churn
from tests.packet.hammer_watch import SUBJECTS, Advance, Judge, advancing, judging, moment
from tests.packet.hammer_world import (
    NAMESPACES,
    PEER,
    PEERS,
    PODS,
    TCP_PORT,
    UDP_PORT,
    Connection,
    Pair,
    Spot,
    Spots,
    connections,
    grants,
    spots_of,
)
from tests.packet.labs import Lab, eventually, running_lab
from tests.packet.manifests import namespace
from tests.packet.runs import lab_name

SEED = 7
CHANGES = 300
TRIES = 80
"""At least so many of each new connection."""
EVERY_SECONDS, LASTING_SECONDS = 0.4, 0.1
"""Between two tries of one connection."""
BURST = 6
"""Changes are made up to so many at once."""
RESTARTED = ("policy", "datapath-node-1")
REVISIONS, STATES = 40, 5
"""At least so many policy revisions of each node, sets of each subject and classes of each peer."""
KINDS = ("made", "edited", "deleted", "label", "service")
PEER_PODS = [each["metadata"]["name"] for each in PODS if each["metadata"]["labels"]["app"] == PEER]
SHOWN = 10
"""Wrong verdicts that are told in full."""


@pytest.fixture(scope="module")
def world(guardian: None) -> Iterator[Lab]:
    """A lab of both families with everybody in it, each grant said once."""
    with running_lab(lab_name("h"), outside=2, ip_family=IpFamily.DUAL) as lab:
        asyncio.run(populate(lab))
        yield lab


async def populate(lab: Lab) -> None:
    """Namespaces, pods and the first policies."""
    await lab.apply(*(namespace(name, **labels) for name, labels in NAMESPACES.items()), *PODS)
    for name in NAMESPACES:
        await lab.pods_ready(namespace=name)
    await lab.apply(*(grant.policy("a", 0) for grant in grants(spots_of(lab))))
    await lab.policies_in_force()
    await lab.well()


async def test_no_packet_is_judged_otherwise_whatever_changes(world: Lab) -> None:
    spots = spots_of(world)
    tried = list(connections(spots, every=EVERY_SECONDS, lasting_every=LASTING_SECONDS))
    judge = Judge(spots, tried)
    kubernetes = await connect(kubeconfig=str(client.kubeconfig(world.name)))
    churn = Churn(world, kubernetes, spots, grants(spots), Random(SEED))
    try:
        async with (
            servers(world, spots),
            judging(world, judge) as wrong_flows,
            advancing(world, spots) as advance,
            traffic_of(commands(world, spots, tried), ids=[each.id for each in tried]) as seen,
        ):
            began = time.monotonic()
            await seen.more(count=2)
            await hammer(world, churn, advance, seen)
            ended = time.monotonic()
            await world.well()
            await seen.more(count=2)
    finally:
        await kubernetes.close()
    print(report(seen, churn, advance, judge, seconds=ended - began))
    wrong = [
        *wrong_tries(seen, tried, churn),
        *(f"{flow}; " + "; ".join(churn.before(moment(flow))) for flow in wrong_flows),
    ]
    assert not wrong, f"{len(wrong)} wrong verdicts:\n" + "\n".join(wrong[:SHOWN])
    assert vacuous(seen, tried, churn, advance, judge) == []


async def hammer(lab: Lab, churn: Churn, advance: Advance, seen: Traffic) -> None:
    """All changes, in bursts: some wait until the one before is in force, most only until it is published, so
    that nodes are always underway. Services die in between, and changes go on without them."""
    killing = dict(zip((CHANGES // 3, 2 * CHANGES // 3), RESTARTED, strict=True))
    while len(churn.log) < CHANGES:
        due = [number for number in killing if number <= len(churn.log)]
        for number in due:
            await churn.kill(killing.pop(number))
        commit = asyncio.create_task(advance.next_commit(), name="next commit")
        for _ in range(churn.random.randint(1, BURST)):
            await churn.change()
        # Whatever else was in the burst: this is news to the policy service.
        await churn.change_noise()
        await commit
        if churn.random.random() < 0.2:
            await advance.all_realised()
    for child in RESTARTED:
        await lab.child_ready(child)
    for id in seen.tries:
        await eventually(lambda id=id: len(seen.tries[id]) >= TRIES)  # type: ignore[misc]


def commands(lab: Lab, spots: Spots, tried: Iterable[Connection]) -> list[list[str]]:
    """One program for each client."""
    jobs: dict[str, list[dict[str, Any]]] = {}
    for each in tried:
        jobs.setdefault(each.pair.client, []).append(each.job)
    return [spots[name].command(lab, each) for name, each in jobs.items()]


@asynccontextmanager
async def servers(lab: Lab, spots: Spots) -> AsyncIterator[None]:
    """Hosts answer like pods inside the context."""
    async with AsyncExitStack() as stack:
        for name in {*PEERS["outside"], *PEERS["nodes"]}:
            await stack.enter_async_context(serving(spots[name]))
        yield


@asynccontextmanager
async def serving(host: Spot) -> AsyncIterator[None]:
    """A pod's server on a host."""
    ports = [{"port": TCP_PORT, "protocol": "TCP"}, {"port": UDP_PORT, "protocol": "UDP"}]
    spec = {"pod": host.name, "namespace": "", "node": "", "ports": ports}
    argv = (sys.executable, "-I", "-S", podserver.__file__, json.dumps(spec))
    process = await asyncio.create_subprocess_exec(
        *bound_to_parent(argv, namespace=host.network_namespace), stdout=asyncio.subprocess.PIPE
    )
    try:
        assert process.stdout is not None
        assert await process.stdout.readline() == b"ready\n"
        yield
    finally:
        process.kill()
        await process.wait()


def wrong_tries(seen: Traffic, tried: Iterable[Connection], churn: Churn) -> list[str]:
    """Tries that did not go as they must, with what had changed before."""
    return [
        f"{each.id}: {what} at {each.began:.3f}, {each.ended - each.began:.3f} s; "
        + "; ".join(churn.before(each.ended))
        for connection in tried
        for each in seen.tries[connection.id]
        if (what := fault(connection, each))
    ]


def fault(connection: Connection, each: Try) -> str:
    """What is wrong with a try; empty when nothing is."""
    if not connection.pair.allowed:
        return "" if each.outcome == "denied" else f"{each.outcome} {each.detail}, answered by {each.pod}"
    if each.outcome != "open":
        return f"{each.outcome} {each.detail}"
    if each.resent:
        return f"{each.resent} segments were sent again"
    return "" if each.pod == connection.pair.server else f"answered by {each.pod}"


def vacuous(
    seen: Traffic, tried: Iterable[Connection], churn: Churn, advance: Advance, judge: Judge
) -> list[str]:
    """What there was too little of."""
    counts = {
        **{each.id: (len(seen.tries[each.id]), TRIES) for each in tried},
        **{f"flows told of {each.pair}": (told(judge, each.pair), TRIES) for each in tried},
        **{f"revisions on {node}": (len(held), REVISIONS) for node, held in advance.realised.items()},
        **{f"sets of {subject}": (len(advance.sets[subject]), STATES) for subject in SUBJECTS},
        **{f"classes of {peer}": (len(advance.classes[peer]), STATES) for peer in PEER_PODS},
        "changes": (len(churn.log), CHANGES),
        "kinds of changes": (len(churn.kinds), len(KINDS)),
        "services killed": (churn.kinds["service"], len(RESTARTED)),
    }
    return [
        f"{what}: {count}, and it must be {least}" for what, (count, least) in counts.items() if count < least
    ]


def told(judge: Judge, pair: Pair) -> int:
    """Flows of a pair that were heard of, whatever the verdict."""
    return judge.heard[pair, "forwarded"] + judge.heard[pair, "dropped"]


def report(seen: Traffic, churn: Churn, advance: Advance, judge: Judge, *, seconds: float) -> str:
    """How much there was of everything."""
    counts = sorted(map(len, seen.tries.values()))
    return "\n".join(
        (
            f"{seconds:.1f} s, {sum(counts)} tries of {len(counts)} connections, of each {counts[0]} or more",
            f"{len(churn.log)} changes: {dict(churn.kinds)}",
            f"{len(advance.commits)} commits; realised {sizes(advance.realised)}",
            f"sets {sizes(advance.sets)}; classes {sizes(advance.classes)}",
            f"flows {sum(judge.heard.values())}, lost {dict(judge.lost)}",
        )
    )


def sizes(found: Mapping[str, set[Any]]) -> dict[str, int]:
    """How many of each there were."""
    return {name: len(each) for name, each in found.items()}
