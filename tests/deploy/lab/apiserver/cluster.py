"""The embedded API server as tests use it: through the real kubectl, and through plain HTTP."""

from __future__ import annotations

import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from deploy.lab.apiserver import ApiServer

PATCHES = {
    "json": "application/json-patch+json",
    "merge": "application/merge-patch+json",
    "strategic": "application/strategic-merge-patch+json",
    "apply": "application/apply-patch+yaml",
}


class Failed(Exception):
    """kubectl exited with an error; the message is what it printed."""


class Kubectl:
    """The kubectl of this Python environment, against one server, with its own cache directory."""

    def __init__(self, *, kubeconfig: Path) -> None:
        self.kubeconfig = kubeconfig
        self._binary = Path(sys.executable).parent / "kubectl"
        self._environment = {
            "KUBECONFIG": str(kubeconfig),
            "HOME": str(kubeconfig.parent),
            "PATH": os.environ["PATH"],
        }

    async def __call__(self, *arguments: str, stdin: str = "") -> str:
        """Run a command; its standard output. Raises ``Failed``."""
        process = await asyncio.create_subprocess_exec(
            self._binary,
            *arguments,
            env=self._environment,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        try:
            out, err = await process.communicate(stdin.encode())
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode != 0:
            raise Failed(err.decode())
        return out.decode()

    async def apply(self, *objects: dict[str, Any]) -> str:
        """``kubectl apply`` of objects."""
        return await self("apply", "-f", "-", stdin="\n---\n".join(json.dumps(item) for item in objects))

    async def read(self, *arguments: str) -> dict[str, Any]:
        """``kubectl get -o json``."""
        found: dict[str, Any] = json.loads(await self("get", *arguments, "-o", "json"))
        return found


class Http:
    """Plain requests; every answer is its status code and its decoded body."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self.session = session

    async def send(
        self, method: str, path: str, body: Any = None, *, media: str = "application/json", **query: str
    ) -> tuple[int, dict[str, Any]]:
        data = None if body is None else json.dumps(body)
        async with self.session.request(
            method, path, data=data, params=query, headers={"Content-Type": media}
        ) as response:
            return response.status, await response.json(content_type=None)

    async def get(self, path: str, **query: str) -> tuple[int, dict[str, Any]]:
        return await self.send("GET", path, **query)

    async def post(self, path: str, body: Any, **query: str) -> tuple[int, dict[str, Any]]:
        return await self.send("POST", path, body, **query)

    async def put(self, path: str, body: Any, **query: str) -> tuple[int, dict[str, Any]]:
        return await self.send("PUT", path, body, **query)

    async def patch(self, path: str, body: Any, kind: str, **query: str) -> tuple[int, dict[str, Any]]:
        return await self.send("PATCH", path, body, media=PATCHES[kind], **query)

    async def delete(self, path: str, body: Any = None, **query: str) -> tuple[int, dict[str, Any]]:
        return await self.send("DELETE", path, body, **query)


@asynccontextmanager
async def running(server: ApiServer) -> AsyncIterator[Http]:
    """Serve on a free port; plain HTTP access to it."""
    address = await server.start()
    try:
        headers = {"Authorization": f"Bearer {address.token}"}
        async with aiohttp.ClientSession(address.url, headers=headers) as session:
            yield Http(session)
    finally:
        await server.stop()


def pod(name: str, **spec: Any) -> dict[str, Any]:
    """A pod with one container."""
    labels = spec.pop("labels", {"app": name})
    containers = spec.pop("containers", [{"name": "main", "image": "nginx"}])
    metadata = {"name": name, "labels": labels}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata,
        "spec": {"containers": containers, **spec},
    }


def service(name: str, *ports: dict[str, Any], **spec: Any) -> dict[str, Any]:
    """A Service; one port 80 unless told."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name},
        "spec": {"ports": list(ports or [{"port": 80}]), **spec},
    }


def deployment(name: str, *, replicas: int = 1, **container: Any) -> dict[str, Any]:
    """A Deployment of one container, ``main``, serving port 80."""
    ports = [{"name": "http", "containerPort": 80}]
    return {
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {"app": name}},
            "template": {
                "metadata": {"labels": {"app": name}},
                "spec": {
                    "containers": [{"name": "main", "image": "nginx:1", "ports": ports, **container}],
                    "terminationGracePeriodSeconds": 5,
                },
            },
        },
    }
