"""An API server that does exactly what the test wrote down, well-behaved or not."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web

from shared.kubernetes import Kubernetes, connect
from tests.waiting import free_port


def pod(name: str, version: int, **more: Any) -> dict[str, Any]:
    """A Pod, small."""
    return {"metadata": {"name": name, "namespace": "ns", "resourceVersion": str(version)}, **more}


def pods_list(version: int, *items: dict[str, Any], kind: str = "PodList", more: str = "") -> dict[str, Any]:
    """A page of a list, the last one unless there is ``more``."""
    metadata = {"resourceVersion": str(version), **({"continue": more} if more else {})}
    return {"kind": kind, "metadata": metadata, "items": list(items)}


def line(kind: str, item: dict[str, Any]) -> bytes:
    """A line of a watch."""
    return json.dumps({"type": kind, "object": item}).encode() + b"\n"


@dataclass
class Scripted:
    """Answers lists and watches from two queues of scripts; records what was asked.

    A list's script is its pages, or an HTTP status. A watch's script is what to write, or an HTTP status; it
    stays open afterwards when it ends with None.
    """

    lists: list[Any] = field(default_factory=list)
    watches: list[Any] = field(default_factory=list)
    asked: list[dict[str, str]] = field(default_factory=list)
    token: str = ""

    @property
    def watched_from(self) -> list[str]:
        """The resourceVersion of each watch."""
        return [query["resourceVersion"] for query in self.asked if "watch" in query]

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """The next part of the script."""
        if self.token and request.headers.get("Authorization") != f"Bearer {self.token}":
            return _status(401)
        query = dict(request.query)
        self.asked.append(query)
        if "watch" in query:
            return await self._watch(request)
        script = self.lists.pop(0) if self.lists else pods_list(1)
        return _status(script) if isinstance(script, int) else web.json_response(script)

    async def _watch(self, request: web.Request) -> web.StreamResponse:
        script: Any = self.watches.pop(0) if self.watches else [None]
        if isinstance(script, int):
            return _status(script)
        response = web.StreamResponse()
        await response.prepare(request)
        for part in script:
            if part is None:
                await asyncio.Event().wait()
            await response.write(part)
        return response


def _status(code: int) -> web.Response:
    body = {"kind": "Status", "code": code, "reason": "Scripted", "message": "as written"}
    return web.json_response(body, status=code)


@asynccontextmanager
async def scripted_api(
    server: Scripted, directory: Path, *, token: str = ""
) -> AsyncIterator[tuple[Kubernetes, Callable[[str], None]]]:
    """A connection to a scripted server, and how to write another token into its kubeconfig."""
    port = free_port()
    application = web.Application()
    application.router.add_get("/{path:.*}", server.answer)
    runner = web.AppRunner(application, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    kubeconfig = directory / "kubeconfig"

    def write(token: str) -> None:
        user = {"name": "u", "user": {"token": token} if token else {}}
        cluster = {"name": "c", "cluster": {"server": f"http://127.0.0.1:{port}"}}
        context = {"name": "c", "context": {"cluster": "c", "user": "u"}}
        whole = {"clusters": [cluster], "users": [user], "contexts": [context], "current-context": "c"}
        kubeconfig.write_text(json.dumps(whole))

    write(token)
    api = await connect(kubeconfig=str(kubeconfig))
    try:
        yield api, write
    finally:
        await api.close()
        await runner.cleanup()
