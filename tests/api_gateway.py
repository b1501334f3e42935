"""What may stand between a service and its API server: a proxy that fails as proxies do."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import aiohttp
from aiohttp import web

from tests.waiting import free_port


@dataclass
class Gateway:
    """Forwards everything to ``upstream`` but what is held back or answered here."""

    upstream: str
    port: int = field(default_factory=free_port)
    answers: dict[str, tuple[int, str]] = field(default_factory=dict)
    """Path to status and body that the gateway gives itself."""
    _held: dict[str, asyncio.Event] = field(default_factory=dict)
    _open: set[asyncio.Task[object]] = field(default_factory=set)

    def hold(self, path: str) -> None:
        """Leave requests for a path without an answer."""
        self._held[path] = asyncio.Event()

    def release(self, path: str) -> None:
        """Answer them now."""
        self._held.pop(path).set()

    def cut(self) -> None:
        """Break every open connection: clients come again, and meet what is set now."""
        for task in list(self._open):
            task.cancel()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """One request."""
        task = asyncio.current_task()
        assert task is not None
        self._open.add(task)
        try:
            if held := self._held.get(request.path):
                await held.wait()
            if request.path in self.answers:
                status, body = self.answers[request.path]
                return web.Response(status=status, text=body, content_type="application/json")
            return await self._forward(request)
        finally:
            self._open.discard(task)

    async def _forward(self, request: web.Request) -> web.StreamResponse:
        async with (
            aiohttp.ClientSession(auto_decompress=False) as session,
            session.request(
                request.method,
                self.upstream + request.path_qs,
                data=await request.read(),
                headers={name: request.headers[name] for name in _PASSED if name in request.headers},
                timeout=aiohttp.ClientTimeout(total=None),
            ) as received,
        ):
            response = web.StreamResponse(status=received.status)
            response.content_type = received.content_type
            await response.prepare(request)
            async for chunk in received.content.iter_any():
                await response.write(chunk)
            return response


_PASSED = ("Authorization", "Accept", "Content-Type")


@asynccontextmanager
async def gateway_to(kubeconfig: Path, *, upstream: str) -> AsyncIterator[tuple[Gateway, Path]]:
    """A gateway, and the kubeconfig of those behind it."""
    gateway = Gateway(upstream)
    application = web.Application()
    application.router.add_route("*", "/{path:.*}", gateway.answer)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", gateway.port).start()
    behind = kubeconfig.with_name("kubeconfig-behind-gateway")
    port = upstream.rpartition(":")[2]
    behind.write_text(kubeconfig.read_text().replace(f":{port}", f":{gateway.port}"))
    try:
        yield gateway, behind
    finally:
        gateway.cut()
        await runner.cleanup()
