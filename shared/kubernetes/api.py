"""Requests to the Kubernetes API as plain JSON.

kubernetes-asyncio finds the server and the credentials and keeps the connections; its model classes are not
used, because decoding thousands of objects into them takes seconds. Credentials or certificates that are
taken no longer make them be loaded anew, then the request is repeated on a new connection. Where that fails
the refusal stands, with the reason: the next request tries again.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager
from typing import Any

import aiohttp
import msgspec
from kubernetes_asyncio.config import ConfigException

from shared.kubernetes.access import Access, load_access
from shared.kubernetes.errors import ApiError, NoCredentials, Unreachable, api_error
from shared.kubernetes.resources import Resource

REQUEST_SECONDS = 30.0
_MERGE_PATCH = "application/merge-patch+json"
_UNAUTHORIZED = 401

Object = dict[str, Any]
"""A Kubernetes object as decoded JSON."""


class Kubernetes:
    """A connection to one API server. Made by :func:`connect`."""

    def __init__(self, access: Access, *, kubeconfig: str | None) -> None:
        self._access = access
        self._kubeconfig = kubeconfig
        self._renewing = asyncio.Lock()

    @property
    def url(self) -> str:
        """Where the API server is, without credentials."""
        scheme, _, rest = self._access.host.partition("://")
        return f"{scheme}://{rest.rpartition('@')[2]}"

    async def close(self) -> None:
        """Close all connections, those in use too."""
        await self._access.client.close()

    @asynccontextmanager
    async def open(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        content_type: str = "application/json",
        timeout: aiohttp.ClientTimeout,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """A successful response whose body is yet to be read; raises ApiError or Unreachable."""
        access = self._access
        request = (method, path, query, body, content_type, timeout)
        async with AsyncExitStack() as stack:
            try:
                response = await stack.enter_async_context(self._send(access, *request))
            except (ApiError, Unreachable) as error:
                if not _are_refused(error):
                    raise
                renewed = await self._renewed(access, error)
                response = await stack.enter_async_context(self._send(renewed, *request))
            try:
                yield response
            except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
                raise Unreachable(f"{method} {path}: {_text(error)}") from error

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        content_type: str = "application/json",
    ) -> Object:
        """One request and its decoded answer."""
        timeout = aiohttp.ClientTimeout(total=REQUEST_SECONDS)
        opened = self.open(method, path, query=query, body=body, content_type=content_type, timeout=timeout)
        async with opened as response:
            try:
                return msgspec.json.decode(await response.read(), type=Object)
            except msgspec.DecodeError as error:
                raise Unreachable(f"{method} {path}: the answer is not of an API server: {error}") from error

    async def get(self, resource: Resource, *, name: str, namespace: str = "") -> Object:
        """One object."""
        return await self.request("GET", resource.path(namespace=namespace, name=name))

    async def create(self, resource: Resource, body: Object, *, namespace: str = "") -> Object:
        """Create an object; raises Conflict when it exists."""
        return await self.request("POST", resource.path(namespace=namespace), body=body)

    async def patch_status(
        self, resource: Resource, status: Object, *, name: str, namespace: str = ""
    ) -> Object:
        """Merge ``status`` into the object's status (RFC 7396: null deletes a field, lists are replaced)."""
        path = resource.path(namespace=namespace, name=name, subresource="status")
        return await self.request("PATCH", path, body={"status": status}, content_type=_MERGE_PATCH)

    async def patch(self, resource: Resource, body: Object, *, name: str, namespace: str = "") -> Object:
        """Merge ``body`` into the object (RFC 7396)."""
        path = resource.path(namespace=namespace, name=name)
        return await self.request("PATCH", path, body=body, content_type=_MERGE_PATCH)

    async def delete(self, resource: Resource, *, name: str, namespace: str = "") -> None:
        """Delete an object."""
        await self.request("DELETE", resource.path(namespace=namespace, name=name))

    @asynccontextmanager
    async def _send(
        self,
        access: Access,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        body: Any,
        content_type: str,
        timeout: aiohttp.ClientTimeout,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        headers = {"Accept": "application/json", "Content-Type": content_type, "User-Agent": "stentor"}
        async with access.used() as client:
            try:
                await client.update_params_for_auth(headers, [], ["BearerToken"])
                response: aiohttp.ClientResponse = await client.rest_client.request(
                    method,
                    access.host + path,
                    query_params=dict(query or {}),
                    headers=headers,
                    body=body,
                    _preload_content=False,
                    _request_timeout=timeout,
                )
            except (aiohttp.ClientError, TimeoutError, OSError, ConfigException) as error:
                raise Unreachable(f"{method} {path}: {_text(error)}") from error
            try:
                if response.status >= 400:
                    raise await _refusal(response, f"{method} {path}")
                yield response
            finally:
                response.close()

    async def _renewed(self, access: Access, refused: ApiError | Unreachable) -> Access:
        """What to use instead of a refused access; raises ``refused`` with the reason when there is none."""
        async with self._renewing:
            if self._access is access:
                try:
                    fresh = await load_access(self._kubeconfig)
                    if fresh.anonymous and not access.anonymous:
                        # As in a file that is half written: whoever is nobody is refused for other reasons.
                        await fresh.replace()
                        raise NoCredentials(f"kubeconfig {self._kubeconfig or '(default)'}: no credentials")
                except NoCredentials as error:
                    text = f"{refused}; other credentials cannot be loaded: {error}"
                    if isinstance(refused, ApiError):
                        raise ApiError(text, status=refused.status, reason=refused.reason) from error
                    raise Unreachable(text) from error
                self._access = fresh
                await access.replace()
            return self._access


async def connect(*, kubeconfig: str | None) -> Kubernetes:
    """Credentials from this kubeconfig; without one the Pod's service account, else the default kubeconfig.

    Raises :class:`NoCredentials`; does not speak to the server yet.
    """
    return Kubernetes(await load_access(kubeconfig), kubeconfig=kubeconfig)


def _are_refused(error: ApiError | Unreachable) -> bool:
    """Other credentials may help: the server does not take these, or one side not the other's certificate."""
    if isinstance(error, ApiError):
        return error.status == _UNAUTHORIZED
    return isinstance(error.__cause__, aiohttp.ClientSSLError | ssl.SSLError)


async def _refusal(response: aiohttp.ClientResponse, what: str) -> ApiError | Unreachable:
    try:
        data = await response.read()
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        return Unreachable(f"{what}: {_text(error)}")
    try:
        status = msgspec.json.decode(data, type=Object)
    except msgspec.DecodeError:
        status = {"message": data[:200].decode(errors="replace")}
    text = f"{what}: {status.get('message', '')}"
    return api_error(text, status=response.status, reason=str(status.get("reason", response.reason or "")))


def _text(error: BaseException) -> str:
    return str(error) or type(error).__name__
