"""The settings of the stream behind a bucket."""

from __future__ import annotations

import json
from typing import Any

import pytest

from shared.bus import Bus, JetStreamError
from shared.contract.identity import NodeRecord
from shared.contract.names import Bucket
from tests.shared.bus.reader import node

NAME = f"KV_{Bucket.NODES.of('test')}"


async def call(bus: Bus, what: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
    """A JetStream API call as an operator's tool makes it."""
    reply = await (await bus.session()).request(f"$JS.API.{what}.{NAME}", json.dumps(body or {}).encode())
    answer: dict[str, Any] = json.loads(reply.data)
    assert "error" not in answer, answer
    return answer


async def settings(bus: Bus) -> dict[str, Any]:
    found: dict[str, Any] = (await call(bus, "STREAM.INFO"))["config"]
    return found


async def test_no_header_of_one_key_removes_others(bus: Bus) -> None:
    nodes = await bus.bucket(Bucket.NODES, as_type=NodeRecord, create=True)
    await nodes.put_many([("a", node("a")), ("b", node("b"))])
    for rollup in ("all", "sub"):
        future = await (await bus.session()).start(
            f"{nodes.subjects}a", b"{}", headers={"Nats-Rollup": rollup}
        )
        assert b"rollup not permitted" in (await future).data
    assert await nodes.keys() == {"a": 1, "b": 2}


async def test_a_bucket_with_other_settings_gets_these_and_keeps_its_records(bus: Bus) -> None:
    nodes = await bus.bucket(Bucket.NODES, as_type=NodeRecord, create=True)
    wanted = await settings(bus)
    await nodes.put("a", node("a"))
    weak = {"allow_rollup_hdrs": True, "allow_direct": True, "max_age": 10**12}
    await call(bus, "STREAM.UPDATE", {**wanted, **weak})
    created = (await call(bus, "STREAM.INFO"))["created"]
    nodes = await bus.bucket(Bucket.NODES, as_type=NodeRecord, create=True)
    assert await settings(bus) == wanted
    assert await nodes.keys() == {"a": 1}
    assert (await call(bus, "STREAM.INFO"))["created"] == created


async def test_what_an_operator_has_added_stays(bus: Bus) -> None:
    await bus.bucket(Bucket.NODES, as_type=NodeRecord, create=True)
    wanted = await settings(bus)
    await call(bus, "STREAM.UPDATE", {**wanted, "description": "mine", "allow_rollup_hdrs": True})
    await bus.bucket(Bucket.NODES, as_type=NodeRecord, create=True)
    assert await settings(bus) == {**wanted, "description": "mine"}


async def test_settings_that_cannot_be_changed_are_named(bus: Bus) -> None:
    body = {"name": NAME, "subjects": [f"$KV.{Bucket.NODES.of('test')}.>"], "storage": "memory"}
    await call(bus, "STREAM.CREATE", body)
    with pytest.raises(JetStreamError, match=rf"STREAM\.UPDATE\.{NAME}: .*storage"):
        await bus.bucket(Bucket.NODES, as_type=NodeRecord, create=True)


async def test_keys_are_those_with_a_value_at_their_revisions(bus: Bus) -> None:
    nodes = await bus.bucket(Bucket.NODES, as_type=NodeRecord, create=True)
    assert await nodes.keys() == {}
    await nodes.put_many([("a.b", node("a")), ("b", node("b")), ("c", node("c")), ("b", None)])
    assert await nodes.keys() == {"a.b": 1, "c": 3}
