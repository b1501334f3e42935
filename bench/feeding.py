"""Tells NATS and the API server of the simulated cluster, in place of the lab's identity service.

Records are put as the identity service puts them, with its own NATS user; policies are created at the API
server. Simulated nodes "realise" each commit at once, so that nothing waits for them.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import aclosing, asynccontextmanager
from itertools import islice

from bench import simulation
from bench.simulation import Size
from deploy.cli.connection import open_bus
from deploy.cli.lab_state import lab_settings
from deploy.lab.names import LabNames
from deploy.nats import NatsLayout
from shared.bus import BucketStore, Bus
from shared.contract.base import M, Message, timestamp
from shared.contract.identity import IdentityRecord, IpEntry, NodeRecord
from shared.contract.names import COMMIT_KEY, Bucket, ip_key, token
from shared.contract.node import Realised
from shared.contract.policy import POLICY_TYPES
from shared.kubernetes import NETWORK_POLICIES, Kubernetes, Object

USER = "identity"
_AT_ONCE = 10_000
_REQUESTS = 8
"""Requests to the API server under way."""


@asynccontextmanager
async def as_identity(lab: str) -> AsyncIterator[Bus]:
    """NATS as the lab's identity service sees it."""
    password = NatsLayout.below(LabNames(lab).nats).password_file(USER)
    settings = dataclasses.replace(lab_settings(lab), user=USER, password_file=password)
    async with open_bus(settings) as bus:
        yield bus


async def feed_buckets(bus: Bus, size: Size, *, advance: Callable[[int], None]) -> None:
    """Nodes, identities and addresses."""
    nodes = {token(record.name): record for record in simulation.nodes()}
    identities = ((str(record.id), record) for record in simulation.identities(size))
    addresses = (simulation.ip_entry(number, size) for number in range(size.addresses))
    entries = ((ip_key(entry.ip), entry) for entry in addresses)
    await _put(await bus.bucket(Bucket.NODES, as_type=NodeRecord), iter(nodes.items()), advance)
    await _put(await bus.bucket(Bucket.IDENTITIES, as_type=IdentityRecord), identities, advance)
    await _put(await bus.bucket(Bucket.IPCACHE, as_type=IpEntry), entries, advance)


async def _put(store: BucketStore[M], items: Iterator[tuple[str, M]], advance: Callable[[int], None]) -> None:
    while chunk := list(islice(items, _AT_ONCE)):
        await store.put_many(chunk)
        advance(len(chunk))


def namespaces() -> Iterator[Object]:
    """The objects for the API server."""
    for number in range(simulation.NAMESPACES):
        yield {
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {
                "name": simulation.namespace_name(number),
                "labels": simulation.namespace_labels(number),
            },
        }


async def create_policies(api: Kubernetes, bodies: Iterable[Object], *, advance: Callable[[], None]) -> None:
    """All of them, some at a time."""
    await _each(
        bodies,
        lambda body: api.create(NETWORK_POLICIES, body, namespace=body["metadata"]["namespace"]),
        advance=advance,
    )


async def _each(
    bodies: Iterable[Object], create: Callable[[Object], Awaitable[object]], *, advance: Callable[[], None]
) -> None:
    waiting = iter(bodies)

    async def work() -> None:
        for body in waiting:
            await create(body)
            advance()

    async with asyncio.TaskGroup() as group:
        for _ in range(_REQUESTS):
            group.create_task(work())


async def realise_at_once(bus: Bus) -> None:
    """For ever: every commit is realised by all simulated nodes."""
    policy: BucketStore[Message] = await bus.bucket(Bucket.POLICY, as_type=POLICY_TYPES)
    realised = await bus.bucket(Bucket.REALISED, as_type=Realised)
    async with aclosing(policy.follow(prefix=COMMIT_KEY)) as batches:
        async for batch in batches:
            for entry in batch.entries[-1:]:
                records = {
                    token(record.name): Realised(
                        node=record.name,
                        time=timestamp(),
                        instance="simulated",
                        enforcing=True,
                        policy_revision=entry.revision,
                    )
                    for record in simulation.nodes()
                }
                await realised.put_many(records.items())
