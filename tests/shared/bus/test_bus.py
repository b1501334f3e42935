"""The connection and plain subjects."""

from __future__ import annotations

import asyncio
import time
from functools import partial
from pathlib import Path

import pytest

from shared.bus import Bus, BusSettings, BusUnavailable, Subscription
from shared.contract.base import Message
from shared.contract.names import event_subject, health_subject
from shared.contract.node import Event, ServiceHealth
from tests.nats_server import NatsServer
from tests.waiting import PATIENCE_SECONDS, eventually

SUBJECT = event_subject(cluster="test", service="policy", kind="x")


def event(text: str) -> Event:
    return Event(time="", service="policy", kind="x", object="", message=text)


def health(name: str) -> ServiceHealth:
    return ServiceHealth(service=name, instance="i", ready=True, uptime_seconds=0, resident_bytes=0)


async def test_connect_waits_for_a_server_that_starts_later(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    server = NatsServer(tmp_path)
    connecting = asyncio.create_task(server.connect())
    await eventually(lambda: "cannot connect to NATS" in caplog.text)
    assert not connecting.done()
    await server.start()
    bus = await asyncio.wait_for(connecting, PATIENCE_SECONDS)
    assert bus.connected
    await bus.close()
    await server.kill()


async def test_a_cancelled_connect_leaves_no_task_behind(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    before = asyncio.all_tasks()
    connecting = asyncio.create_task(NatsServer(tmp_path).connect())
    await eventually(lambda: "cannot connect to NATS" in caplog.text)
    connecting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await connecting
    await eventually(lambda: asyncio.all_tasks() <= before)


async def test_connected_tells_of_loss_and_return(nats: NatsServer, bus: Bus) -> None:
    assert bus.connected
    await nats.kill()
    await eventually(lambda: not bus.connected)
    await nats.start()
    await eventually(lambda: bus.connected)


async def test_a_subscription_survives_restarts(nats: NatsServer, bus: Bus) -> None:
    async with bus.subscribe("stentor.test.event.>", as_type=Event) as events:
        for number in range(3):
            await bus.session()
            await bus.publish(SUBJECT, event(str(number)))
            subject, received = await asyncio.wait_for(anext(events), PATIENCE_SECONDS)
            assert (subject, received.message) == (SUBJECT, str(number))
            await nats.kill()
            await eventually(lambda: not bus.connected)
            await nats.start()


async def test_a_subscription_that_was_entered_misses_nothing(nats: NatsServer, bus: Bus) -> None:
    other = await nats.connect()
    for number in range(50):
        async with bus.subscribe(SUBJECT, as_type=Event) as events:
            await other.publish(SUBJECT, event(str(number)))
            _, received = await asyncio.wait_for(anext(events), PATIENCE_SECONDS)
            assert received.message == str(number)
    await other.close()


async def test_an_unreadable_message_is_counted_and_skipped(bus: Bus) -> None:
    async with bus.subscribe("stentor.test.event.>", as_type=Event) as events:
        await bus.publish(SUBJECT, health("not an event"))
        await bus.publish(SUBJECT, event("good"))
        _, received = await asyncio.wait_for(anext(events), PATIENCE_SECONDS)
        assert received.message == "good"
        assert events.malformed == 1


async def test_the_last_token_of_the_subject_may_give_the_type(bus: Bus) -> None:
    subscription: Subscription[Message] = bus.subscribe("a.>", as_type={"health": ServiceHealth, "*": Event})
    async with subscription as messages:
        await bus.publish("a.health", health("x"))
        await bus.publish("a.else", event("y"))
        assert isinstance((await anext(messages))[1], ServiceHealth)
        assert isinstance((await anext(messages))[1], Event)


async def test_publishing_while_nats_is_away_returns_at_once_and_counts(nats: NatsServer, bus: Bus) -> None:
    await nats.kill()
    await eventually(lambda: not bus.connected)
    began = time.monotonic()
    for _ in range(1000):
        await bus.publish(SUBJECT, event("lost"))
    assert time.monotonic() - began < 1
    assert bus.dropped == 1000


async def test_publishing_to_a_frozen_nats_does_not_block_and_what_is_too_much_is_counted(
    nats: NatsServer, bus: Bus
) -> None:
    nats.freeze()
    try:
        began = time.monotonic()
        for _ in range(3000):
            await bus.publish(SUBJECT, event("x" * 10_000))
            await asyncio.sleep(0)
        assert time.monotonic() - began < 5
        assert bus.dropped > 0
    finally:
        nats.freeze(frozen=False)


async def test_all_who_answer_a_question_are_heard(nats: NatsServer, bus: Bus) -> None:
    subject = health_subject(cluster="test")
    others = [await nats.connect() for _ in range(3)]
    for number, other in enumerate(others):
        await other.answer(subject, partial(health, f"s{number}"))
    heard = await bus.ask(subject, as_type=ServiceHealth, seconds=0.5)
    assert sorted(each.service for each in heard) == ["s0", "s1", "s2"]
    await nats.kill()
    await nats.start()
    for each in (bus, *others):
        await each.session()
    heard = await bus.ask(subject, as_type=ServiceHealth, seconds=0.5)
    assert sorted(each.service for each in heard) == ["s0", "s1", "s2"]
    for other in others:
        await other.close()


async def test_an_answer_that_cannot_be_made_is_logged_and_the_next_question_answered(
    nats: NatsServer, bus: Bus, caplog: pytest.LogCaptureFixture
) -> None:
    other = await nats.connect()
    failures = [ValueError("no idea")]

    def reply() -> ServiceHealth:
        if failures:
            raise failures.pop()
        return health("recovered")

    await other.answer("question", reply)
    assert await bus.ask("question", as_type=ServiceHealth, seconds=0.3) == []
    assert "no idea" in caplog.text
    (answer,) = await bus.ask("question", as_type=ServiceHealth, seconds=0.3)
    assert answer.service == "recovered"
    await other.close()


async def test_nobody_answers(bus: Bus) -> None:
    assert await bus.ask("stentor.test.nobody", as_type=ServiceHealth, seconds=0.1) == []


async def test_asking_without_nats_fails_by_name(nats: NatsServer, bus: Bus) -> None:
    await nats.kill()
    await eventually(lambda: not bus.connected)
    with pytest.raises(BusUnavailable, match=str(nats.port)):
        await bus.ask("x", as_type=ServiceHealth, seconds=0.1)


def test_settings_come_from_the_environment(tmp_path: Path) -> None:
    file = tmp_path / "password"
    file.write_text("secret\n")
    settings = BusSettings.from_environment(
        {
            "STENTOR_NATS_URL": "nats://a:1, nats://b:2",
            "STENTOR_NATS_USER": "policy",
            "STENTOR_NATS_PASSWORD_FILE": str(file),
            "STENTOR_NATS_PASSWORD": "other",
            "STENTOR_CLUSTER": "blue",
        }
    )
    assert settings.servers == ["nats://a:1", "nats://b:2"]
    assert (settings.user, settings.read_password(), settings.cluster) == ("policy", "secret", "blue")
    assert BusSettings.from_environment({}) == BusSettings()
