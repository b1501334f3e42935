"""The HTTP face of the embedded API server: listening, who may ask, routing, and errors as ``Status``.

Plain HTTP on loopback, so a random token guards it against other users of the machine. kubectl sends no
bearer token over plain HTTP; the kubeconfig therefore carries the token as the password of its server URL,
which every client sends as Basic authentication. Bearer is accepted too.

Nothing is kept on disk: when the server stops, its cluster is gone.
"""

from __future__ import annotations

import asyncio
import base64
import binascii
import hmac
import ipaddress
import logging
import secrets
import socket
from collections.abc import Sequence
from typing import Any
from urllib.parse import quote

import msgspec
import yaml
from aiohttp import web
from aiohttp.abc import AbstractStreamWriter
from aiohttp.http_parser import RawRequestMessage
from aiohttp.streams import StreamReader

from . import discovery, openapi
from .addresses import ServiceAddresses
from .crds import CustomResources
from .errors import ListenError, NotFound, StatusError, Unauthorized
from .objects import Objects
from .requests import MAX_BODY, target_of
from .resources import Registry, built_in
from .rest import Rest
from .store import Store

_log = logging.getLogger(__name__)

INITIAL_NAMESPACES = ("default", "kube-system", "kube-public", "kube-node-lease")
_HEALTH_PATHS = frozenset({"/healthz", "/livez", "/readyz"})
_USER = "stentor"


class ApiAddress(msgspec.Struct, frozen=True, kw_only=True):
    """Where a running server listens."""

    host: str
    port: int
    token: str

    @property
    def url(self) -> str:
        """The base URL, without credentials."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"

    @property
    def authorized_url(self) -> str:
        """The base URL with the token as its password; for clients that take credentials from the URL."""
        return self.url.replace("http://", f"http://{_USER}:{quote(self.token, safe='')}@")


class ApiServer:
    """A Kubernetes API server in this process.

    ``event_log`` is how many changes of each resource a watch can resume over; ``watch_queue`` is how many
    changes a slow watcher may lag before it is cut off. ``service_cidrs`` is one CIDR per IP family, the
    primary one first.
    """

    def __init__(
        self,
        *,
        service_cidrs: Sequence[str] = ("10.96.0.0/16",),
        event_log: int = 4096,
        watch_queue: int = 16384,
        token: str | None = None,
    ) -> None:
        self._token = token or secrets.token_urlsafe(24)
        self._store = Store(log_size=event_log, queue_size=watch_queue)
        self._registry = Registry()
        addresses = ServiceAddresses(cidrs=service_cidrs)
        self._store.observe(CustomResources(store=self._store, registry=self._registry).follow)
        self._objects = Objects(store=self._store, registry=self._registry, addresses=addresses)
        self._rest = Rest(objects=self._objects)
        self._runner: web.ServerRunner | None = None
        self._address: ApiAddress | None = None
        self._bootstrap()

    async def start(
        self, *, host: str = "127.0.0.1", port: int = 0, listener: socket.socket | None = None
    ) -> ApiAddress:
        """Listen on ``host`` and ``port`` (0: a free one), or on ``listener``, a bound socket taken over.

        Raises ``ListenError`` if that cannot be, also for a ``host`` that is not loopback: without TLS the
        token would cross a network. A caller who guards the network another way passes a ``listener``.
        """
        if self._runner is not None:
            raise ListenError("the API server is already listening; stop it first")
        if listener is None:
            listener = _loopback_socket(host, port)
        server = web.Server(
            self._handle, request_factory=_request, handler_cancellation=True, access_log=None
        )
        runner = web.ServerRunner(server, shutdown_timeout=1.0)
        await runner.setup()
        await web.SockSite(runner, listener, backlog=512).start()
        self._runner = runner
        bound = listener.getsockname()
        self._address = ApiAddress(host=bound[0], port=bound[1], token=self._token)
        return self._address

    async def stop(self) -> None:
        """Close every watch and connection and stop listening. The objects stay; ``start`` serves them
        again."""
        runner, self._runner, self._address = self._runner, None, None
        if runner is not None:
            self._store.end_subscriptions(abrupt=False)
            await runner.cleanup()

    @property
    def address(self) -> ApiAddress:
        """Where the server listens; ``ListenError`` if it does not."""
        if self._address is None:
            raise ListenError("the API server is not listening; start it first")
        return self._address

    def kubeconfig(self) -> str:
        """A kubeconfig (YAML) for this server. It holds the token: write it with mode 0600."""
        name = "stentor-lab"
        return yaml.safe_dump(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "clusters": [{"name": name, "cluster": {"server": self.address.authorized_url}}],
                "users": [{"name": name, "user": {}}],
                "contexts": [{"name": name, "context": {"cluster": name, "user": name}}],
                "current-context": name,
            },
            sort_keys=False,
        )

    def drop_watches(self, *, abrupt: bool = False) -> int:
        """Fault hook: end every open watch, properly or (``abrupt``) by cutting connections; returns how
        many."""
        return self._store.end_subscriptions(abrupt=abrupt)

    def compact(self) -> None:
        """Fault hook: forget the event log; resuming from any earlier resourceVersion is 410 Gone."""
        self._store.compact()

    def _bootstrap(self) -> None:
        namespaces = built_in("namespaces")
        accounts = built_in("serviceaccounts")
        for name in INITIAL_NAMESPACES:
            self._objects.create(namespaces, {"metadata": {"name": name}}, namespace="")
            self._objects.create(accounts, {"metadata": {"name": "default"}}, namespace=name)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        try:
            self._authorize(request)
            return await self._route(request)
        except StatusError as refused:
            return _json(refused.status(), code=refused.code)
        except (asyncio.CancelledError, ConnectionError):
            raise
        except Exception:  # a fault of one request is its 500, and the server goes on
            _log.exception("%s %s failed", request.method, request.path)
            broken = StatusError(f"{request.method} {request.path}: the lab's API server failed; see its log")
            return _json(broken.status(), code=broken.code)

    def _authorize(self, request: web.BaseRequest) -> None:
        scheme, _space, credentials = request.headers.get("Authorization", "").partition(" ")
        given = ""
        if scheme.lower() == "bearer":
            given = credentials.strip()
        elif scheme.lower() == "basic":
            try:
                given = base64.b64decode(credentials, validate=True).decode().partition(":")[2]
            except (binascii.Error, UnicodeDecodeError):
                given = ""
        if not hmac.compare_digest(given.encode(), self._token.encode()):
            raise Unauthorized("Unauthorized: use the kubeconfig that this lab wrote")

    async def _route(self, request: web.BaseRequest) -> web.StreamResponse:
        path = request.path.rstrip("/")
        if path in _HEALTH_PATHS:
            return web.Response(text="ok")
        document = self._document(path, request) if request.method == "GET" else None
        if document is not None:
            return document
        if path.startswith(("/api/", "/apis/")):
            return await self._rest.answer(request, target_of(path, registry=self._registry))
        raise NotFound.of_path(request.path)

    def _document(self, path: str, request: web.BaseRequest) -> web.Response | None:
        """The discovery or OpenAPI document at ``path``, if it names one."""
        registry = self._registry
        aggregated = discovery.AGGREGATED in request.headers.get("Accept", "")
        parts = path.split("/")[1:]
        body: Any = None
        match parts:
            case ["version"]:
                body = discovery.version()
            case ["api" | "apis"] if aggregated:
                document = discovery.aggregated(registry, core=parts == ["api"])
                return _json(document, media=discovery.AGGREGATED)
            case ["api"]:
                body = discovery.core_versions()
            case ["apis"]:
                body = discovery.group_list(registry)
            case ["api", version]:
                body = discovery.resource_list(registry, group="", version=version)
            case ["apis", group]:
                body = discovery.group(registry, name=group)
            case ["apis", group, version]:
                body = discovery.resource_list(registry, group=group, version=version)
            case ["openapi", "v3"]:
                body = openapi.index(registry)
            case ["openapi", "v3", "api", version]:
                body = openapi.document(registry, group="", version=version)
            case ["openapi", "v3", "apis", group, version]:
                body = openapi.document(registry, group=group, version=version)
        return None if body is None else _json(body)


def _loopback_socket(host: str, port: int) -> socket.socket:
    try:
        address = ipaddress.ip_address(host)
    except ValueError as refused:
        raise ListenError(f"host {host!r}: give a loopback IP address") from refused
    if not address.is_loopback:
        raise ListenError(f"host {host}: this server speaks plain HTTP and listens on loopback only")
    family = socket.AF_INET if address.version == 4 else socket.AF_INET6
    listener = socket.socket(family, socket.SOCK_STREAM)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind((host, port))
    except OSError as refused:
        listener.close()
        raise ListenError(f"cannot listen on {host} port {port}: {refused}") from refused
    return listener


def _request(
    message: RawRequestMessage,
    payload: StreamReader,
    protocol: web.RequestHandler,
    writer: AbstractStreamWriter,
    task: asyncio.Task[None],
) -> web.BaseRequest:
    loop = asyncio.get_running_loop()
    return web.BaseRequest(message, payload, protocol, writer, task, loop, client_max_size=MAX_BODY)


def _json(body: Any, *, code: int = 200, media: str = "application/json") -> web.Response:
    return web.Response(body=msgspec.json.encode(body), status=code, headers={"Content-Type": media})
