"""The parts of a datapath that serve CNI, and what a runtime says to them.

The kernel's maps are replaced by memory: what matters here is the order of things, and that failures leave
nothing behind. Links are real, and so is NATS.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp

from services.datapath.claims import Claims
from services.datapath.cni import CniServer
from services.datapath.endpoints import EndpointRegistry, LocalEndpoint
from services.datapath.errors import NotRealised
from services.datapath.ipam import HostLocalIpam
from services.datapath.lifecycle import PodNetwork
from services.datapath.netlink import Netlink
from shared.bus import BucketStore, BusUnavailable
from shared.contract.identity import Claim
from tests.packet.namespaces import path_of, show

Reply = tuple[int, dict[str, Any]]


class MemoryKernel:
    """Remembers what it is told, and whether the link was up at that moment."""

    def __init__(self, node: str) -> None:
        self.endpoints: dict[str, LocalEndpoint] = {}
        self.was_up: list[bool] = []
        self.policy_known = asyncio.Event()
        self.policy_known.set()
        self.waiting = asyncio.Event()
        self.failure: Exception | None = None
        self._node = node

    async def prepare(self, endpoint: LocalEndpoint) -> None:
        (link,) = show("link", "show", endpoint.host_ifname, netns=self._node)
        self.was_up.append("UP" in link["flags"])
        if self.failure:
            raise self.failure
        self.endpoints[endpoint.host_ifname] = endpoint

    async def realised(self, endpoint: LocalEndpoint, *, deadline: float) -> None:
        self.waiting.set()
        try:
            async with asyncio.timeout_at(deadline):
                await self.policy_known.wait()
        except TimeoutError as error:
            raise NotRealised(
                f"identity of {endpoint.name} unknown: is the identity service running?"
            ) from error

    async def remove(self, endpoint: LocalEndpoint) -> None:
        self.endpoints.pop(endpoint.host_ifname, None)

    def abandon(self, host_ifname: str) -> None:
        self.endpoints.pop(host_ifname, None)


class Datapath:
    """Without its maps; see the module."""

    def __init__(self, state: Path, node: str, store: BucketStore[Claim]) -> None:
        self.socket = state / "run" / "cni.sock"
        self.reason = ""
        self.events: list[str] = []
        (state / "endpoints").mkdir(parents=True, exist_ok=True)
        self.kernel = MemoryKernel(node)
        self.netlink = Netlink()
        self.ipam = HostLocalIpam(state / "ipam.json")
        self.ipam.set_cidrs(["10.7.0.0/27"])
        self.registry = EndpointRegistry(state / "endpoints")
        self.claims = Claims(node="n1", store=store, reconnected=store.bus.reconnected)
        self.network = PodNetwork(
            ipam=self.ipam,
            registry=self.registry,
            netlink=self.netlink,
            kernel=self.kernel,
            claims=self.claims,
            mtu=lambda: 1400,
            report=self.report,
        )
        self.server = CniServer(
            network=self.network, path=self.socket, readiness=lambda: self.reason, report=self.report
        )

    async def report(self, *, kind: str, object: str, message: str) -> None:
        self.events.append(f"{kind} {object}: {message}")

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Datapath]:
        async def both() -> None:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self.claims.run())
                tasks.create_task(self.server.run())

        task = asyncio.create_task(both())
        serving = asyncio.create_task(self.server.serving.wait())
        try:
            await asyncio.wait([task, serving], return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                task.result()
            yield self
        finally:
            serving.cancel()
            task.cancel()
            await asyncio.wait([task])
            await self.netlink.close()

    async def call(self, operation: str, body: dict[str, Any]) -> Reply:
        connector = aiohttp.UnixConnector(path=str(self.socket))
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            session.post(f"http://datapath/v1/cni/{operation}", json=body) as response,
        ):
            return response.status, await response.json()

    async def add(self, pod: str, netns: str, *, container: str = "", **extra: Any) -> Reply:
        return await self.call("add", request(pod, netns, container=container, **extra))

    async def delete(self, pod: str, *, container: str = "") -> Reply:
        return await self.call("del", request(pod, "", container=container))

    async def remains(self) -> list[object]:
        """All that a pod leaves behind if it is not wholly gone."""
        return [
            *self.kernel.endpoints,
            *self.ipam.owners,
            *self.registry.all(),
            *await self.netlink.pod_links(),
        ]


def request(
    pod: str, netns: str, *, container: str = "", timeout: float = 20, **extra: Any
) -> dict[str, Any]:
    """What the plugin sends for a pod of namespace ``shop``."""
    return {
        "containerID": container or f"c-{pod}",
        "netns": path_of(netns) if netns else "",
        "ifname": "eth0",
        "args": {"K8S_POD_NAMESPACE": "shop", "K8S_POD_NAME": pod, "K8S_POD_UID": "u1"},
        "config": {"timeoutSeconds": timeout},
        "ipam": None,
    } | extra


async def claim_of(store: BucketStore[Claim], pod: str) -> Claim | None:
    entry = await store.get(f"n1.shop.{pod}")
    return entry.value if entry else None


async def claim_gone(store: BucketStore[Claim], pod: str) -> bool:
    """Whether a pod has no claim, as far as NATS can be asked."""
    try:
        return await claim_of(store, pod) is None
    except BusUnavailable:
        return False
