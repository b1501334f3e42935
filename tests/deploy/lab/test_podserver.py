"""The pods' server, as its clients see it."""

from __future__ import annotations

import asyncio
import json
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest

from deploy.lab import podserver
from deploy.lab.relay import free_port

SERVER = Path(podserver.__file__)


def spec(*ports: tuple[int, str]) -> str:
    listed = [{"port": port, "protocol": protocol} for port, protocol in ports]
    return json.dumps({"pod": "web-0", "namespace": "shop", "node": "node-1", "ports": listed})


async def start(text: str) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        sys.executable,
        *("-I", "-S", str(SERVER), text),
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )


@pytest.fixture
def port() -> int:
    return free_port()


@pytest.fixture
async def server(port: int) -> AsyncIterator[asyncio.subprocess.Process]:
    process = await start(spec((port, "TCP"), (port, "UDP")))
    assert process.stdout is not None
    assert await process.stdout.readline() == b"ready\n"
    yield process
    process.terminate()
    assert await process.wait() == 0


async def raw(port: int, request: bytes) -> bytes:
    """Everything that comes back until the server closes."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(request)
    answer = await asyncio.wait_for(reader.read(), 5)
    writer.close()
    return answer


async def test_says_who_it_is_and_who_called(server: asyncio.subprocess.Process, port: int) -> None:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    own = writer.get_extra_info("sockname")
    writer.write(b"GET /any?thing=1 HTTP/1.1\r\nConnection: close\r\n\r\n")
    head, _, body = (await reader.read()).partition(b"\r\n\r\n")
    writer.close()
    assert head.startswith(b"HTTP/1.1 200 OK")
    assert b"application/json" in head
    assert json.loads(body) == {
        "pod": "web-0",
        "namespace": "shop",
        "node": "node-1",
        "ip": "127.0.0.1",
        "port": port,
        "client": {"ip": "127.0.0.1", "port": own[1]},
    }


async def test_one_connection_serves_many_requests(server: asyncio.subprocess.Process, port: int) -> None:
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=1)) as session:
        clients = set()
        for method in ("GET", "POST", "HEAD", "GET"):
            data = b"x" * 5000 if method == "POST" else None
            async with session.request(method, f"http://127.0.0.1:{port}/", data=data) as response:
                assert response.status == (405 if method == "POST" else 200)
                if method == "GET":
                    clients.add((await response.json())["client"]["port"])
    assert len(clients) == 1


@pytest.mark.parametrize(
    ("request_text", "status", "answers"),
    [
        (b"GET / HTTP/1.0\r\n\r\n", b"200", 1),
        (b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n", b"200", 1),
        (b"GET / HTTP/1.1\r\n\r\nGET / HTTP/1.1\r\nConnection: close\r\n\r\n", b"200", 2),
        (b"HEAD / HTTP/1.1\r\nConnection: close\r\n\r\n", b"200", 0),
        (b"nonsense\r\n\r\n", b"400", 0),
        (b"GET / HTTP/1.1\r\nContent-Length: many\r\n\r\n", b"413", 0),
        (b"GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n", b"413", 0),
        (b"GET / HTTP/1.1\r\nX: " + b"y" * 70000, b"431", 0),
    ],
)
async def test_speaks_http_and_refuses_what_is_none(
    server: asyncio.subprocess.Process, port: int, request_text: bytes, status: bytes, answers: int
) -> None:
    answer = await raw(port, request_text)
    assert answer.startswith(b"HTTP/1.1 " + status)
    assert answer.count(b'"pod": "web-0"') == answers


async def test_datagrams_are_echoed(server: asyncio.subprocess.Process, port: int) -> None:
    loop = asyncio.get_running_loop()
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.setblocking(False)
        client.connect(("127.0.0.1", port))
        await loop.sock_sendall(client, b"hello")
        told = json.loads(await asyncio.wait_for(loop.sock_recv(client, 4096), 5))
        own = client.getsockname()
    assert told["payload"] == "hello"
    assert told["pod"] == "web-0"
    assert (told["ip"], told["port"]) == ("127.0.0.1", port)
    assert (told["client"]["ip"], told["client"]["port"]) == own


async def test_port_in_use_ends_it_with_the_reason(server: asyncio.subprocess.Process, port: int) -> None:
    second = await start(spec((port, "TCP")))
    output, errors = await second.communicate()
    assert second.returncode == 1
    assert output == b""
    assert b"Address already in use" in errors


async def test_pod_without_ports_just_runs() -> None:
    process = await start(spec())
    assert process.stdout is not None
    assert await process.stdout.readline() == b"ready\n"
    process.terminate()
    assert await process.wait() == 0
