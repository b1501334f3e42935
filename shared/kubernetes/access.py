"""Credentials, and the connections that are made with them.

An :class:`Access` never changes. When its credentials are taken no longer another one takes its place, and
its connections are closed as soon as nobody uses them.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import yaml
from kubernetes_asyncio.client import ApiClient, Configuration
from kubernetes_asyncio.config import ConfigException, load_incluster_config, load_kube_config

from shared.kubernetes.errors import NoCredentials

_LOAD_SECONDS = 30.0
"""A kubeconfig may name a program that fetches the credentials."""


class Access:
    """One set of credentials and its connections. Made by :func:`load_access`."""

    def __init__(self, client: ApiClient) -> None:
        self.client = client
        self._users = 0
        self._replaced = False

    @property
    def host(self) -> str:
        """The API server's URL, which may hold credentials."""
        return (self.client.configuration.host or "").rstrip("/")

    @property
    def anonymous(self) -> bool:
        """There are neither a token nor a client certificate."""
        return not self.client.configuration.api_key and not self.client.configuration.cert_file

    @asynccontextmanager
    async def used(self) -> AsyncIterator[ApiClient]:
        """The connections stay open meanwhile."""
        self._users += 1
        try:
            yield self.client
        finally:
            self._users -= 1
            await self._close_if_unused()

    async def replace(self) -> None:
        """Close the connections, those in use when they are so no longer."""
        self._replaced = True
        await self._close_if_unused()

    async def _close_if_unused(self) -> None:
        if self._replaced and not self._users:
            await self.client.close()


async def load_access(kubeconfig: str | None) -> Access:
    """What the files say now; raises :class:`NoCredentials`."""
    configuration = Configuration()
    configuration.connection_pool_maxsize = 0
    try:
        async with asyncio.timeout(_LOAD_SECONDS):
            if kubeconfig is None and "KUBERNETES_SERVICE_HOST" in os.environ:
                load_incluster_config(client_configuration=configuration)
            else:
                if kubeconfig is not None and not await asyncio.to_thread(Path(kubeconfig).is_file):
                    raise NoCredentials(f"kubeconfig {kubeconfig}: no such file")
                await load_kube_config(
                    config_file=kubeconfig, client_configuration=configuration, persist_config=False
                )
        return Access(ApiClient(configuration=configuration))
    except (
        ConfigException,
        yaml.YAMLError,
        OSError,
        # The loader takes the file's shape on trust; a wrong one shows as any of these.
        ValueError,
        TypeError,
        AttributeError,
        LookupError,
        AssertionError,
    ) as error:
        text = str(error) or type(error).__name__
        raise NoCredentials(f"kubeconfig {kubeconfig or '(default)'}: {text}") from error
