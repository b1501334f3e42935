"""What the other parts of a cluster do around the policy service, and what its readers make of it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from shared.bus import BucketStore, Bus
from shared.contract.base import Identity, Message
from shared.contract.identity import IdentityRecord, IpEntry, LabelRules, NodeRecord
from shared.contract.names import COMMIT_KEY, LABELS_KEY, Bucket, ip_key, token
from shared.contract.node import Event, Realised
from shared.contract.policy import POLICY_TYPES, IdentityPolicy, PolicySet, PolicyStatus
from shared.kubernetes import NETWORK_POLICIES, Kubernetes
from shared.labels import LabelFilter
from tests.buckets import Followed
from tests.waiting import eventually

Hear = Callable[[str], list[Event]]

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


async def fill_identities(bus: Bus) -> BucketStore[IdentityRecord]:
    """The bucket ``identities`` with a client and a server in namespace ``default``."""
    store = await bus.bucket(Bucket.IDENTITIES, as_type=IdentityRecord, create=True)
    await store.put(str(WEB), record(WEB, "web"))
    await store.put(str(DB), record(DB, "db"))
    return store


async def fill_ipcache(bus: Bus) -> None:
    """The bucket ``ipcache`` with the client's address."""
    store = await bus.bucket(Bucket.IPCACHE, as_type=IpEntry, create=True)
    await store.put(ip_key("10.0.0.5"), IpEntry(ip="10.0.0.5", identity=WEB, node="node-1"))


async def fill_nodes(bus: Bus) -> None:
    """The bucket ``nodes`` with the one there is."""
    store = await bus.bucket(Bucket.NODES, as_type=NodeRecord, create=True)
    await store.put("node-1", NodeRecord(name="node-1", pod_cidrs=("10.0.0.0/24",)))


async def fill_settings(bus: Bus, label_filter: LabelFilter | None = None) -> None:
    """The bucket ``settings``: what an identity service started without flags says there, or another."""
    store = await bus.bucket(Bucket.SETTINGS, as_type=LabelRules, create=True)
    await store.put(LABELS_KEY, LabelRules(excluded=(label_filter or LabelFilter()).excluded))


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


async def change(kubernetes: Kubernetes, *, port: int, name: str = "db") -> None:
    """The policy that lets the client to the server is for another port from now on."""
    await kubernetes.patch(NETWORK_POLICIES, {"spec": web_to_db(port)}, name=name, namespace="default")


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
