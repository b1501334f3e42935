"""`stentor policy wait`: the point from which on the policies are in force everywhere.

Two conditions, in this order. *Taken in*: the policy service's status of each NetworkPolicy has the
resourceVersion that the API server has, and it has forgotten those that the API server no longer has;
without an API server only what the policy service knows is waited for. *Realised*: each node's kernel holds
the revision that was the latest when the first condition came true, so that unrelated later publications do
not put the end off.

Both are looked at again after every change of a bucket, and while objects are not taken in the API server is
asked again each :data:`ASK_SECONDS`.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from contextlib import aclosing
from dataclasses import dataclass, field
from typing import Protocol

from deploy.cli.cluster import misplaced
from shared.bus import Batch, BucketStore, Bus
from shared.contract.base import M, Message
from shared.contract.identity import NodeRecord
from shared.contract.names import COMMIT_KEY, Bucket, token
from shared.contract.node import Realised
from shared.contract.policy import POLICY_TYPES, PolicyStatus

ASK_SECONDS = 0.5
NETWORK_POLICY = "NetworkPolicy"

PolicyName = tuple[str, str]
"""Namespace and name."""


class ListPolicies(Protocol):
    """Asks the API server for the resourceVersion of each NetworkPolicy."""

    async def __call__(self) -> Mapping[PolicyName, str]: ...


@dataclass
class View:
    """What the followed buckets and the API server say at this moment."""

    commit: int = 0
    statuses: dict[str, PolicyStatus] = field(default_factory=dict)
    nodes: dict[str, NodeRecord] = field(default_factory=dict)
    realised: dict[str, Realised] = field(default_factory=dict)
    """By the node's key, for which NATS vouches."""
    unreadable: dict[str, str] = field(default_factory=dict)
    """Why the record under a node's key cannot be read."""
    objects: Mapping[PolicyName, str] | None = None
    """None without an API server."""
    read: set[Bucket] = field(default_factory=set)
    """Buckets whose snapshot has come."""


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What was waited for has come true."""

    revision: int
    nodes: int
    policies: int
    refused: tuple[PolicyStatus, ...]


FOLLOWED = {Bucket.POLICY, Bucket.POLICY_STATUS, Bucket.NODES, Bucket.REALISED}


def not_taken_in(view: View, *, only: PolicyName | None) -> str | None:
    """Which object the policy service has not taken in, as a clause; None when it has all."""
    awaited = FOLLOWED - view.read
    if awaited:
        return f"bucket {min(awaited)} to exist and be read"
    if not view.commit:
        return "the policy service to publish for the first time"
    known = {
        (status.policy.namespace, status.policy.name): status.resource_version
        for status in view.statuses.values()
        if status.policy.kind == NETWORK_POLICY
    }
    if view.objects is None:
        if only is not None and only not in known:
            return f"policy {'/'.join(only)}, which the policy service does not know"
        return None
    if only is not None and only not in view.objects:
        return f"policy {'/'.join(only)}, which the API server does not have"
    for name, version in sorted(view.objects.items()):
        if only not in (None, name) or known.get(name) == version:
            continue
        has = f"version {known[name]}" if name in known else "none"
        return f"the policy service to take in policy {'/'.join(name)} version {version} (it has {has})"
    gone = sorted(known.keys() - view.objects.keys()) if only is None else []
    if gone:
        return f"the policy service to withdraw policy {'/'.join(gone[0])}, which was deleted"
    return None


def not_realised(view: View, *, revision: int) -> str | None:
    """Which nodes' kernels do not hold the revision, as a clause; None when all do."""
    nodes = {record.name: record.use_cilium for record in view.nodes.values()} or dict.fromkeys(
        (record.node for record in view.realised.values()), False
    )
    if not nodes:
        return "a node to report"
    behind = []
    for node, annotated in sorted(nodes.items()):
        record = view.realised.get(token(node))
        if why := view.unreadable.get(token(node)):
            behind.append(f"a record of node {node} that can be read ({why})")
        elif record is None:
            behind.append(f"node {node} to report")
        elif not record.enforcing:
            if annotated:
                behind.append(f"node {node} to enforce")
        elif record.policy_revision < revision:
            behind.append(f"node {node} to realise revision {revision} (it has {record.policy_revision})")
        elif record.policy_revision > view.commit:
            # The bucket was made anew and counts from the beginning: the number says nothing.
            behind.append(f"node {node} to leave revision {record.policy_revision} of a bucket that is gone")
    return ", ".join(behind) or None


async def wait_for_policies(
    bus: Bus,
    *,
    only: PolicyName | None,
    list_policies: ListPolicies | None,
    tell: Callable[[str], None],
) -> Outcome:
    """Return when both conditions hold; ``tell`` hears what is waited for. Runs for ever until then."""
    view = View()
    changed = asyncio.Event()
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(_follow(bus, bucket, view, changed), name=f"follow {bucket}")
            for bucket in sorted(FOLLOWED)
        ]
        while True:
            changed.clear()
            if list_policies is not None:
                view.objects = await list_policies()
            clause = not_taken_in(view, only=only)
            if clause is None:
                break
            tell(f"waiting for {clause}")
            await _wait(changed, seconds=None if list_policies is None else ASK_SECONDS)
        revision = _target(view, only=only)
        while clause := not_realised(view, revision=revision):
            tell(f"waiting for {clause}")
            await changed.wait()
            changed.clear()
        for task in tasks:
            task.cancel()
    considered = [
        status
        for status in view.statuses.values()
        if only is None or (status.policy.namespace, status.policy.name) == only
    ]
    return Outcome(
        revision=revision,
        nodes=len(view.nodes) or len(view.realised),
        policies=len(considered),
        refused=tuple(status for status in considered if not status.accepted),
    )


def _target(view: View, *, only: PolicyName | None) -> int:
    revisions = [
        status.revision
        for status in view.statuses.values()
        if only is None or (status.policy.namespace, status.policy.name) == only
    ]
    return max(revisions, default=0) if only is not None else max(view.commit, *revisions, 0)


async def _wait(changed: asyncio.Event, *, seconds: float | None) -> None:
    try:
        async with asyncio.timeout(seconds):
            await changed.wait()
    except TimeoutError:
        return


async def _follow(bus: Bus, bucket: Bucket, view: View, changed: asyncio.Event) -> None:
    match bucket:
        case Bucket.POLICY:
            store: BucketStore[Message] = await bus.bucket(bucket, as_type=POLICY_TYPES)
            async with aclosing(store.follow(prefix=COMMIT_KEY)) as commits:
                async for batch in commits:
                    for entry in batch.entries:
                        view.commit = entry.revision
                    if batch.snapshot and not batch.entries:
                        view.commit = 0
                    view.read.add(bucket)
                    changed.set()
        case Bucket.POLICY_STATUS:
            await _keep(bus, bucket, PolicyStatus, view.statuses, view=view, changed=changed)
        case Bucket.NODES:
            await _keep(bus, bucket, NodeRecord, view.nodes, view=view, changed=changed)
        case _:
            records = await bus.bucket(bucket, as_type=Realised)
            async with aclosing(records.follow()) as told:
                async for each in told:
                    _take_realised(view, each)
                    view.read.add(bucket)
                    changed.set()


def _take_realised(view: View, batch: Batch[Realised]) -> None:
    if batch.snapshot:
        view.realised.clear()
        view.unreadable.clear()
    refused = {error.key: str(error) for error in batch.errors}
    for key in (*(entry.key for entry in batch.entries), *refused):
        view.realised.pop(key, None)
        view.unreadable.pop(key, None)
    for entry in batch.entries:
        if entry.value is not None and (why := misplaced(entry.key, entry.value)):
            refused[entry.key] = why
        elif entry.value is not None:
            view.realised[entry.key] = entry.value
    view.unreadable.update(refused)


async def _keep(
    bus: Bus, bucket: Bucket, as_type: type[M], into: dict[str, M], *, view: View, changed: asyncio.Event
) -> None:
    store = await bus.bucket(bucket, as_type=as_type)
    async with aclosing(store.follow()) as batches:
        async for batch in batches:
            if batch.snapshot:
                into.clear()
            for entry in batch.entries:
                if entry.value is None:
                    into.pop(entry.key, None)
                else:
                    into[entry.key] = entry.value
            view.read.add(bucket)
            changed.set()
