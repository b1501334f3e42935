"""What nodes and packets say while everything changes: how far policy has come, and what became of each pair.

:class:`Advance` follows the commits and what the nodes have realised, and looks into their kernels at every
step: which sets subjects have there, and which class each peer. :class:`Judge` hears every flow and keeps
those that must not be: a drop on a connection that is always allowed, a passed connection that never is.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, defaultdict
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from datetime import datetime
from typing import Any

from services.datapath.kernel.layout import ENDPOINT, PEER, U32, U64, packed
from services.datapath.kernel.maps import KernelMap
from shared.bus import BucketStore, Bus
from shared.contract.base import Message
from shared.contract.names import COMMIT_KEY, Bucket
from shared.contract.node import Realised
from shared.contract.policy import POLICY_TYPES
from tests.packet.hammer_world import PEERS, Connection, Pair, Spots
from tests.packet.labs import Lab, eventually

SUBJECTS = ("server-1", "server-2", "caged-1", "caged-2")
ADDRESS = 4


class Advance:
    """How far policy has come, by commits and nodes."""

    def __init__(self) -> None:
        self.commits: set[int] = set()
        self.realised: defaultdict[str, set[int]] = defaultdict(set)
        """By node: the policy revisions that its kernel had."""
        self.sets: defaultdict[str, set[tuple[int, int]]] = defaultdict(set)
        """By subject: the sets of both directions that it had in its node's kernel."""
        self.classes: defaultdict[str, set[int]] = defaultdict(set)
        """By peer: the classes that it had in a node's kernel."""

    async def next_commit(self) -> None:
        """Waits for a commit."""
        known = len(self.commits)
        await eventually(lambda: len(self.commits) > known)

    async def all_realised(self) -> None:
        """Waits until every node has the latest commit of now, or a later one."""
        wanted = max(self.commits, default=0)
        await eventually(lambda: all(max(each) >= wanted for each in self.realised.values()))

    async def follow_commits(self, bus: Bus) -> None:
        """Hears of commits, for ever."""
        store: BucketStore[Message] = await bus.bucket(Bucket.POLICY, as_type=POLICY_TYPES)
        async with aclosing(store.follow(prefix=COMMIT_KEY)) as batches:
            async for batch in batches:
                self.commits |= {entry.revision for entry in batch.entries}

    async def follow_nodes(self, bus: Bus, kernels: Kernels) -> None:
        """Hears what nodes have realised, and looks, for ever."""
        store = await bus.bucket(Bucket.REALISED, as_type=Realised)
        async with aclosing(store.follow()) as batches:
            async for batch in batches:
                for entry in batch.entries:
                    if entry.value is not None:
                        self.realised[entry.value.node].add(entry.value.policy_revision)
                for subject, sets in kernels.sets():
                    self.sets[subject].add(sets)
                for peer, peer_class in kernels.classes():
                    self.classes[peer].add(peer_class)


class Kernels:
    """The maps of the nodes, open."""

    def __init__(self, lab: Lab, spots: Spots, stack: AsyncExitStack) -> None:
        def opened(name: str, key: int, value: int) -> list[KernelMap]:
            return [stack.enter_context(lab.map(node, name, key=key, value=value)) for node in lab.nodes]

        self._endpoints = opened("endpoints4", ADDRESS, ENDPOINT.size)
        self._ipcache = opened("ipcache4", ADDRESS, PEER.size)
        self._identities = opened("identity_class", U32.size, U64.size)
        self._ips = {name: packed(spot.ips[0]) for name, spot in spots.items()}

    def sets(self) -> Iterable[tuple[str, tuple[int, int]]]:
        """Of each subject, on the node where it is."""
        for subject in SUBJECTS:
            for held in self._endpoints:
                if (value := held.get(self._ips[subject])) is not None:
                    egress, ingress = ENDPOINT.unpack(value)[:2]
                    yield subject, (egress, ingress)

    def classes(self) -> Iterable[tuple[str, int]]:
        """Of each peer that is a pod, on every node."""
        for peer in (name for pair in PEERS.values() for name in pair):
            for ipcache, identities in zip(self._ipcache, self._identities, strict=True):
                if (value := ipcache.get(self._ips[peer])) is None:
                    continue
                peer_class, identity = PEER.unpack(value)
                if not peer_class and (found := identities.get(U32.pack(identity))) is not None:
                    (peer_class,) = U64.unpack(found)
                yield peer, peer_class


@asynccontextmanager
async def advancing(lab: Lab, spots: Spots) -> AsyncIterator[Advance]:
    """Follows all of it inside the context, where every node has been heard of."""
    advance = Advance()
    async with lab.bus() as bus, AsyncExitStack() as stack, asyncio.TaskGroup() as group:
        kernels = Kernels(lab, spots, stack)
        tasks = [
            group.create_task(advance.follow_commits(bus), name="follow commits"),
            group.create_task(advance.follow_nodes(bus, kernels), name="follow nodes"),
        ]
        try:
            await eventually(lambda: advance.commits and set(advance.realised) == set(lab.nodes))
            yield advance
        finally:
            for task in tasks:
                task.cancel()


class Judge:
    """What flows say of pairs."""

    def __init__(self, spots: Spots, connections: Iterable[Connection]) -> None:
        self.heard: Counter[tuple[Pair, str]] = Counter()
        """By pair and verdict."""
        self.lost: Counter[str] = Counter()
        """Events that no flow tells of, by class."""
        self._pairs: dict[tuple[str, str, int, str], Pair] = {}
        for connection in connections:
            pair, job = connection.pair, connection.job
            protocol = "TCP" if job["kind"] in ("new", "kept") else "UDP"
            for ip in spots[pair.client].ips:
                self._pairs[ip, job["ip"], job["port"], protocol] = pair

    def is_wrong(self, flow: dict[str, Any]) -> bool:
        """Whether a flow must not be."""
        if "events" in flow:
            self.lost.update(flow["events"])
            return False
        pair = self.pair(flow)
        if pair is None:
            return False
        self.heard[pair, flow["verdict"]] += 1
        if pair.allowed:
            return bool(flow["verdict"] != "forwarded")
        # The other end's node may let it pass: that is not where this pair is decided about.
        return bool(flow["verdict"] == "forwarded" and flow["direction"] == pair.direction)

    def pair(self, flow: dict[str, Any]) -> Pair | None:
        """The pair of a flow, whichever way the packet went."""
        one, other = flow["source"], flow["destination"]
        return self._pairs.get(
            (one["ip"], other["ip"], other.get("port", 0), flow["protocol"])
        ) or self._pairs.get((other["ip"], one["ip"], one.get("port", 0), flow["protocol"]))


def moment(flow: dict[str, Any]) -> float:
    """When it was, as :func:`time.monotonic` counts."""
    return datetime.fromisoformat(flow["time"]).timestamp() - time.time() + time.monotonic()


@asynccontextmanager
async def judging(lab: Lab, judge: Judge) -> AsyncIterator[list[dict[str, Any]]]:
    """The flows inside the context that must not be."""
    async with lab.heard("flow.>", keep=judge.is_wrong) as wrong:
        yield wrong
