"""Requests to an API server, with plain dicts as objects.

Configuration, TLS and credentials are the Kubernetes client library's; its generated models are not used,
because controllers must hand back every field they were given, known or not.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, NamedTuple, TypeAlias

import aiohttp
import msgspec
from kubernetes_asyncio import config
from kubernetes_asyncio.client import ApiClient

from .errors import ApiUnreachable, refusal

Object: TypeAlias = dict[str, Any]

_WATCH_SECONDS = 600
_TIMEOUT = aiohttp.ClientTimeout(total=30)
_WATCH_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_read=_WATCH_SECONDS + 60)
_UNREACHABLE = (aiohttp.ClientError, ConnectionError, TimeoutError)


class Resource(NamedTuple):
    """One API resource: its ``apiVersion``, plural and kind."""

    api_version: str
    plural: str
    kind: str

    def path(self, *, namespace: str = "", name: str = "", subresource: str = "") -> str:
        """The URL path of the collection, object or subresource."""
        root = "/apis" if "/" in self.api_version else "/api"
        scope = ("namespaces", namespace) if namespace else ()
        return "/".join(
            part for part in (root, self.api_version, *scope, self.plural, name, subresource) if part
        )


NAMESPACES = Resource("v1", "namespaces", "Namespace")
NODES = Resource("v1", "nodes", "Node")
PODS = Resource("v1", "pods", "Pod")
SERVICES = Resource("v1", "services", "Service")
SERVICE_ACCOUNTS = Resource("v1", "serviceaccounts", "ServiceAccount")
DEPLOYMENTS = Resource("apps/v1", "deployments", "Deployment")
REPLICA_SETS = Resource("apps/v1", "replicasets", "ReplicaSet")
ENDPOINT_SLICES = Resource("discovery.k8s.io/v1", "endpointslices", "EndpointSlice")


class WatchEvent(NamedTuple):
    """One line of a watch: ADDED, MODIFIED, DELETED or BOOKMARK, and the object."""

    type: str
    object: Object


class Client:
    """An API server. Every method raises ``ApiRefused`` or ``ApiUnreachable``, naming the request."""

    def __init__(self, api: ApiClient) -> None:
        self._api = api

    async def create(self, resource: Resource, body: Object, *, namespace: str = "") -> Object:
        """Create an object."""
        return await self._send("POST", resource.path(namespace=namespace), body=body)

    async def update(self, resource: Resource, body: Object, *, subresource: str = "") -> Object:
        """Replace an object (or its ``subresource``) as last read: ``Outdated`` if it has changed since."""
        metadata = body["metadata"]
        path = resource.path(
            namespace=metadata.get("namespace", ""), name=metadata["name"], subresource=subresource
        )
        return await self._send("PUT", path, body=body)

    async def post(
        self, resource: Resource, body: Object, *, namespace: str, name: str, subresource: str
    ) -> None:
        """Create a subresource of an object, such as a pod's binding."""
        path = resource.path(namespace=namespace, name=name, subresource=subresource)
        await self._send("POST", path, body=body)

    async def delete(self, resource: Resource, target: Object, *, grace: int | None = None) -> Object:
        """Delete the very object that was read: ``Outdated`` if the name is another's by now."""
        metadata = target["metadata"]
        options: Object = {"kind": "DeleteOptions", "apiVersion": "v1"}
        options["preconditions"] = {"uid": metadata["uid"]}
        if grace is not None:
            options["gracePeriodSeconds"] = grace
        path = resource.path(namespace=metadata.get("namespace", ""), name=metadata["name"])
        return await self._send("DELETE", path, body=options)

    async def list(self, resource: Resource) -> tuple[list[Object], str]:
        """All objects of a resource, complete with kind and apiVersion, and the list's resourceVersion."""
        answer = await self._send("GET", resource.path())
        own = {"apiVersion": resource.api_version, "kind": resource.kind}
        return [own | item for item in answer["items"]], answer["metadata"]["resourceVersion"]

    async def watch(self, resource: Resource, *, revision: str) -> AsyncIterator[WatchEvent]:
        """The changes after ``revision``, until the server ends the stream; ``Compacted`` if it cannot."""
        query = {
            "watch": "true",
            "resourceVersion": revision,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(_WATCH_SECONDS),
        }
        path = resource.path()
        response = await self._request("GET", path, query=query, timeout=_WATCH_TIMEOUT)
        try:
            await _check(response, f"watch {path}")
            async for line in _lines(response):
                event = WatchEvent(**msgspec.json.decode(line))
                if event.type == "ERROR":
                    raise _refused(f"watch {path}", event.object)
                yield event
        except _UNREACHABLE as broken:
            raise ApiUnreachable(f"watch {path}: {broken!r}") from broken
        finally:
            response.close()

    async def _send(self, method: str, path: str, *, body: Object | None = None) -> Object:
        response = await self._request(method, path, body=body)
        try:
            await _check(response, f"{method} {path}")
            answer: Object = msgspec.json.decode(await response.read())
        except _UNREACHABLE as broken:
            raise ApiUnreachable(f"{method} {path}: {broken!r}") from broken
        finally:
            response.release()
        return answer

    async def _request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Object | None = None,
        timeout: aiohttp.ClientTimeout = _TIMEOUT,
    ) -> aiohttp.ClientResponse:
        try:
            response: aiohttp.ClientResponse = await self._api.call_api(
                path,
                method,
                query_params=list((query or {}).items()),
                header_params={"Accept": "application/json", "Content-Type": "application/json"},
                body=body,
                auth_settings=["BearerToken"],
                _preload_content=False,
                _request_timeout=timeout,
            )
        except _UNREACHABLE as broken:
            raise ApiUnreachable(f"{method} {path}: {broken!r}") from broken
        return response


@asynccontextmanager
async def connect(kubeconfig: Path) -> AsyncIterator[Client]:
    """A client of the server that ``kubeconfig`` names, closed at the end."""
    async with await config.new_client_from_config(config_file=str(kubeconfig), persist_config=False) as api:
        yield Client(api)


async def _check(response: aiohttp.ClientResponse, request: str) -> None:
    if response.status < 300:
        return
    raw = await response.read()
    try:
        status = msgspec.json.decode(raw)
    except msgspec.DecodeError:
        status = {"message": raw[:200].decode(errors="replace")}
    raise _refused(request, status if isinstance(status, dict) else {}, code=response.status)


def _refused(request: str, status: Object, *, code: int = 500) -> Exception:
    return refusal(
        f"{request}: {status.get('message', 'refused')}",
        code=status.get("code", code),
        reason=status.get("reason", ""),
    )


async def _lines(response: aiohttp.ClientResponse) -> AsyncIterator[bytes]:
    # The stream reader's own line iteration refuses lines that are longer than its buffer.
    rest = bytearray()
    async for chunk in response.content.iter_any():
        rest += chunk
        *complete, last = rest.split(b"\n")
        for line in complete:
            if line:
                yield bytes(line)
        rest = last
