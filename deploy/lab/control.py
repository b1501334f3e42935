"""The daemon's control API: HTTP on the lab's unix socket, which only root can open.

========================================  ===========================================================
``GET /v1/status``                        LabStatus
``POST /v1/children/<name>/stop``         ends a child and holds it; ChildStatus
``POST /v1/children/<name>/start``        starts it (again), ends a hold; ChildStatus
``POST /v1/children/<name>/hold``         lets it run, but never start again by itself; ChildStatus
``POST /v1/children/<name>/kill``         ChildRequest: sends a signal; ChildStatus before the signal
``POST /v1/manifests/apply``, ``delete``  YAML text; list of AppliedObject
``POST /v1/wait``                         WaitRequest: until all pods are ready; WaitReply
``POST /v1/shutdown``                     ends the daemon and its children; answered before
========================================  ===========================================================

What cannot be done is answered with status 400 (asked wrongly), 409 (refused by the lab or the API server) or
503 (the API server is away), and a Refusal.
"""

from __future__ import annotations

import signal
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Protocol, TypeVar

import msgspec
from aiohttp import web

from deploy.lab.errors import ChildError, LabError
from deploy.lab.state import AppliedObject, ChildRequest, LabStatus, Refusal, WaitReply, WaitRequest
from deploy.lab.supervisor import Child
from shared.kubernetes import ApiError, KubernetesError

MAX_MANIFEST_BYTES = 8 << 20

B = TypeVar("B", bound=msgspec.Struct)
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Controlled(Protocol):
    """What the control API acts on."""

    async def status(self) -> LabStatus:
        """The lab as it is."""

    def child(self, name: str) -> Child:
        """A child by name; raises ChildError."""

    async def apply(self, text: str) -> list[AppliedObject]:
        """Applies manifests."""

    async def delete(self, text: str) -> list[AppliedObject]:
        """Deletes what manifests name."""

    async def wait(self, *, seconds: float) -> tuple[str, ...]:
        """Waits for all pods; why some are not ready."""

    def shut_down(self) -> None:
        """Begins to end the daemon."""


@asynccontextmanager
async def serve_control(lab: Controlled, *, socket: Path) -> AsyncIterator[None]:
    """Serves while the context is entered."""
    routes = _Routes(lab)
    application = web.Application(middlewares=[_refusals], client_max_size=MAX_MANIFEST_BYTES)
    application.add_routes(
        [
            web.get("/v1/status", routes.status),
            web.post("/v1/children/{name}/{action:stop|start|hold|kill}", routes.child),
            web.post("/v1/manifests/apply", routes.apply),
            web.post("/v1/manifests/delete", routes.delete),
            web.post("/v1/wait", routes.wait),
            web.post("/v1/shutdown", routes.shut_down),
        ]
    )
    runner = web.AppRunner(application, access_log=None, shutdown_timeout=1.0)
    await runner.setup()
    try:
        await web.UnixSite(runner, str(socket)).start()
        socket.chmod(0o600)
        yield
    finally:
        await runner.cleanup()
        socket.unlink(missing_ok=True)


class _Routes:
    def __init__(self, lab: Controlled) -> None:
        self._lab = lab

    async def status(self, request: web.Request) -> web.StreamResponse:
        return _json(await self._lab.status())

    async def child(self, request: web.Request) -> web.StreamResponse:
        child = self._lab.child(request.match_info["name"])
        match request.match_info["action"]:
            case "stop":
                await child.stop()
            case "start":
                child.start()
            case "hold":
                child.hold()
            case _:
                status = child.status
                child.kill(_signal(await _body(request, ChildRequest)))
                return _json(status)
        return _json(child.status)

    async def apply(self, request: web.Request) -> web.StreamResponse:
        return _json(await self._lab.apply(await request.text()))

    async def delete(self, request: web.Request) -> web.StreamResponse:
        return _json(await self._lab.delete(await request.text()))

    async def wait(self, request: web.Request) -> web.StreamResponse:
        wish = await _body(request, WaitRequest)
        return _json(WaitReply(waiting=await self._lab.wait(seconds=wish.seconds)))

    async def shut_down(self, request: web.Request) -> web.StreamResponse:
        self._lab.shut_down()
        return _json({})


async def _body(request: web.Request, kind: type[B]) -> B:
    try:
        return msgspec.json.decode(await request.read() or b"{}", type=kind)
    except msgspec.DecodeError as error:
        raise web.HTTPBadRequest(text=str(error)) from error


def _signal(request: ChildRequest) -> signal.Signals:
    try:
        return signal.Signals[f"SIG{request.signal.removeprefix('SIG')}"]
    except KeyError:
        raise ChildError(
            f"no signal {request.signal!r}; use a name such as KILL, TERM, STOP or CONT"
        ) from None


@web.middleware
async def _refusals(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except web.HTTPException as error:
        return _json(Refusal(error=error.text or error.reason), status=error.status)
    except (LabError, ApiError) as error:
        return _json(Refusal(error=str(error)), status=409)
    except KubernetesError as error:
        return _json(Refusal(error=str(error)), status=503)


def _json(content: object, *, status: int = 200) -> web.Response:
    return web.Response(body=msgspec.json.encode(content), status=status, content_type="application/json")
