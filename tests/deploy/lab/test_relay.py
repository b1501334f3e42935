"""The TCP relay, between two ports of one namespace."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator

import pytest

from deploy.lab.relay import Place, Relay, free_port


class EchoServer:
    """Answers with what it got once the client has finished sending."""

    def __init__(self) -> None:
        self.received = 0
        self.cut = asyncio.Event()

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            data = await reader.read()
            self.received += len(data)
            writer.write(data)
            await writer.drain()
        except ConnectionError:
            self.cut.set()
        finally:
            writer.close()


@pytest.fixture
async def echo() -> AsyncIterator[tuple[EchoServer, int]]:
    made = EchoServer()
    server = await asyncio.start_server(made.serve, "127.0.0.1", 0)
    async with server:
        yield made, server.sockets[0].getsockname()[1]


def a_relay(target: int) -> Relay:
    return Relay("test", listen=Place(namespace=None, port=0), target=Place(namespace=None, port=target))


async def ask(port: int, data: bytes) -> bytes:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(data)
    writer.write_eof()
    answer = await asyncio.wait_for(reader.read(), 10)
    writer.close()
    return answer


async def test_carries_both_directions_and_half_closes(echo: tuple[EchoServer, int]) -> None:
    data = bytes(range(256)) * 20000
    async with a_relay(echo[1]) as relay:
        answers = await asyncio.gather(*(ask(relay.port, data) for _ in range(5)))
    assert all(answer == data for answer in answers)


async def test_refusing_target_costs_only_that_connection(echo: tuple[EchoServer, int]) -> None:
    async with a_relay(free_port()) as relay:
        for _ in range(3):
            with contextlib.suppress(ConnectionError):
                assert await ask(relay.port, b"x") == b""
        relay.target = Place(namespace=None, port=echo[1])
        assert await ask(relay.port, b"x") == b"x"


async def test_closing_ends_connections_that_are_open(echo: tuple[EchoServer, int]) -> None:
    async with a_relay(echo[1]) as relay:
        reader, writer = await asyncio.open_connection("127.0.0.1", relay.port)
        writer.write(b"begun")
        await writer.drain()
        port = relay.port
    with contextlib.suppress(ConnectionError):
        assert await asyncio.wait_for(reader.read(), 5) == b""
    writer.close()
    with pytest.raises(ConnectionError):
        await asyncio.open_connection("127.0.0.1", port)


async def test_port_in_use_is_an_error(echo: tuple[EchoServer, int]) -> None:
    relay = Relay("test", listen=Place(namespace=None, port=echo[1]), target=Place(namespace=None, port=1))
    with pytest.raises(OSError, match="in use"):
        async with relay:
            pass
    with pytest.raises(RuntimeError, match="not open"):
        _ = relay.port
