"""What each user may and may not do, tried on a real server with the written configuration."""

from __future__ import annotations

import asyncio
import json
from contextlib import aclosing
from dataclasses import dataclass
from typing import Any

import pytest

from deploy.nats import datapath_user
from shared.bus import Bus, BusError, BusUnavailable, NotPermitted
from shared.bus.session import IMPORTED_API
from shared.contract.base import Identity, Message
from shared.contract.flow import FlowsLost
from shared.contract.identity import Claim, IdentityRecord, NodeRecord
from shared.contract.names import Bucket, event_subject, flow_subject, health_subject, token
from shared.contract.node import Event, Realised, ServiceHealth
from shared.contract.policy import Commit
from shared.contract.service import ServicesSynced
from tests.deploy.nats.conftest import NODES, Connect
from tests.waiting import PATIENCE_SECONDS

OWN, OTHER = NODES

VALUES: dict[Bucket, Message] = {
    Bucket.IDENTITIES: IdentityRecord(id=Identity(256)),
    Bucket.ALLOCATIONS: IdentityRecord(id=Identity(256)),
    Bucket.IPCACHE: NodeRecord(name="x"),
    Bucket.ENDPOINTS: NodeRecord(name="x"),
    Bucket.NODES: NodeRecord(name="x"),
    Bucket.POLICY: Commit(time="", policies=0, identities=0, sets=0, rows=0),
    Bucket.POLICY_STATUS: NodeRecord(name="x"),
    Bucket.SERVICES: ServicesSynced(time="", services=0, backends=0),
}
OWNERS = {
    "identity": (Bucket.IDENTITIES, Bucket.ALLOCATIONS, Bucket.IPCACHE, Bucket.ENDPOINTS, Bucket.NODES),
    "policy": (Bucket.POLICY, Bucket.POLICY_STATUS),
    "lb": (Bucket.SERVICES,),
}
CLAIM = Claim(node=OWN, namespace="ns", pod="p", uid="", container_id="", ips=("10.0.0.1",))
REALISED = Realised(node=OWN, time="", instance="", enforcing=True)


@dataclass
class Cluster:
    """All control services, with every bucket created by its keeper and one value in it."""

    control: dict[str, Bus]
    connect: Connect

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
    return Cluster(control, connect)


async def raw(bus: Bus, subject: str, body: Any = b"", *, reply: str | None = None) -> bytes:
    """A request as an attacker sends it; with ``reply`` the answer is diverted and nothing is awaited."""
    session = await bus.session()
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    if reply is None:
        return (await session.request(subject, data)).data
    await session.publish(subject, data, reply=reply)
    await session.flush()
    await asyncio.sleep(0.2)
    return b""


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


@pytest.mark.parametrize("user", [*OWNERS, "reader", "observer"])
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


@pytest.mark.parametrize("bucket", [*sorted(VALUES), Bucket.CLAIMS])
async def test_a_datapath_follows_what_it_needs(cluster: Cluster, bucket: Bucket) -> None:
    datapath = await cluster.connect(datapath_user(OWN))
    kind = Claim if bucket is Bucket.CLAIMS else type(VALUES[bucket])
    store: Any = await datapath.bucket(bucket, as_type=kind)
    if bucket in (Bucket.ALLOCATIONS, Bucket.POLICY_STATUS):
        with pytest.raises(NotPermitted):
            await store.get("commit")
        with pytest.raises(NotPermitted):
            await anext(store.follow())
        return
    async with aclosing(store.follow()) as batches:
        first = await asyncio.wait_for(anext(batches), PATIENCE_SECONDS)
        assert first.snapshot
        assert len(first.entries) == (bucket is not Bucket.CLAIMS)
        assert (await store.get("commit") is None) == (bucket is Bucket.CLAIMS)


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


@pytest.mark.parametrize("user", [datapath_user(OWN), "reader", "observer"])
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


@pytest.mark.parametrize("user", [datapath_user(OWN), "reader", "observer"])
@pytest.mark.parametrize("api", BOTH_APIS)
async def test_replies_diverted_onto_a_key_do_not_reach_it(cluster: Cluster, user: str, api: str) -> None:
    """The server checks the subject of a request, not where its reply goes."""
    attacker = await cluster.connect(user)
    before = await cluster.value(Bucket.POLICY, "commit")
    await raw(attacker, f"{api}STREAM.INFO.{POLICY_STREAM}", reply=KEY)
    await raw(attacker, f"{api}STREAM.MSG.GET.{POLICY_STREAM}", {"seq": 1}, reply=KEY)
    await raw(attacker, f"{api}CONSUMER.CREATE.{POLICY_STREAM}", {}, reply=KEY)
    await raw(attacker, OWN_CLAIM, b"evil", reply=KEY)
    await raw(attacker, f"$JS.FC.{POLICY_STREAM}.x.y", b"evil", reply=KEY)
    await raw(attacker, health_subject(cluster="test"), b"evil", reply=KEY)
    assert await cluster.value(Bucket.POLICY, "commit") == before


async def test_replies_diverted_onto_another_nodes_claims_do_not_reach_them(cluster: Cluster) -> None:
    attacker = await cluster.connect(datapath_user(OWN))
    victim = await cluster.connect(datapath_user(OTHER))
    key = f"{token(OTHER)}.ns.p"
    await (await victim.bucket(Bucket.CLAIMS, as_type=Claim)).put(key, CLAIM)
    before = await cluster.value(Bucket.CLAIMS, key)
    target = f"$KV.{Bucket.CLAIMS.of('test')}.{key}"
    await raw(attacker, OWN_CLAIM, b"evil", reply=target)
    for api in BOTH_APIS:
        await raw(attacker, f"{api}STREAM.INFO.{POLICY_STREAM}", reply=target)
    assert await cluster.value(Bucket.CLAIMS, key) == before is not None


@pytest.mark.parametrize("api", BOTH_APIS)
async def test_replies_diverted_onto_the_api_do_nothing(cluster: Cluster, api: str) -> None:
    attacker = await cluster.connect(datapath_user(OWN))
    for target in (f"$JS.API.STREAM.DELETE.{POLICY_STREAM}", f"{IMPORTED_API}STREAM.DELETE.{POLICY_STREAM}"):
        await raw(attacker, f"{api}STREAM.INFO.{POLICY_STREAM}", reply=target)
        await raw(attacker, OWN_CLAIM, b"", reply=target)
    assert await cluster.value(Bucket.POLICY, "commit") is not None


@pytest.mark.parametrize(
    "target",
    [KEY, f"$JS.API.STREAM.DELETE.{POLICY_STREAM}", f"$JS.API.STREAM.PURGE.{POLICY_STREAM}"],
)
async def test_a_consumer_cannot_deliver_own_words_onto_a_key_or_the_api(
    cluster: Cluster, target: str
) -> None:
    attacker = await cluster.connect(datapath_user(OWN))
    before = await cluster.value(Bucket.POLICY, "commit")
    await raw(attacker, OWN_CLAIM, b"{}")
    config = {"deliver_subject": target, "deliver_policy": "all", "ack_policy": "none", "max_deliver": 1}
    body = {"stream_name": CLAIMS_STREAM, "config": {**config, "replay_policy": "instant"}}
    answer = json.loads(await raw(attacker, f"{IMPORTED_API}CONSUMER.CREATE.{CLAIMS_STREAM}", body))
    assert "error" not in answer, "the attack was not tried"
    await asyncio.sleep(0.5)
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


async def test_nobody_comes_in_without_a_password(cluster: Cluster) -> None:
    policy = cluster.control["policy"]
    for user, password in (("", ""), ("policy", ""), ("policy", "wrong"), ("nobody", "x")):
        settings = policy.settings.__class__(url=policy.settings.url, user=user, password=password)
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.5):
                await Bus.connect(settings, name="intruder")


async def test_reader_and_observer_see_flows_events_and_health_of_everybody(cluster: Cluster) -> None:
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


@pytest.mark.parametrize("user", ["reader", "observer"])
async def test_a_reader_reads_all_buckets_but_the_allocations(cluster: Cluster, user: str) -> None:
    reader = await cluster.connect(user)
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
