"""Any key-value client reads as ``reader`` with the options of docs/contract.md, and writes nothing."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Any

import nats
import pytest
from nats.aio.client import Client
from nats.js.kv import KeyValue

from shared.bus import BucketStore
from shared.bus.session import IMPORTED_API
from shared.contract.identity import Claim, IdentityRecord, NodeRecord
from shared.contract.names import Bucket
from tests.deploy.nats.conftest import Connect
from tests.waiting import PATIENCE_SECONDS, eventually

NAME = Bucket.NODES.of("test")


@pytest.fixture
async def nodes(connect: Connect) -> BucketStore[NodeRecord]:
    """The bucket ``nodes`` of its owner."""
    identity = await connect("identity")
    await identity.bucket(Bucket.ALLOCATIONS, as_type=IdentityRecord, create=True)
    await identity.bucket(Bucket.CLAIMS, as_type=Claim, create=True)
    store = await identity.bucket(Bucket.NODES, as_type=NodeRecord, create=True)
    await store.put_many([(name, NodeRecord(name=name)) for name in ("a", "b")])
    return store


@pytest.fixture
async def refusals() -> list[str]:
    """What the server has refused to the client."""
    return []


@pytest.fixture
async def client(
    nodes: BucketStore[NodeRecord], connect: Connect, refusals: list[str]
) -> AsyncIterator[Client]:
    """A plain client of nats-py."""
    settings = (await connect("reader")).settings

    async def note(error: Exception) -> None:
        refusals.append(str(error))

    client = await nats.connect(
        settings.url,
        user="reader",
        password=settings.read_password(),
        inbox_prefix="_INBOX.reader",
        error_cb=note,
    )
    yield client
    await client.close()


@pytest.fixture
async def bucket(client: Client) -> KeyValue:
    js = client.jetstream(prefix="$JS.CONTROL.API", timeout=PATIENCE_SECONDS)
    return await js.key_value(NAME)


async def test_the_clients_own_operations_read(
    nodes: BucketStore[NodeRecord], bucket: KeyValue, refusals: list[str]
) -> None:
    entry = await bucket.get("a")
    assert (json.loads(entry.value or b"")["name"], entry.revision) == ("a", 1)
    assert await bucket.keys() == ["a", "b"]
    assert (await bucket.status()).values == 2
    assert (await bucket._js.account_info()).streams == 3
    watcher: Any = await bucket.watchall()
    seen = [await watcher.updates(PATIENCE_SECONDS) for _ in range(3)]
    assert [update and (update.key, update.revision) for update in seen] == [("a", 1), ("b", 2), None]
    await nodes.put_many([("c", NodeRecord(name="c")), ("a", None)])
    more = [await watcher.updates(PATIENCE_SECONDS) for _ in range(2)]
    assert [(update.key, update.operation) for update in more] == [("c", None), ("a", "DEL")]
    await watcher.stop()
    only: Any = await bucket.watch("b")
    assert (await only.updates(PATIENCE_SECONDS)).key == "b"
    assert refusals == []


@pytest.mark.parametrize("named", [False, True])
async def test_consumers_of_any_form_read_the_stream_they_name(
    client: Client, bucket: KeyValue, named: bool
) -> None:
    """Clients for other languages name consumers; nats-py does when asked."""
    inbox = client.new_inbox()
    messages = await client.subscribe(inbox)
    config = {"deliver_subject": inbox, "deliver_policy": "all", "ack_policy": "none"}
    call = f"{IMPORTED_API}CONSUMER.CREATE.KV_{NAME}"
    if named:
        call += f".mine.$KV.{NAME}.b"
        config |= {"name": "mine", "filter_subject": f"$KV.{NAME}.b"}
    body = {"stream_name": f"KV_{NAME}", "config": {**config, "replay_policy": "instant"}}
    made = json.loads((await client.request(call, json.dumps(body).encode(), PATIENCE_SECONDS)).data)
    assert "error" not in made
    first = await messages.next_msg(PATIENCE_SECONDS)
    assert first.subject.endswith(".b" if named else ".a")
    info = f"{IMPORTED_API}CONSUMER.INFO.KV_{NAME}.{made['name']}"
    assert json.loads((await client.request(info, b"", PATIENCE_SECONDS)).data)["name"] == made["name"]
    # The name of another stream in the body does not help.
    secret = f"KV_{Bucket.ALLOCATIONS.of('test')}"
    config.pop("filter_subject", None)
    for subject in (call, f"{IMPORTED_API}CONSUMER.CREATE.KV_{NAME}.mine"):
        body = {"stream_name": secret, "config": {**config, "replay_policy": "instant"}}
        answer = await client.request(subject, json.dumps(body).encode(), PATIENCE_SECONDS)
        assert "error" in json.loads(answer.data)


@pytest.mark.parametrize(
    "write",
    [
        lambda bucket: bucket.put("a", b"evil"),
        lambda bucket: bucket.create("new", b"evil"),
        lambda bucket: bucket.update("a", b"evil", last=1),
        lambda bucket: bucket.delete("a"),
        lambda bucket: bucket.purge("a"),
        lambda bucket: bucket._js.purge_stream(bucket._stream),
        lambda bucket: bucket._js.delete_msg(bucket._stream, 1),
        lambda bucket: bucket._js.delete_key_value(bucket._name),
        lambda bucket: bucket._js.create_key_value(bucket="mine"),
    ],
)
async def test_the_clients_own_operations_write_nothing(
    nodes: BucketStore[NodeRecord],
    client: Client,
    refusals: list[str],
    write: Callable[[KeyValue], Awaitable[object]],
) -> None:
    js = client.jetstream(prefix="$JS.CONTROL.API", timeout=0.3)
    bucket = await js.key_value(NAME)
    with pytest.raises((nats.errors.Error, nats.js.errors.Error, asyncio.TimeoutError)):
        await write(bucket)
    await eventually(lambda: any("permissions violation" in refusal.lower() for refusal in refusals))
    assert await nodes.keys() == {"a": 1, "b": 2}
