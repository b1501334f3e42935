"""What the other parts of a cluster do around the policy service, and what its readers make of it."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from shared.bus import BucketStore, Bus
from shared.contract.base import Identity, Message
from shared.contract.identity import IdentityRecord
from shared.contract.names import COMMIT_KEY, Bucket, token
from shared.contract.node import Realised
from shared.contract.policy import POLICY_TYPES, IdentityPolicy, PolicySet, PolicyStatus
from shared.kubernetes import NETWORK_POLICIES, Kubernetes
from tests.buckets import Followed
from tests.waiting import eventually

WEB, DB = Identity(256), Identity(257)
OWN = (Bucket.POLICY, Bucket.POLICY_STATUS)


class Node:
    """A node whose kernel holds each commit at once, unless it ``lags``."""

    def __init__(self, bus: Bus) -> None:
        self.lags = False
        self._bus = bus
        self._latest = 0

    async def run(self) -> None:
        store: BucketStore[Message] = await self._bus.bucket(Bucket.POLICY, as_type=POLICY_TYPES)
        async for batch in store.follow(prefix="commit"):
            for entry in batch.entries:
                self._latest = entry.revision
            if not self.lags:
                await self.report()

    async def report(self, revision: int | None = None) -> None:
        """Tell which commit the kernel holds: the latest unless told."""
        store = await self._bus.bucket(Bucket.REALISED, as_type=Realised, create=True)
        message = Realised(
            node="node-1",
            time="",
            instance="",
            enforcing=True,
            policy_revision=self._latest if revision is None else revision,
        )
        await store.put(token("node-1"), message)


def record(number: Identity, app: str) -> IdentityRecord:
    return IdentityRecord(id=number, namespace="default", pod_labels={"app": app})


def network_policy(name: str, **spec: Any) -> dict[str, Any]:
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": name, "namespace": "default"},
        "spec": spec,
    }


def web_to_db(port: int | str = 80) -> dict[str, Any]:
    return {
        "podSelector": {"matchLabels": {"app": "db"}},
        "policyTypes": ["Ingress"],
        "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "web"}}}], "ports": [{"port": port}]}],
    }


async def apply(kubernetes: Kubernetes, name: str, **spec: Any) -> None:
    await kubernetes.create(NETWORK_POLICIES, network_policy(name, **spec), namespace="default")


def set_of(published: Followed, subject: Identity) -> PolicySet | None:
    identity = published.values.get(f"identity.{subject}")
    if not isinstance(identity, IdentityPolicy) or identity.ingress is None:
        return None
    found = published.values[f"set.{identity.ingress}"]
    assert isinstance(found, PolicySet)
    return found


def let_in(published: Followed, *, subject: Identity, peer: Identity) -> list[tuple[int, int]] | None:
    """Port ranges of the row for a peer; None while the subject is open."""
    chosen = set_of(published, subject)
    if chosen is None:
        return None
    row = chosen.rows.get(published.values[f"identity.{peer}"].peer_class, chosen.default)
    return [(item.first, item.last) for item in row.ranges]


def status(statuses: Followed, name: str) -> PolicyStatus | None:
    found = statuses.values.get(f"NetworkPolicy.default.{name}")
    assert found is None or isinstance(found, PolicyStatus)
    return found


def guarded(published: Followed, port: int = 80) -> bool:
    """Whether the database is open to the web servers on one port and to nobody else."""
    rows = {peer: let_in(published, subject=DB, peer=peer) for peer in (WEB, DB)}
    return rows == {WEB: [(port, port)], DB: []}


def committed(published: Followed) -> bool:
    return bool(published.history) and published.history[-1][0] == COMMIT_KEY


def committed_states(followed: Followed) -> Iterator[dict[str, Message]]:
    """What a reader that begins with an empty bucket finds at each commit."""
    state: dict[str, Message] = {}
    for key, value in followed.history:
        if value is None:
            state.pop(key, None)
        else:
            state[key] = value
        if key == COMMIT_KEY and value is not None:
            yield dict(state)


def protects(state: dict[str, Message], *, identities: tuple[Identity, ...] = (WEB, DB)) -> bool:
    """Whether a committed state has a class for everybody and a set for the database."""
    policies = [state.get(f"identity.{identity}") for identity in identities]
    if not all(isinstance(each, IdentityPolicy) for each in policies):
        return False
    database = state[f"identity.{DB}"]
    return isinstance(database, IdentityPolicy) and f"set.{database.ingress}" in state


async def guard(kubernetes: Kubernetes, published: Followed) -> None:
    await apply(kubernetes, "db", **web_to_db())
    await eventually(lambda: guarded(published) and committed(published))
