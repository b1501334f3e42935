"""Requests to the Kubernetes API as plain JSON.

kubernetes-asyncio finds the server and the credentials and keeps the connections; its model classes are not
used, because decoding thousands of objects into them takes seconds. An expired token (401) makes the
credentials be loaded once more, then the request is repeated.
"""

from __future__ import annotations

import asyncio
import logging
import os
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import msgspec
import yaml
from kubernetes_asyncio.client import ApiClient, Configuration
from kubernetes_asyncio.config import ConfigException, load_incluster_config, load_kube_config

from shared.kubernetes.errors import NoCredentials, Unreachable, api_error
from shared.kubernetes.resources import EVENTS, Resource

log = logging.getLogger(__name__)

REQUEST_SECONDS = 30.0
_MERGE_PATCH = "application/merge-patch+json"
_UNAUTHORIZED = 401

Object = dict[str, Any]
"""A Kubernetes object as decoded JSON."""


class Kubernetes:
    """A connection to one API server. Made by :func:`connect`."""

    def __init__(self, client: ApiClient, *, kubeconfig: str | None) -> None:
        self._client = client
        self._kubeconfig = kubeconfig
        self._host = (client.configuration.host or "").rstrip("/")

    @property
    def url(self) -> str:
        """Where the API server is, without credentials."""
        scheme, _, rest = self._host.partition("://")
        return f"{scheme}://{rest.rpartition('@')[2]}"

    async def close(self) -> None:
        """Close all connections."""
        await self._client.close()

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
        response = await self._send(method, path, query, body, content_type, timeout)
        try:
            if response.status == _UNAUTHORIZED:
                response.release()
                await self._load_credentials()
                response = await self._send(method, path, query, body, content_type, timeout)
            if response.status >= 400:
                raise await _refusal(response, f"{method} {path}")
            try:
                yield response
            except (aiohttp.ClientError, TimeoutError, ConnectionError) as error:
                raise Unreachable(f"{method} {path}: {_text(error)}") from error
        finally:
            response.close()

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

    async def create_event(
        self, about: Object, *, reason: str, message: str, warning: bool = False, component: str = "stentor"
    ) -> None:
        """Record an Event (core/v1) that ``kubectl describe`` of the object ``about`` shows.

        ``about`` is the object itself, or at least its apiVersion, kind and metadata.
        """
        metadata = about.get("metadata", {})
        # Events live in a namespace; those about cluster-wide objects belong into "default".
        namespace = metadata.get("namespace") or "default"
        now = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
        event = {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"generateName": f"{metadata.get('name', component)}.", "namespace": namespace},
            "involvedObject": {
                "apiVersion": about.get("apiVersion", ""),
                "kind": about.get("kind", ""),
                "namespace": metadata.get("namespace", ""),
                "name": metadata.get("name", ""),
                "uid": metadata.get("uid", ""),
                "resourceVersion": metadata.get("resourceVersion", ""),
            },
            "reason": reason,
            "message": message[:1024],
            "type": "Warning" if warning else "Normal",
            "source": {"component": component},
            "reportingComponent": component,
            "reportingInstance": "",
            "firstTimestamp": now,
            "lastTimestamp": now,
            "count": 1,
        }
        await self.create(EVENTS, event, namespace=namespace)

    async def _send(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        body: Any,
        content_type: str,
        timeout: aiohttp.ClientTimeout,
    ) -> aiohttp.ClientResponse:
        client = self._client
        headers = {"Accept": "application/json", "Content-Type": content_type, "User-Agent": "stentor"}
        try:
            await client.update_params_for_auth(headers, [], ["BearerToken"])
            response: aiohttp.ClientResponse = await client.rest_client.request(
                method,
                self._host + path,
                query_params=dict(query or {}),
                headers=headers,
                body=body,
                _preload_content=False,
                _request_timeout=timeout,
            )
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise Unreachable(f"{method} {path}: {_text(error)}") from error
        return response

    async def _load_credentials(self) -> None:
        fresh = await _configuration(self._kubeconfig)
        # Host and certificates belong to the open connections; only the token can change under them.
        self._client.configuration.api_key = fresh.api_key


async def connect(*, kubeconfig: str | None) -> Kubernetes:
    """Credentials from this kubeconfig; without one the Pod's service account, else the default kubeconfig.

    Raises :class:`NoCredentials`; does not speak to the server yet.
    """
    return Kubernetes(ApiClient(configuration=await _configuration(kubeconfig)), kubeconfig=kubeconfig)


async def _configuration(kubeconfig: str | None) -> Configuration:
    configuration = Configuration()
    configuration.connection_pool_maxsize = 0
    try:
        if kubeconfig is None and "KUBERNETES_SERVICE_HOST" in os.environ:
            load_incluster_config(client_configuration=configuration)
        else:
            if kubeconfig is not None and not await asyncio.to_thread(Path(kubeconfig).is_file):
                raise NoCredentials(f"kubeconfig {kubeconfig}: no such file")
            await load_kube_config(
                config_file=kubeconfig, client_configuration=configuration, persist_config=False
            )
    except (ConfigException, yaml.YAMLError, OSError, ValueError, TypeError, AttributeError) as error:
        # The loader takes the file's shape on trust; a wrong one shows as any of the last three.
        raise NoCredentials(f"kubeconfig {kubeconfig or '(default)'}: {error}") from error
    return configuration


async def _refusal(response: aiohttp.ClientResponse, what: str) -> Exception:
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
