"""A datapath as the CNI plugin sees it: a real HTTP server on a unix socket, with answers of the test's."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from pathlib import Path
from types import TracebackType
from typing import Any

from aiohttp import web

Body = dict[str, Any]
Answer = tuple[int, Any]
Answerer = Callable[[str, Body], Awaitable[Answer]]


def result(*, netns: str, ifname: str = "eth0", ip: str = "10.244.1.7/32") -> Body:
    """A CNI 1.1.0 result as the datapath gives it."""
    return {
        "cniVersion": "1.1.0",
        "interfaces": [
            {"name": "stl0a1b2c3d", "mac": "0a:00:00:00:00:01", "mtu": 1500},
            {"name": ifname, "mac": "0a:00:00:00:00:02", "sandbox": netns, "mtu": 1500},
        ],
        "ips": [{"address": ip, "gateway": "169.254.1.1", "interface": 1}],
        "routes": [{"dst": "0.0.0.0/0", "gw": "169.254.1.1", "mtu": 1400, "scope": 0}],
    }


async def agreeable(operation: str, body: Body) -> Answer:
    """Says yes to everything."""
    if operation == "add":
        return 200, {"cni": result(netns=body["netns"], ifname=body["ifname"])}
    return 200, {}


async def silent(operation: str, body: Body) -> Answer:
    """Never answers."""
    await asyncio.Event().wait()
    raise AssertionError


class FakeDatapath:
    """Serves ``POST /v1/cni/<operation>`` and keeps what it was asked. An async context manager."""

    def __init__(self, socket: Path, *, answer: Answerer = agreeable) -> None:
        self.socket = socket
        self.answer = answer
        self.requests: list[tuple[str, Body]] = []
        self._runner: web.AppRunner | None = None

    async def __aenter__(self) -> FakeDatapath:
        application = web.Application()
        application.add_routes([web.post("/v1/cni/{operation}", self._serve)])
        self._runner = web.AppRunner(application, shutdown_timeout=0.1, handler_cancellation=True)
        await self._runner.setup()
        await web.UnixSite(self._runner, str(self.socket)).start()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._runner is not None
        await self._runner.cleanup()
        self.socket.unlink(missing_ok=True)

    @property
    def operations(self) -> list[str]:
        """What it was asked, in order."""
        return [operation for operation, _ in self.requests]

    async def _serve(self, request: web.Request) -> web.Response:
        operation = request.match_info["operation"]
        body = await request.json()
        self.requests.append((operation, body))
        status, answer = await self.answer(operation, body)
        if isinstance(answer, str):
            return web.Response(status=status, text=answer)
        return web.json_response(answer, status=status)
