"""A service process, as operators and supervisors see it."""

from __future__ import annotations

import asyncio
import json
import signal
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp

from shared.bus import Bus
from shared.contract.names import health_subject
from shared.contract.node import Event, ServiceHealth
from tests.nats_server import NatsServer
from tests.waiting import PATIENCE_SECONDS, eventually, free_port

ROOT = Path(__file__).parents[3]


@asynccontextmanager
async def service(nats: NatsServer, *flags: str) -> AsyncIterator[asyncio.subprocess.Process]:
    """The process of service_under_test.py."""
    command = ("-m", "tests.shared.runtime.service_under_test", "--nats-url", nats.url, "--cluster", "test")
    process = await asyncio.create_subprocess_exec(
        sys.executable, *command, *flags, cwd=ROOT, stderr=asyncio.subprocess.PIPE
    )
    try:
        yield process
    finally:
        if process.returncode is None:
            process.kill()
        await process.communicate()


async def output(process: asyncio.subprocess.Process) -> str:
    """All that it wrote until it ended."""
    _, errors = await asyncio.wait_for(process.communicate(), PATIENCE_SECONDS)
    return errors.decode()


async def get(port: int, path: str) -> tuple[int, str]:
    """Status and body; status 0 while nobody listens."""
    try:
        async with (
            aiohttp.ClientSession() as client,
            client.get(f"http://127.0.0.1:{port}{path}") as response,
        ):
            return response.status, await response.text()
    except aiohttp.ClientConnectionError:
        return 0, ""


async def ready(port: int) -> bool:
    """The service says that it is ready."""
    return (await get(port, "/readyz"))[0] == 200


async def health(bus: Bus) -> list[ServiceHealth]:
    """What the services answer."""
    return await bus.ask(health_subject(cluster="test"), as_type=ServiceHealth, seconds=0.2)


async def test_a_ready_service_says_so_over_http_and_nats(nats: NatsServer, bus: Bus) -> None:
    port = free_port()
    async with service(nats, "--listen", f"127.0.0.1:{port}", "--node", "n1"):
        await eventually(lambda: ready(port))
        assert (await get(port, "/healthz"))[0] == 200
        (answer,) = await health(bus)
        assert (answer.service, answer.node, answer.ready, answer.reasons) == ("test", "n1", True, ())
        assert answer.detail == {"shelves": 3}
        assert answer.resident_bytes > 1_000_000
        _, metrics = await get(port, "/metrics")
        assert 'stentor_detail{name="shelves"} 3.0' in metrics
        assert "stentor_nats_connected 1.0" in metrics
        assert "stentor_nats_dropped_messages_total 0.0" in metrics
        assert "process_resident_memory_bytes" in metrics


async def test_a_service_that_is_not_ready_says_why(nats: NatsServer, bus: Bus) -> None:
    port = free_port()
    async with service(nats, "--listen", f"127.0.0.1:{port}", "--behaviour", "unready"):
        await eventually(lambda: health(bus))
        (answer,) = await health(bus)
        assert (answer.ready, answer.reasons) == (False, ("shelves: one is missing",))
        assert await get(port, "/readyz") == (503, "shelves: one is missing\n")


async def test_it_is_alive_but_not_ready_while_nats_is_away(nats: NatsServer) -> None:
    await nats.kill()
    port = free_port()
    async with service(nats, "--listen", f"127.0.0.1:{port}") as process:

        async def alive() -> bool:
            return (await get(port, "/healthz"))[0] == 200

        await eventually(alive)
        missing = f"nats: not connected to {nats.url}\n"
        assert await get(port, "/readyz") == (503, "starting\n" + missing)
        await nats.start()
        await eventually(lambda: ready(port))
        await nats.kill()

        async def says_what_is_missing() -> bool:
            return await get(port, "/readyz") == (503, missing)

        await eventually(says_what_is_missing)
        assert process.returncode is None
        assert await alive()


async def test_a_failed_task_ends_the_process_and_is_named(nats: NatsServer) -> None:
    async with service(nats, "--behaviour", "fail") as process:
        text = await output(process)
        assert process.returncode == 1
        assert 'message="task shelf failed"' in text
        assert "ValueError: the shelf fell down" in text


async def test_it_stops_cleanly_on_sigterm_and_sigint(nats: NatsServer, bus: Bus) -> None:
    for number in (signal.SIGTERM, signal.SIGINT):
        async with service(nats) as process:
            await eventually(lambda: health(bus))
            process.send_signal(number)
            text = await output(process)
            assert process.returncode == 0, text
            assert f"stopping on {number.name}" in text
            assert "Traceback" not in text


async def test_it_can_be_stopped_while_nats_was_never_there(nats: NatsServer) -> None:
    await nats.kill()
    port = free_port()
    async with service(nats, "--listen", f"127.0.0.1:{port}") as process:
        await eventually(lambda: get_alive(port))
        process.send_signal(signal.SIGTERM)
        await output(process)
        assert process.returncode == 0


async def get_alive(port: int) -> bool:
    """The service's HTTP server answers."""
    return (await get(port, "/healthz"))[0] == 200


async def test_a_main_coroutine_that_returns_ends_the_process_with_its_tasks(nats: NatsServer) -> None:
    async with service(nats, "--behaviour", "return") as process:
        text = await output(process)
        assert process.returncode == 0, text


async def test_events_are_published_and_logged_as_json(nats: NatsServer, bus: Bus) -> None:
    async with (
        bus.subscribe("stentor.test.event.>", as_type=Event) as events,
        service(nats, "--log-format", "json") as process,
    ):
        subject, event = await asyncio.wait_for(anext(events), PATIENCE_SECONDS)
        assert subject == "stentor.test.event.test.started"
        assert (event.service, event.object, event.message) == ("test", "Service test", "hello")
        process.send_signal(signal.SIGTERM)
        lines = [json.loads(line) for line in (await output(process)).splitlines()]
        (said,) = [line for line in lines if line.get("kind") == "started"]
        assert (said["message"], said["service"], said["level"]) == ("hello", "test", "warning")


async def test_wrong_flags_are_refused_with_a_usage_message(nats: NatsServer) -> None:
    for flags in (("--listen", "nowhere"), ("--log-level", "loud")):
        async with service(nats, *flags) as process:
            text = await output(process)
            assert process.returncode == 2
            assert "usage: stentor-test" in text
