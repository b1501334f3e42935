"""What each user may and may not do, tried on a real server with the written configuration."""

from __future__ import annotations

import asyncio
import json
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import pytest

from deploy.nats import datapath_user
from shared.bus import BucketStore, Bus, BusError, BusSettings, BusUnavailable, NotPermitted
from shared.bus.session import IMPORTED_API
from shared.contract.base import Identity, Message
from shared.contract.flow import FlowsLost
from shared.contract.identity import Claim, IdentityRecord, LabelRules, NodeRecord
from shared.contract.names import Bucket, event_subject, flow_subject, health_subject, token
from shared.contract.node import Event, Realised, ServiceHealth
from shared.contract.policy import POLICY_TYPES, Commit
from shared.contract.service import ServicesSynced
from tests.deploy.nats.conftest import NODES, Connect
from tests.waiting import PATIENCE_SECONDS, eventually

OWN, OTHER = NODES

VALUES: dict[Bucket, Message] = {
    Bucket.IDENTITIES: IdentityRecord(id=Identity(256)),
    Bucket.ALLOCATIONS: IdentityRecord(id=Identity(256)),
    Bucket.IPCACHE: NodeRecord(name="x"),
    Bucket.ENDPOINTS: NodeRecord(name="x"),
    Bucket.NODES: NodeRecord(name="x"),
    Bucket.SETTINGS: LabelRules(excluded=()),
    Bucket.POLICY: Commit(time="", policies=0, identities=0, sets=0, rows=0),
    Bucket.POLICY_STATUS: NodeRecord(name="x"),
    Bucket.SERVICES: ServicesSynced(time="", services=0, backends=0),
}
OWNERS = {
    "identity": (
        Bucket.IDENTITIES,
        Bucket.ALLOCATIONS,
        Bucket.IPCACHE,
        Bucket.ENDPOINTS,
        Bucket.NODES,
        Bucket.SETTINGS,
    ),
    "policy": (Bucket.POLICY, Bucket.POLICY_STATUS),
    "lb": (Bucket.SERVICES,),
}
NEEDED = (
    Bucket.IDENTITIES,
    Bucket.IPCACHE,
    Bucket.ENDPOINTS,
    Bucket.NODES,
    Bucket.POLICY,
    Bucket.SERVICES,
)
"""By a datapath."""
CLAIM = Claim(node=OWN, namespace="ns", pod="p", uid="", container_id="", ips=("10.0.0.1",))
REALISED = Realised(node=OWN, time="", instance="", enforcing=True)


@dataclass
class Cluster:
    """All control services, with every bucket created by its keeper and one value in it."""

    control: dict[str, Bus]
    connect: Connect
    policy: BucketStore[Message]
    """As its owner has it."""
    claims: BucketStore[Claim]
    """As the other node has it."""

    async def settle(self) -> None:
        """Until all that the server was sent has had its effect.

        JetStream's answers leave in their order, the acknowledgements of a stream in theirs, and what comes
        to a stream is stored in its order. So what was sent before has been answered before these three, and
        if the answer went to the policy bucket, it was stored before the last.
        """
        await self.policy.last_revision()
        await self.claims.put(f"{token(OTHER)}.settle.p", CLAIM)
        await self.policy.put("settle", VALUES[Bucket.POLICY])

    async def divert(self, attacker: Bus, subject: str, body: Any = b"", *, onto: str) -> None:
        """A request whose answer goes elsewhere, and until it has done what it could."""
        session = await attacker.session()
        await session.publish(subject, encoded(body), reply=onto)
        await session.flush()
        await self.settle()

    async def value(self, bucket: Bucket, key: str) -> bytes | None:
        """What a bucket holds, as its raw JSON."""
        owner = self.control["identity"]
        session = await owner.session()
        body = json.dumps({"last_by_subj": f"$KV.{bucket.of('test')}.{key}"}).encode()
        reply = json.loads(
            (await session.request(f"$JS.API.STREAM.MSG.GET.KV_{bucket.of('test')}", body)).data
        )
        found = reply.get("message")
        return None if found is None else json.dumps(found).encode()


@pytest.fixture
async def cluster(connect: Connect) -> Cluster:
    control = {name: await connect(name) for name in OWNERS}
    for name, buckets in OWNERS.items():
        for bucket in buckets:
            store: Any = await control[name].bucket(bucket, as_type=type(VALUES[bucket]), create=True)
            await store.put("commit", VALUES[bucket])
    await control["identity"].bucket(Bucket.CLAIMS, as_type=Claim, create=True)
    await control["policy"].bucket(Bucket.REALISED, as_type=Realised, create=True)
    policy: BucketStore[Message] = await control["policy"].bucket(
        Bucket.POLICY, as_type=POLICY_TYPES, create=True
    )
    other = await connect(datapath_user(OTHER))
    return Cluster(control, connect, policy, await other.bucket(Bucket.CLAIMS, as_type=Claim))


def encoded(body: Any) -> bytes:
    return body if isinstance(body, bytes) else json.dumps(body).encode()


async def raw(bus: Bus, subject: str, body: Any = b"") -> bytes:
    """A request as an attacker sends it."""
    return (await (await bus.session()).request(subject, encoded(body))).data


@pytest.mark.parametrize("bucket", sorted(VALUES))
async def test_a_datapath_cannot_write_what_control_services_own(cluster: Cluster, bucket: Bucket) -> None:
    datapath = await cluster.connect(datapath_user(OWN))
    before = await cluster.value(bucket, "commit")
    store: Any = await datapath.bucket(bucket, as_type=type(VALUES[bucket]))
    with pytest.raises(NotPermitted):
        await store.put("commit", VALUES[bucket])
    with pytest.raises(NotPermitted):
        await store.delete("commit")
    with pytest.raises(NotPermitted):
        await store.put_many([("new", VALUES[bucket])])
    assert await cluster.value(bucket, "commit") == before
    assert await cluster.value(bucket, "new") is None


@pytest.mark.parametrize("user", [*OWNERS, "reader"])
@pytest.mark.parametrize("bucket", sorted(VALUES))
async def test_only_the_owner_writes_a_bucket(cluster: Cluster, user: str, bucket: Bucket) -> None:
    bus = cluster.control.get(user) or await cluster.connect(user)
    store: Any = await bus.bucket(bucket, as_type=type(VALUES[bucket]))
    if bucket in OWNERS.get(user, ()):
        assert await store.put("commit", VALUES[bucket]) == 2
    else:
        with pytest.raises(NotPermitted):
            await store.put("commit", VALUES[bucket])


async def test_a_datapath_writes_below_its_own_node_only(cluster: Cluster) -> None:
    datapath = await cluster.connect(datapath_user(OWN))
    claims = await datapath.bucket(Bucket.CLAIMS, as_type=Claim)
    realised = await datapath.bucket(Bucket.REALISED, as_type=Realised)
    await claims.put_many([(f"{OWN}.ns.p", CLAIM), (f"{OWN}.ns.q", CLAIM), (f"{OWN}.ns.q", None)])
    await realised.put(OWN, REALISED)
    with pytest.raises(NotPermitted):
        await claims.put(f"{token(OTHER)}.ns.p", CLAIM)
    with pytest.raises(NotPermitted):
        await realised.put(token(OTHER), REALISED)
    async with aclosing(
        (await cluster.control["identity"].bucket(Bucket.CLAIMS, as_type=Claim)).follow()
    ) as seen:
        assert [entry.key for entry in (await anext(seen)).entries] == [f"{OWN}.ns.p"]


async def test_a_node_whose_name_has_dots_writes_its_own(cluster: Cluster) -> None:
    datapath = await cluster.connect(datapath_user(OTHER))
    claims = await datapath.bucket(Bucket.CLAIMS, as_type=Claim)
    await claims.put(f"{token(OTHER)}.ns.p", CLAIM)


@pytest.mark.parametrize("bucket", sorted(Bucket))
async def test_a_datapath_follows_what_it_needs(cluster: Cluster, bucket: Bucket) -> None:
    datapath = await cluster.connect(datapath_user(OWN))
    store: Any = await datapath.bucket(bucket, as_type=type(VALUES.get(bucket, CLAIM)))
    if bucket not in NEEDED:
        with pytest.raises(NotPermitted):
            await store.get("commit")
        with pytest.raises(NotPermitted):
            await anext(store.follow())
        return
    async with aclosing(store.follow()) as batches:
        first = await asyncio.wait_for(anext(batches), PATIENCE_SECONDS)
        assert first.snapshot
        assert len(first.entries) == 1
        assert await store.get("commit") is not None


async def test_changes_and_many_keys_reach_a_datapath(cluster: Cluster) -> None:
    datapath = await cluster.connect(datapath_user(OWN))
    writer = await cluster.control["identity"].bucket(Bucket.IDENTITIES, as_type=IdentityRecord)
    store = await datapath.bucket(Bucket.IDENTITIES, as_type=IdentityRecord)
    async with aclosing(store.follow()) as batches:
        await anext(batches)
        count = 20_000
        await writer.put_many((str(number), IdentityRecord(id=Identity(number))) for number in range(count))
        seen = 0
        async with asyncio.timeout(PATIENCE_SECONDS):
            while seen < count:
                seen += len((await anext(batches)).entries)


KEY = f"$KV.{Bucket.POLICY.of('test')}.commit"
POLICY_STREAM = f"KV_{Bucket.POLICY.of('test')}"
CLAIMS_STREAM = f"KV_{Bucket.CLAIMS.of('test')}"
OWN_CLAIM = f"$KV.{Bucket.CLAIMS.of('test')}.{OWN}.ns.p"
BOTH_APIS = ("$JS.API.", IMPORTED_API)


@pytest.mark.parametrize("user", [datapath_user(OWN), "reader"])
@pytest.mark.parametrize("api", BOTH_APIS)
@pytest.mark.parametrize(
    "call",
    [
        f"STREAM.DELETE.{POLICY_STREAM}",
        f"STREAM.PURGE.{POLICY_STREAM}",
        f"STREAM.UPDATE.{POLICY_STREAM}",
        f"STREAM.CREATE.{POLICY_STREAM}",
        "STREAM.CREATE.OWN",
        f"STREAM.MSG.DELETE.{POLICY_STREAM}",
        f"STREAM.SNAPSHOT.{POLICY_STREAM}",
        f"STREAM.RESTORE.{POLICY_STREAM}",
        f"DIRECT.GET.{CLAIMS_STREAM}",
        f"DIRECT.GET.{CLAIMS_STREAM}.{OWN_CLAIM}",
        f"CONSUMER.DURABLE.CREATE.{POLICY_STREAM}.x",
        f"CONSUMER.DELETE.{POLICY_STREAM}.x",
    ],
)
async def test_administration_is_refused_outside_control(
    cluster: Cluster, user: str, api: str, call: str
) -> None:
    attacker = await cluster.connect(user)
    with pytest.raises(NotPermitted):
        await raw(attacker, api + call, {"seq": 1})


@pytest.mark.parametrize("user", [datapath_user(OWN), "reader"])
@pytest.mark.parametrize("api", BOTH_APIS)
async def test_replies_diverted_onto_a_key_do_not_reach_it(cluster: Cluster, user: str, api: str) -> None:
    """The server checks the subject of a request, not where its reply goes."""
    attacker = await cluster.connect(user)
    before = await cluster.value(Bucket.POLICY, "commit")
    await cluster.divert(attacker, f"{api}STREAM.INFO.{POLICY_STREAM}", onto=KEY)
    await cluster.divert(attacker, f"{api}STREAM.MSG.GET.{POLICY_STREAM}", {"seq": 1}, onto=KEY)
    await cluster.divert(attacker, f"{api}CONSUMER.CREATE.{POLICY_STREAM}", {}, onto=KEY)
    await cluster.divert(attacker, OWN_CLAIM, b"evil", onto=KEY)
    await cluster.divert(attacker, f"$JS.FC.{POLICY_STREAM}.x.y", b"evil", onto=KEY)
    await cluster.divert(attacker, health_subject(cluster="test"), b"evil", onto=KEY)
    assert await cluster.value(Bucket.POLICY, "commit") == before


async def test_replies_diverted_onto_another_nodes_claims_do_not_reach_them(cluster: Cluster) -> None:
    attacker = await cluster.connect(datapath_user(OWN))
    key = f"{token(OTHER)}.ns.p"
    await cluster.claims.put(key, CLAIM)
    before = await cluster.value(Bucket.CLAIMS, key)
    target = f"$KV.{Bucket.CLAIMS.of('test')}.{key}"
    await cluster.divert(attacker, OWN_CLAIM, b"evil", onto=target)
    for api in BOTH_APIS:
        await cluster.divert(attacker, f"{api}STREAM.INFO.{POLICY_STREAM}", onto=target)
    assert await cluster.value(Bucket.CLAIMS, key) == before is not None


@pytest.mark.parametrize("api", BOTH_APIS)
async def test_replies_diverted_onto_the_api_do_nothing(cluster: Cluster, api: str) -> None:
    attacker = await cluster.connect(datapath_user(OWN))
    before = await cluster.value(Bucket.POLICY, "commit")
    for target in (f"$JS.API.STREAM.DELETE.{POLICY_STREAM}", f"{IMPORTED_API}STREAM.DELETE.{POLICY_STREAM}"):
        await cluster.divert(attacker, f"{api}STREAM.INFO.{POLICY_STREAM}", onto=target)
        await cluster.divert(attacker, OWN_CLAIM, b"", onto=target)
    assert await cluster.value(Bucket.POLICY, "commit") == before is not None


@pytest.mark.parametrize(
    "target",
    [KEY, f"$JS.API.STREAM.DELETE.{POLICY_STREAM}", f"$JS.API.STREAM.PURGE.{POLICY_STREAM}"],
)
@pytest.mark.parametrize("call", [CLAIMS_STREAM, f"{CLAIMS_STREAM}.name.{OWN_CLAIM}"])
async def test_a_consumer_cannot_deliver_own_words_onto_a_key_or_the_api(
    cluster: Cluster, target: str, call: str
) -> None:
    """A datapath writes them, and the reader, who may read them, would have them sent."""
    attacker, accomplice = await cluster.connect(datapath_user(OWN)), await cluster.connect("reader")
    before = await cluster.value(Bucket.POLICY, "commit")
    await raw(attacker, OWN_CLAIM, b"{}")
    config = {"deliver_policy": "all", "ack_policy": "none", "max_deliver": 1, "replay_policy": "instant"}
    named = call != CLAIMS_STREAM
    if named:
        config |= {"name": "name", "filter_subject": OWN_CLAIM}

    async def create(bus: Bus, subject: str, *, onto: str) -> dict[str, Any]:
        body = {"stream_name": CLAIMS_STREAM, "config": {**config, "deliver_subject": onto}}
        answer: dict[str, Any] = json.loads(await raw(bus, f"{IMPORTED_API}CONSUMER.CREATE.{subject}", body))
        return answer

    with pytest.raises(NotPermitted):
        await create(attacker, call, onto=target)
    assert "error" not in await create(accomplice, call, onto=target), "the attack was not tried"
    if named:
        config["name"] = "later"
    # What is sent to one who listens is sent later than that.
    session = await accomplice.session()
    delivered: asyncio.Queue[object] = asyncio.Queue()
    inbox = session.new_inbox()
    await session.subscribe(inbox, delivered.put)
    assert "error" not in await create(accomplice, call.replace(".name.", ".later."), onto=inbox)
    await asyncio.wait_for(delivered.get(), PATIENCE_SECONDS)
    await cluster.settle()
    assert await cluster.value(Bucket.POLICY, "commit") == before


@pytest.mark.parametrize(
    "subject",
    [
        flow_subject(cluster="test", node=OTHER, verdict="dropped"),
        event_subject(cluster="test", service="policy", kind="x"),
        health_subject(cluster="test"),
        "_INBOX.policy.x",
        "_INBOX.reader.x",
        f"$KV.{Bucket.POLICY.of('other')}.commit",
        "$SYS.REQ.SERVER.PING",
        "anything",
    ],
)
async def test_a_datapath_cannot_speak_for_others(cluster: Cluster, subject: str) -> None:
    attacker = await cluster.connect(datapath_user(OWN))
    with pytest.raises(NotPermitted):
        await raw(attacker, subject)


@pytest.mark.parametrize(
    "subject",
    [">", "$KV.>", "$JS.>", "_INBOX.>", "_INBOX.policy.>", "_INBOX.reader.>", "_R_.>", "stentor.test.flow.>"],
)
async def test_a_datapath_cannot_listen_to_others(cluster: Cluster, subject: str) -> None:
    attacker = await cluster.connect(datapath_user(OWN))
    async with attacker.subscribe(subject, as_type=Event) as messages:
        with pytest.raises(NotPermitted):
            await asyncio.wait_for(anext(messages), PATIENCE_SECONDS)


@pytest.mark.parametrize(
    ("user", "password"), [("", ""), ("policy", ""), ("policy", "wrong"), ("nobody", "x")]
)
async def test_nobody_comes_in_without_a_password(
    cluster: Cluster, user: str, password: str, caplog: pytest.LogCaptureFixture
) -> None:
    settings = BusSettings(url=cluster.control["policy"].settings.url, user=user, password=password)
    connecting = asyncio.create_task(Bus.connect(settings, name="intruder"))
    # The server may cut the connection before its reason was read; there is another attempt then.
    await eventually(lambda: "Authorization Violation" in caplog.text)
    connecting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await connecting


async def test_the_reader_sees_flows_events_and_health_of_everybody(cluster: Cluster) -> None:
    reader = await cluster.connect("reader")
    datapath = await cluster.connect(datapath_user(OWN))
    for name, bus in (*cluster.control.items(), ("datapath", datapath)):
        answer = ServiceHealth(service=name, instance="", ready=True, uptime_seconds=0, resident_bytes=0)
        await bus.answer(health_subject(cluster="test"), lambda answer=answer: answer)  # type: ignore[misc] # default
    heard = await reader.ask(health_subject(cluster="test"), as_type=ServiceHealth, seconds=0.5)
    assert sorted(each.service for each in heard) == ["datapath", *sorted(OWNERS)]
    async with (
        reader.subscribe("stentor.test.event.>", as_type=Event) as events,
        reader.subscribe("stentor.test.flow.>", as_type=FlowsLost) as flows,
    ):
        for name, bus in (*cluster.control.items(), ("datapath", datapath)):
            said = Event(time="", service=name, kind="x", object="", message="")
            await bus.publish(event_subject(cluster="test", service=name, kind="x"), said)
            assert (await asyncio.wait_for(anext(events), PATIENCE_SECONDS))[1] == said
        lost = FlowsLost(node=OWN, time="", events={})
        await datapath.publish(flow_subject(cluster="test", node=OWN, verdict="lost"), lost)
        assert (await asyncio.wait_for(anext(flows), PATIENCE_SECONDS))[1] == lost


async def test_the_reader_reads_all_buckets_but_the_allocations(cluster: Cluster) -> None:
    reader = await cluster.connect("reader")
    for bucket in Bucket:
        store: Any = await reader.bucket(bucket, as_type=Message)
        if bucket is Bucket.ALLOCATIONS:
            with pytest.raises(BusError):
                await store.last_revision()
        else:
            async with aclosing(store.follow()) as batches:
                assert (await asyncio.wait_for(anext(batches), PATIENCE_SECONDS)).snapshot


async def test_owners_may_compact(cluster: Cluster) -> None:
    identities = await cluster.control["identity"].bucket(Bucket.IDENTITIES, as_type=IdentityRecord)
    await identities.put("1", IdentityRecord(id=Identity(1)))
    await identities.delete("1")
    await identities.put("2", IdentityRecord(id=Identity(2)))
    assert await identities.compact(older_than_seconds=0) == 1


async def test_an_intruders_connection_attempts_do_not_raise_unavailable_for_others(cluster: Cluster) -> None:
    datapath = await cluster.connect(datapath_user(OWN))
    with pytest.raises(NotPermitted):
        await raw(datapath, "anything")
    claims = await datapath.bucket(Bucket.CLAIMS, as_type=Claim)
    try:
        await claims.put(f"{OWN}.ns.p", CLAIM)
    except BusUnavailable as error:
        pytest.fail(f"a refused publish broke the connection: {error}")
