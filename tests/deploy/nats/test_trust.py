"""What NATS vouches for: whose keys and subjects, whatever a message says of itself or carries in headers."""

from __future__ import annotations

import json

import pytest

from deploy.nats import datapath_user
from shared.bus import BucketMissing, Bus, NotPermitted
from shared.bus.connection import answers_subject
from shared.contract.base import timestamp
from shared.contract.identity import Claim, NodeRecord
from shared.contract.names import Bucket, event_subject, flow_subject, token
from shared.contract.node import Realised
from tests.deploy.nats.conftest import NODES, Connect

OWN, OTHER = NODES
CONTROL_SERVICES = ("identity", "policy", "lb")


def realised(node: str) -> Realised:
    return Realised(node=node, time=timestamp(), instance="", enforcing=True)


def claim(node: str) -> Claim:
    return Claim(node=node, namespace="ns", pod="p", uid="", container_id="", ips=("10.0.0.1",))


async def node_buckets(connect: Connect) -> Bus:
    """Claims and realised records of both nodes, each written by its own datapath; returns identity's bus."""
    identity, policy = await connect("identity"), await connect("policy")
    await identity.bucket(Bucket.CLAIMS, as_type=Claim, create=True)
    await policy.bucket(Bucket.REALISED, as_type=Realised, create=True)
    for node in NODES:
        datapath = await connect(datapath_user(node))
        await (await datapath.bucket(Bucket.CLAIMS, as_type=Claim)).put(f"{token(node)}.ns.p", claim(node))
        await (await datapath.bucket(Bucket.REALISED, as_type=Realised)).put(token(node), realised(node))
    return identity


@pytest.mark.parametrize("rollup", ["all", "sub"])
async def test_a_header_on_an_own_key_does_not_purge_what_other_nodes_wrote(
    connect: Connect, rollup: str
) -> None:
    identity = await node_buckets(connect)
    attacker = await (await connect(datapath_user(OWN))).session()
    claims = await identity.bucket(Bucket.CLAIMS, as_type=Claim)
    records = await identity.bucket(Bucket.REALISED, as_type=Realised)
    before = await claims.keys(), await records.keys()
    for subject in (f"{claims.subjects}{OWN}.ns.p", f"{records.subjects}{OWN}"):
        answer = await (await attacker.start(subject, b"{}", headers={"Nats-Rollup": rollup}))
        assert b"rollup not permitted" in answer.data
    assert (await claims.keys(), await records.keys()) == before


async def test_owners_may_bring_the_settings_of_their_buckets_up_to_date(connect: Connect) -> None:
    identity = await connect("identity")
    nodes = await identity.bucket(Bucket.NODES, as_type=NodeRecord, create=True)
    session = await identity.session()
    info = json.loads((await session.request(f"$JS.API.STREAM.INFO.{nodes.stream}", b"")).data)
    weak = json.dumps({**info["config"], "allow_rollup_hdrs": True}).encode()
    await session.request(f"$JS.API.STREAM.UPDATE.{nodes.stream}", weak)
    await nodes.ensure()
    after = json.loads((await session.request(f"$JS.API.STREAM.INFO.{nodes.stream}", b"")).data)
    assert after["config"] == info["config"]


async def test_identity_clears_what_departed_nodes_have_left_and_no_other_service_may(
    connect: Connect,
) -> None:
    identity = await node_buckets(connect)
    kinds = ((Bucket.CLAIMS, Claim, f"{token(OTHER)}.ns.p"), (Bucket.REALISED, Realised, token(OTHER)))
    for bucket, kind, key in kinds:
        for service in ("policy", "lb"):
            with pytest.raises(NotPermitted):
                await (await (await connect(service)).bucket(bucket, as_type=kind)).delete(key)
        store = await identity.bucket(bucket, as_type=kind)
        await store.delete(key)
        assert all(key.split(".")[0] == OWN for key in await store.keys())


async def may_publish(bus: Bus, subject: str) -> bool:
    """NATS refuses a subject by name; where it permits it, nobody listens."""
    try:
        await (await bus.session()).request(subject, b"")
    except NotPermitted:
        return False
    except BucketMissing:
        return True
    raise AssertionError(f"somebody answered on {subject}")


async def test_the_node_in_a_flows_subject_is_the_senders(connect: Connect) -> None:
    datapath = await connect(datapath_user(OWN))
    for node in NODES:
        subject = flow_subject(cluster="test", node=node, verdict="dropped")
        assert await may_publish(datapath, subject) == (node == OWN)


@pytest.mark.parametrize("user", [*CONTROL_SERVICES, datapath_user(OWN), "reader"])
async def test_the_service_in_an_events_subject_is_the_senders(connect: Connect, user: str) -> None:
    bus = await connect(user)
    for service in (*CONTROL_SERVICES, "datapath"):
        subject = event_subject(cluster="test", service=service, kind="x")
        assert await may_publish(bus, subject) == user.startswith(service)


async def test_only_services_answer_questions(connect: Connect) -> None:
    for user in (*CONTROL_SERVICES, datapath_user(OWN), "reader"):
        subject = answers_subject(cluster="test", question="x")
        assert await may_publish(await connect(user), subject) == (user != "reader")
