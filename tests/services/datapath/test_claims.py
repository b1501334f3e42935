"""Claims reach NATS, also after an outage, and nothing but this node's claims is touched."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest

from services.datapath.claims import Claims
from services.datapath.endpoints import LocalEndpoint, host_ifname
from services.datapath.errors import NotRealised
from shared.bus import BucketStore, Bus
from shared.contract.identity import Claim
from shared.contract.names import Bucket
from tests.nats_server import NatsServer
from tests.waiting import eventually


def endpoint(pod: str = "web", *, container: str = "c1", ip: str = "10.7.0.5") -> LocalEndpoint:
    return LocalEndpoint(
        container_id=container,
        ifname="eth0",
        netns=f"/run/netns/{container}",
        namespace="shop",
        pod=pod,
        uid="u-1",
        ips=(ip,),
        host_ifname=host_ifname(container, "eth0"),
        host_ifindex=10,
        mac="0e:53:0a:07:00:05",
        mtu=1500,
    )


@pytest.fixture
async def store(bus: Bus) -> BucketStore[Claim]:
    return await bus.bucket(Bucket.CLAIMS, as_type=Claim, create=True)


def claims_of(node: str, store: BucketStore[Claim]) -> Claims:
    return Claims(node=node, store=store, reconnected=store.bus.reconnected)


@asynccontextmanager
async def running(claims: Claims) -> AsyncIterator[None]:
    task = asyncio.create_task(claims.run())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled(), task.exception()


def soon(seconds: float = 5.0) -> float:
    return asyncio.get_running_loop().time() + seconds


async def stored(store: BucketStore[Claim], key: str) -> Claim | None:
    entry = await store.get(key)
    return entry.value if entry else None


async def is_stored(store: BucketStore[Claim], key: str) -> bool:
    return await stored(store, key) is not None


async def is_gone(store: BucketStore[Claim], key: str) -> bool:
    return await stored(store, key) is None


async def test_a_claim_is_published_under_its_nodes_prefix(store: BucketStore[Claim]) -> None:
    claims = claims_of("node.1", store)
    async with running(claims):
        claims.set(endpoint())
        await claims.published(endpoint(), deadline=soon())
        claim = await stored(store, "node_1.shop.web")
    assert claim == Claim(
        node="node.1", namespace="shop", pod="web", uid="u-1", container_id="c1", ips=("10.7.0.5",)
    )


async def test_a_newer_container_replaces_the_claim_and_the_older_one_cannot_withdraw_it(
    store: BucketStore[Claim],
) -> None:
    claims = claims_of("n1", store)
    new = endpoint(container="c2", ip="10.7.0.6")
    async with running(claims):
        claims.set(endpoint())
        claims.set(new)
        claims.unset(endpoint())
        await claims.published(new, deadline=soon())
        claim = await stored(store, "n1.shop.web")
        assert claim is not None
        assert claim.container_id == "c2"
        claims.unset(new)
        await claims.published(new, deadline=soon())
        assert await stored(store, "n1.shop.web") is None


async def test_claims_are_written_again_when_nats_has_lost_them(
    nats: NatsServer, store: BucketStore[Claim]
) -> None:
    claims = claims_of("n1", store)
    async with running(claims):
        claims.set(endpoint())
        await claims.published(endpoint(), deadline=soon())
        await store.delete("n1.shop.web")
        await nats.kill()
        await nats.start()
        await eventually(lambda: is_stored(store, "n1.shop.web"))


async def test_while_nats_is_away_publishing_times_out_by_name_and_catches_up_later(
    nats: NatsServer, store: BucketStore[Claim]
) -> None:
    claims = claims_of("n1", store)
    gone, new = endpoint(), endpoint("db", container="c2", ip="10.7.0.6")
    async with running(claims):
        claims.set(gone)
        await claims.published(gone, deadline=soon())
        await nats.kill()
        claims.unset(gone)
        claims.set(new)
        with pytest.raises(NotRealised, match=r"claim of shop/db to 10\.7\.0\.6 cannot be published"):
            await claims.published(new, deadline=soon(1.5))
        await nats.start()
        await claims.published(new, deadline=soon(20))
        await eventually(lambda: is_gone(store, "n1.shop.web"))
        await eventually(lambda: is_stored(store, "n1.shop.db"))
