"""The life of a pod's network on this node: made, checked, and taken down in one fixed order.

ADD: addresses, veth (down), registry, kernel as NOT READY with programs attached, veth up, claim, and then
the wait until identity and policy are in the kernel. So a pod never sends or receives a packet unprotected,
and its ADD returns when its policy is in force. When a step fails, the steps before it are undone in reverse,
also when the caller has gone away; what cannot be undone is reported and left for DEL or
:meth:`PodNetwork.recover`. A repeated ADD of a whole endpoint undoes nothing: the pod may be running.

DEL: the same things in reverse. It needs neither NATS nor anything of the pod, and may be repeated.

Requests for one container follow each other, and so do ADDs for one pod; different pods go in parallel. A pod
that comes with a new container replaces its old endpoint. Raises errors of :mod:`services.datapath.errors`.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Coroutine
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Protocol

from services.datapath.claims import Claims
from services.datapath.endpoints import EndpointRegistry, LocalEndpoint, host_ifname, owner
from services.datapath.errors import CheckFailed, CniRefused, ContainerUnknown, NotRealised
from services.datapath.ipam import HostLocalIpam
from services.datapath.netlink import Netlink
from services.datapath.podlink import PodLink
from shared.contract.base import timestamp

log = logging.getLogger(__name__)

_GRACE_SECONDS = 1.0
"""How much longer than its deadline an ADD may take, so that the step that is late can say so itself."""


class KernelEndpoints(Protocol):
    """Endpoints in the kernel. Each call may be repeated for the same endpoint and may be cancelled."""

    async def prepare(self, endpoint: LocalEndpoint) -> None:
        """Enter the endpoint as NOT READY and attach the programs to its link, which is down.

        When it returns, every packet from or to the endpoint is dropped by name until it is realised. An
        endpoint that is in the kernel already keeps what it has.
        """
        ...

    async def realised(self, endpoint: LocalEndpoint, *, deadline: float) -> None:
        """Return when the endpoint's identity and policy are in force in the kernel.

        ``deadline`` is a time of the event loop's clock. Then, or earlier if it can be known that waiting is
        in vain, raises :class:`NotRealised`, whose text names what was waited for.
        """
        ...

    async def remove(self, endpoint: LocalEndpoint) -> None:
        """Take out everything that is kept for this endpoint, but nothing of a newer one of the same pod.

        Also for an endpoint that was never prepared or whose link is gone.
        """
        ...

    def abandon(self, host_ifname: str) -> None:
        """Take out what is kept for a link of whose pod nothing is known."""
        ...


class Report(Protocol):
    """Tells operators of something; ``Runtime.event`` is one."""

    async def __call__(self, *, kind: str, object: str, message: str) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Attachment:
    """What the runtime asks for with ADD."""

    container_id: str
    ifname: str
    netns: str
    namespace: str
    pod: str
    uid: str = ""
    delegated_ips: tuple[str, ...] = ()
    """Addresses of another IPAM plugin, without prefix length; empty: the datapath gives them."""


class PodNetwork:
    """See the module. ``mtu`` tells the uplink's at the time of each ADD."""

    def __init__(
        self,
        *,
        ipam: HostLocalIpam,
        registry: EndpointRegistry,
        netlink: Netlink,
        kernel: KernelEndpoints,
        claims: Claims,
        mtu: Callable[[], int],
        report: Report,
    ) -> None:
        self._ipam = ipam
        self._registry = registry
        self._netlink = netlink
        self._kernel = kernel
        self._claims = claims
        self._mtu = mtu
        self._report = report
        self._turns = _Turns()

    async def add(self, wanted: Attachment, *, deadline: float) -> LocalEndpoint:
        """The pod's endpoint, realised in the kernel; ``deadline`` is a time of the event loop's clock."""
        step = _Step()
        name = f"{wanted.namespace}/{wanted.pod}"
        try:
            async with (
                asyncio.timeout_at(deadline + _GRACE_SECONDS),
                self._turns.of(f"pod {name}"),
                self._turns.of(wanted.container_id),
            ):
                await self._replace_older(wanted, step)
                return await self._add(wanted, step, deadline=deadline)
        except TimeoutError as error:
            raise NotRealised(f"{name}: gave up while {step.now}") from error

    async def delete(self, container_id: str, ifname: str) -> None:
        """Take down the container's network; one that has none is fine."""
        async with self._turns.of(container_id):
            await self._delete(container_id, ifname)

    async def check(self, container_id: str, ifname: str, *, ips: Collection[str] | None = None) -> None:
        """Raise :class:`ContainerUnknown`, or :class:`CheckFailed` naming all that is not as ADD left it.

        ``ips``, if given, are the addresses that the runtime remembers.
        """
        async with self._turns.of(container_id):
            endpoint = self._registry.by_container(container_id, ifname)
            if endpoint is None:
                raise ContainerUnknown(f"container {container_id} has no interface {ifname} on this node")
            found = list(await self._netlink.pod_link_differences(_link(endpoint)))
            if ips is not None and set(ips) != set(endpoint.ips):
                found.append(f"the runtime remembers {_names(ips)}, the pod has {_names(endpoint.ips)}")
        if found:
            raise CheckFailed(
                f"the network of {endpoint.name} is not as it was made: {found[0]}", details="; ".join(found)
            )

    async def collect(self, valid: Collection[tuple[str, str]]) -> int:
        """Delete every endpoint whose (container id, ifname) is not in ``valid``; returns how many."""
        stale = [e for e in self._registry.all() if (e.container_id, e.ifname) not in valid]
        for endpoint in stale:
            await self.delete(endpoint.container_id, endpoint.ifname)
        keep = {owner(*attachment) for attachment in valid} | {e.owner for e in self._registry.all()}
        for name in [name for name in self._ipam.owners if name not in keep]:
            self._ipam.release(name)
        return len(stale)

    async def recover(self) -> None:
        """Compare registry, links and addresses, and put them right. Before the first ADD, and by itself.

        Endpoints without their link are deleted, links and addresses without an endpoint are freed. Endpoints
        that are whole are left exactly as they are.
        """
        for broken in self._registry.broken:
            await self._report(
                kind="endpoint-file-broken",
                object=str(broken.path),
                message=f"{broken.path}: {broken.reason}; link {broken.host_ifname} is left as it is",
            )
        if self._ipam.problem:
            await self._report(kind="ipam-file-broken", object="IPAM", message=self._ipam.problem)
        orphans = self._registry.orphans(await self._netlink.pod_links())
        for endpoint in orphans.endpoints:
            await self._report(
                kind="endpoint-orphaned",
                object=f"Pod {endpoint.name}",
                message=f"link {endpoint.host_ifname} of {endpoint.name} is gone; its endpoint is deleted",
            )
            await self._delete(endpoint.container_id, endpoint.ifname)
        for name in orphans.links:
            await self._report(
                kind="link-orphaned",
                object=name,
                message=f"link {name} belongs to no endpoint; it is deleted",
            )
            await self._netlink.delete_pod_link(name)
        self._recover_addresses()
        for endpoint in self._registry.all():
            self._claims.set(endpoint)

    def _recover_addresses(self) -> None:
        known = {e.owner: e.ips for e in self._registry.all() if not e.delegated}
        broken = {file.host_ifname for file in self._registry.broken}
        for name in list(self._ipam.owners):
            container_id, _, ifname = name.rpartition("/")
            if name not in known and host_ifname(container_id, ifname) not in broken:
                self._ipam.release(name)
        for name, ips in known.items():
            if self._ipam.owners.get(name) != ips:
                self._ipam.adopt(name, ips)

    async def _add(self, wanted: Attachment, step: _Step, *, deadline: float) -> LocalEndpoint:
        undo = _Undo(f"{wanted.namespace}/{wanted.pod}")
        try:
            endpoint = self._registry.by_container(wanted.container_id, wanted.ifname)
            if endpoint is None:
                endpoint = await self._make(wanted, step, undo)
            step.now = "preparing the kernel"
            await self._kernel.prepare(endpoint)
            step.now = f"setting up link {endpoint.host_ifname}"
            await self._netlink.bring_up_pod_link(_link(endpoint))
            self._claims.set(endpoint)
            step.now = "publishing the claim to its addresses"
            await self._claims.published(endpoint, deadline=deadline)
            step.now = "waiting for identity and policy in the kernel"
            await self._kernel.realised(endpoint, deadline=deadline)
        except BaseException:
            await _to_the_end(self._undo(undo), name=f"undo ADD of {undo.name}")
            raise
        return endpoint

    async def _make(self, wanted: Attachment, step: _Step, undo: _Undo) -> LocalEndpoint:
        """Everything of an endpoint up to its entry in the registry, with its undoing."""
        name = owner(wanted.container_id, wanted.ifname)
        ips = wanted.delegated_ips
        if not ips:
            undo.push("addresses", lambda: _call(self._ipam.release, name))
            ips = self._ipam.allocate(name)
        link = PodLink(
            container_id=wanted.container_id,
            ifname=wanted.ifname,
            netns=wanted.netns,
            addresses=ips,
            mtu=self._mtu(),
        )
        step.now = f"making link {link.host_ifname}"
        undo.push("link", lambda: self._netlink.delete_pod_link(link.host_ifname))
        pair = await self._netlink.create_pod_link(link)
        endpoint = LocalEndpoint(
            container_id=wanted.container_id,
            ifname=wanted.ifname,
            netns=wanted.netns,
            namespace=wanted.namespace,
            pod=wanted.pod,
            uid=wanted.uid,
            ips=ips,
            host_ifname=link.host_ifname,
            host_ifindex=pair.host_ifindex,
            mac=link.mac,
            mtu=link.mtu,
            delegated=bool(wanted.delegated_ips),
            created=timestamp(),
        )
        undo.push("registry", lambda: _call(self._registry.remove, wanted.container_id, wanted.ifname))
        self._registry.put(endpoint)
        undo.push("claim", lambda: _call(self._claims.unset, endpoint))
        undo.push("kernel", lambda: self._kernel.remove(endpoint))
        return endpoint

    async def _replace_older(self, wanted: Attachment, step: _Step) -> None:
        """Delete what is in the way: other containers of the pod, and remains of this one's interface."""
        present = self._registry.by_container(wanted.container_id, wanted.ifname)
        if present is not None and not await self._is_whole(present, wanted):
            step.now = "deleting what is left of an earlier ADD"
            await self._delete(wanted.container_id, wanted.ifname)
        for endpoint in self._registry.by_pod(wanted.namespace, wanted.pod):
            if endpoint.container_id != wanted.container_id:
                step.now = f"deleting the former container {endpoint.container_id} of the pod"
                await self.delete(endpoint.container_id, endpoint.ifname)
                log.info("%s has a new container: the network of the former one is deleted", endpoint.name)
            elif endpoint.ifname != wanted.ifname:
                raise CniRefused(
                    f"{endpoint.name} has the interface {endpoint.ifname} of this network already;"
                    f" {wanted.ifname} is not made",
                    code=7,
                )

    async def _is_whole(self, endpoint: LocalEndpoint, wanted: Attachment) -> bool:
        links = await self._netlink.pod_links()
        same = (endpoint.namespace, endpoint.pod, endpoint.uid, endpoint.netns) == (
            wanted.namespace,
            wanted.pod,
            wanted.uid,
            wanted.netns,
        )
        delegated = wanted.delegated_ips == (endpoint.ips if endpoint.delegated else ())
        return same and delegated and links.get(endpoint.host_ifname) == endpoint.host_ifindex

    async def _delete(self, container_id: str, ifname: str) -> None:
        endpoint = self._registry.by_container(container_id, ifname)
        if endpoint is not None:
            self._claims.unset(endpoint)
            await self._kernel.remove(endpoint)
        else:
            self._kernel.abandon(host_ifname(container_id, ifname))
        await self._netlink.delete_pod_link(host_ifname(container_id, ifname))
        self._ipam.release(owner(container_id, ifname))
        self._registry.remove(container_id, ifname)

    async def _undo(self, undo: _Undo) -> None:
        for what, action in reversed(undo.actions):
            try:
                await action()
            except Exception as error:  # the remaining steps must be undone whatever this one meets
                log.exception("undoing the ADD of %s: %s", undo.name, what)
                await self._report(
                    kind="undo-failed",
                    object=f"Pod {undo.name}",
                    message=f"the {what} of a failed ADD of {undo.name} could not be undone: {error}",
                )


class _Step:
    """What an ADD is doing, for the error that says it took too long."""

    def __init__(self) -> None:
        self.now = "another request for the same pod or container was served"


class _Undo:
    """How to undo what an ADD of a pod has done so far."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.actions: list[tuple[str, Callable[[], Awaitable[object]]]] = []

    def push(self, what: str, action: Callable[[], Awaitable[object]]) -> None:
        """Before a step that may do a part of its work and fail."""
        self.actions.append((what, action))


class _Turns:
    """Lets those that name the same key go one after the other."""

    def __init__(self) -> None:
        self._locks: dict[str, tuple[asyncio.Lock, int]] = {}

    @asynccontextmanager
    async def of(self, key: str) -> AsyncIterator[None]:
        lock, users = self._locks.get(key, (asyncio.Lock(), 0))
        self._locks[key] = (lock, users + 1)
        try:
            async with lock:
                yield
        finally:
            lock, users = self._locks.pop(key)
            if users > 1:
                self._locks[key] = (lock, users - 1)


def _link(endpoint: LocalEndpoint) -> PodLink:
    return PodLink(
        container_id=endpoint.container_id,
        ifname=endpoint.ifname,
        netns=endpoint.netns,
        addresses=endpoint.ips,
        mtu=endpoint.mtu,
    )


def _names(ips: Collection[str]) -> str:
    return ", ".join(sorted(ips)) or "no address"


async def _call(function: Callable[..., object], *arguments: object) -> None:
    function(*arguments)


async def _to_the_end(work: Coroutine[None, None, None], *, name: str) -> None:
    """Await ``work`` whatever cancels the caller; the caller raises what it was about to raise."""
    task = asyncio.create_task(work, name=name)
    while not task.done():
        try:
            await asyncio.wait([task])
        except asyncio.CancelledError:
            continue
    task.result()
