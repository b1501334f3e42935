"""What the buckets say at one moment.

:func:`read_cluster` reads what others are compared with (commits, records) before the nodes' ``realised``
records, so that a node which keeps up is never shown as behind. A bucket that its owner has not created yet
reads as empty and ``missing``; an entry that cannot be read is left out and named in ``unreadable``. So is a
``realised`` record that is not of the node whose key it has: NATS vouches for the key alone.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from contextlib import aclosing
from dataclasses import dataclass, field, replace
from typing import Generic

from shared.bus import BucketMissing, BucketStore, Bus, BusUnavailable
from shared.contract.base import M, Message
from shared.contract.identity import EndpointRecord, IdentityRecord, IpEntry, NodeRecord
from shared.contract.names import COMMIT_KEY, Bucket, token
from shared.contract.node import Realised
from shared.contract.policy import POLICY_TYPES, PolicyStatus
from shared.contract.service import SERVICE_TYPES

READ_SECONDS = 10.0


@dataclass(frozen=True, kw_only=True)
class Snapshot(Generic[M]):
    """The live keys of one bucket."""

    values: dict[str, M] = field(default_factory=dict)
    revisions: dict[str, int] = field(default_factory=dict)
    revision: int = 0
    """Stream sequence up to which this is known."""
    missing: bool = False
    unreadable: tuple[str, ...] = ()

    @property
    def commit(self) -> int:
        """The revision of the last publication; 0 when there was none."""
        return self.revisions.get(COMMIT_KEY, 0)


async def read(store: BucketStore[M]) -> Snapshot[M]:
    """All live keys of a bucket."""
    try:
        await store.last_revision()
    except BucketMissing:
        return Snapshot(missing=True)
    try:
        async with asyncio.timeout(READ_SECONDS), aclosing(store.follow()) as batches:
            batch = await anext(batches)
    except TimeoutError as error:
        raise BusUnavailable(f"bucket {store.name} could not be read in {READ_SECONDS:g} s") from error
    return Snapshot(
        values={entry.key: entry.value for entry in batch.entries if entry.value is not None},
        revisions={entry.key: entry.revision for entry in batch.entries},
        revision=batch.revision,
        unreadable=tuple(str(error) for error in batch.errors),
    )


async def read_bucket(bus: Bus, name: Bucket, *, as_type: type[M]) -> Snapshot[M]:
    """All live keys of a bucket of one type."""
    store: BucketStore[M] = await bus.bucket(name, as_type=as_type)
    return await read(store)


async def read_mixed(bus: Bus, name: Bucket, *, types: Mapping[str, type[Message]]) -> Snapshot[Message]:
    """All live keys of a bucket whose keys' first token gives the type."""
    store: BucketStore[Message] = await bus.bucket(name, as_type=types)
    return await read(store)


def misplaced(key: str, record: Realised) -> str:
    """Why a record is not believed; empty when it is of the node whose key it has."""
    if token(record.node) == key:
        return ""
    return f"{key}: the record is of node {record.node}, but lies under another node's key"


async def read_realised(bus: Bus) -> Snapshot[Realised]:
    """What each node says of itself."""
    found = await read_bucket(bus, Bucket.REALISED, as_type=Realised)
    believed = {key: record for key, record in found.values.items() if not misplaced(key, record)}
    refused = (misplaced(key, record) for key, record in found.values.items() if key not in believed)
    return replace(found, values=believed, unreadable=(*found.unreadable, *refused))


@dataclass(frozen=True, kw_only=True)
class Cluster:
    """All that commands report on."""

    name: str
    nodes: Snapshot[NodeRecord]
    identities: Snapshot[IdentityRecord]
    ipcache: Snapshot[IpEntry]
    endpoints: Snapshot[EndpointRecord]
    policy: Snapshot[Message]
    policy_status: Snapshot[PolicyStatus]
    services: Snapshot[Message]
    realised: Snapshot[Realised]
    reached: Mapping[Bucket, int]
    """How far the committed buckets had come when ``realised`` was read, or a moment later."""

    def unreadable(self) -> list[str]:
        """Entries of any bucket that this program cannot read."""
        every = (
            *self.nodes.unreadable,
            *self.identities.unreadable,
            *self.ipcache.unreadable,
            *self.endpoints.unreadable,
            *self.policy.unreadable,
            *self.policy_status.unreadable,
            *self.services.unreadable,
            *self.realised.unreadable,
        )
        return list(every)

    def realised_by_node(self) -> dict[str, Realised]:
        """What each node's kernel holds."""
        names = {token(record.name): record.name for record in self.nodes.values.values()}
        return {names.get(key, record.node): record for key, record in self.realised.values.items()}

    async def with_realised_now(self, bus: Bus) -> Cluster:
        """The same with the nodes' records as they are by now."""
        return replace(
            self,
            realised=await read_realised(bus),
            reached=await read_reached(bus),
        )

    def node_names(self) -> list[str]:
        """The cluster's nodes; before the identity service has told them, those that report."""
        return sorted({record.name for record in self.nodes.values.values()} or self.realised_by_node())

    def enforcing_nodes(self) -> list[str]:
        """Nodes from which enforcement is expected: all but those that report that they do not enforce and
        are not annotated for it."""
        annotated = {record.name for record in self.nodes.values.values() if record.use_cilium}
        realised = self.realised_by_node()
        return [
            node
            for node in self.node_names()
            if node in annotated or node not in realised or realised[node].enforcing
        ]


async def read_reached(bus: Bus) -> dict[Bucket, int]:
    """How far the buckets have come whose commits nodes realise: nobody can hold more than that."""
    reached = {}
    for name, types in ((Bucket.POLICY, POLICY_TYPES), (Bucket.SERVICES, SERVICE_TYPES)):
        store: BucketStore[Message] = await bus.bucket(name, as_type=types)
        try:
            reached[name] = await store.last_revision()
        except BucketMissing:
            reached[name] = 0
    return reached


async def read_cluster(bus: Bus) -> Cluster:
    """Everything, ``realised`` behind what nodes are compared with."""
    return Cluster(
        name=bus.cluster,
        nodes=await read_bucket(bus, Bucket.NODES, as_type=NodeRecord),
        identities=await read_bucket(bus, Bucket.IDENTITIES, as_type=IdentityRecord),
        ipcache=await read_bucket(bus, Bucket.IPCACHE, as_type=IpEntry),
        endpoints=await read_bucket(bus, Bucket.ENDPOINTS, as_type=EndpointRecord),
        policy=await read_mixed(bus, Bucket.POLICY, types=POLICY_TYPES),
        policy_status=await read_bucket(bus, Bucket.POLICY_STATUS, as_type=PolicyStatus),
        services=await read_mixed(bus, Bucket.SERVICES, types=SERVICE_TYPES),
        realised=await read_realised(bus),
        reached=await read_reached(bus),
    )
