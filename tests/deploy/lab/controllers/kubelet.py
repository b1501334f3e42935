"""A kubelet without containers: pods bound to its nodes get an address and run, terminating ones go."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from typing import Any

from tests.deploy.lab.apiserver.cluster import Http

Object = dict[str, Any]


class Kubelet:
    """``hold`` names labels (``app`` values) whose pods run but do not become ready."""

    def __init__(self, http: Http) -> None:
        self._http = http
        self._next = 10
        self.hold: set[str] = set()
        self.keep_terminating = False

    async def add_node(self, name: str, *, labels: dict[str, str] | None = None, ready: bool = True) -> None:
        node = {
            "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name, **(labels or {})}},
            "status": {"conditions": [{"type": "Ready", "status": "True" if ready else "False"}]},
        }
        code, _ = await self._http.post("/api/v1/nodes", node)
        assert code == 201

    async def run(self) -> None:
        async with self._http.session.get("/api/v1/pods", params={"watch": "true"}, timeout=None) as response:
            async for line in response.content:
                event = json.loads(line)
                if event["type"] != "DELETED" and event["object"]["spec"].get("nodeName"):
                    await self.sync(event["object"])

    async def sync(self, pod: Object) -> None:
        metadata = pod["metadata"]
        path = f"/api/v1/namespaces/{metadata['namespace']}/pods/{metadata['name']}"
        if "deletionTimestamp" in metadata:
            if not self.keep_terminating:
                await self._http.delete(path, {"gracePeriodSeconds": 0})
            return
        ready = (metadata.get("labels") or {}).get("app") not in self.hold
        known = pod["status"].get("podIP")
        if known and ready == is_ready(pod):
            return
        if not known:
            self._next += 1
        address = known or f"10.244.0.{self._next}"
        status = {
            "phase": "Running",
            "podIP": address,
            "podIPs": [{"ip": address}],
            "conditions": [{"type": "Ready", "status": "True" if ready else "False"}],
        }
        await self._http.patch(f"{path}/status", {"status": status}, "merge")

    async def recover(self, *apps: str) -> None:
        """Let the held pods of ``apps`` become ready."""
        self.hold -= set(apps)
        _, pods = await self._http.get("/api/v1/pods")
        for pod in pods["items"]:
            if pod["spec"].get("nodeName"):
                await self.sync(pod)


def is_ready(pod: Object) -> bool:
    conditions = pod["status"].get("conditions") or ()
    return any(found["type"] == "Ready" and found["status"] == "True" for found in conditions)


async def until(http: Http, path: str, holds: Callable[[Object], bool], **query: str) -> Object:
    """Watch ``path`` until what a GET of it answers satisfies ``holds``; that answer."""
    async with asyncio.timeout(10):
        while True:
            _, answer = await http.get(path, **query)
            if holds(answer):
                return answer
            collection = path if "items" in answer else path.rpartition("/")[0]
            if "resourceVersion" not in answer["metadata"]:
                _, listed = await http.get(collection)
                answer = answer | {"metadata": listed["metadata"]}
            revision = answer["metadata"]["resourceVersion"]
            params = {"watch": "true", "resourceVersion": revision, "timeoutSeconds": "1"}
            async with http.session.get(collection, params=params) as response:
                await response.content.readline()
