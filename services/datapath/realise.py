"""Makes the node's kernel hold what the buckets say, and tells how far it is.

Owns the kernel's maps. One task applies: the first change at once, bursts together. Followers of buckets and
the CNI server change :class:`Desire` and trigger; nobody else writes. When a write fails, what the kernel had
stays, the reason is in ``problems`` of the node's Realised record, and it is tried again. Every few minutes
maps and attached programs are compared with the kernel and mended.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable

from services.datapath.attachments import Attachments
from services.datapath.desire import Desire
from services.datapath.endpoints import LocalEndpoint
from services.datapath.errors import NotRealised
from services.datapath.kernel import conntrack, ring
from services.datapath.kernel.loader import Loaded
from services.datapath.kernel.state import Applied, KernelState
from services.datapath.netlink import Netlink
from services.datapath.setrows import WhenFull
from shared.contract.base import timestamp
from shared.contract.node import EndpointState, MapUse, Realised, UnfitSet

log = logging.getLogger(__name__)

_RETRY_SECONDS = (0.1, 5.0)
_GATHER_SECONDS = 0.005
"""After an application, changes of this long are gathered into the next one."""


class Realiser:
    """See the module. :meth:`run` must be running for anything to reach the kernel."""

    def __init__(
        self,
        *,
        node: str,
        instance: str,
        kernel: KernelState,
        loaded: Loaded,
        netlink: Netlink,
        when_full: WhenFull,
        tell_drift: Callable[[int], Awaitable[None]],
        tell_unfit: Callable[[UnfitSet], Awaitable[None]],
    ) -> None:
        self.desire = Desire(node=node, kernel=kernel, when_full=when_full)
        self.kernel = kernel
        self.ipcache_revision = 0
        self.drift_repaired = 0
        self.live_connections = {family.connections: 0 for family in kernel.families}
        self.endpoints_by_ifindex: dict[int, LocalEndpoint] = {}
        """Pods of this node by the host side of their link."""
        self.attachments = Attachments(loaded=loaded, netlink=netlink, pods=self._pod_links)
        self._node = node
        self._instance = instance
        self._tell_drift = tell_drift
        self._tell_unfit = tell_unfit
        self._told_unfit: frozenset[UnfitSet] = frozenset()
        self._wanted = asyncio.Event()
        self._applied = asyncio.Condition()
        self._lock = asyncio.Lock()
        self._failures: tuple[str, ...] = ()
        self._revisions = (0, 0, 0)
        self._ready: frozenset[str] = frozenset()
        self._holds_policy = False
        """The kernel holds some commit, though perhaps not one that may be reported."""
        self._tried_services = False
        """The kernel has been given those of some commit, though perhaps not all had room."""

    # -- what others ask for -----------------------------------------------------------------------

    def trigger(self) -> None:
        """Something of ``desire`` changed."""
        self._wanted.set()

    async def prepare(self, endpoint: LocalEndpoint) -> None:
        """Enters a new endpoint as not ready and puts programs on its link, before the link is up."""
        self.enter(endpoint)
        applied = await self._apply()
        if applied.policy is not None:
            raise NotRealised(f"{endpoint.name}: {applied.policy}") from applied.policy
        await self.attachments.guard(endpoint.host_ifindex)

    async def realised(self, endpoint: LocalEndpoint, *, deadline: float) -> None:
        """Returns when the endpoint's policy is in the kernel; at the deadline :class:`NotRealised`."""
        try:
            async with asyncio.timeout_at(deadline), self._applied:
                await self._applied.wait_for(lambda: endpoint.host_ifname in self._ready)
        except TimeoutError as error:
            reason = "; ".join(self._failures) or self.desire.readiness(endpoint).reason
            raise NotRealised(
                reason or f"the kernel does not hold the policy of {endpoint.name} yet"
            ) from error

    async def remove(self, endpoint: LocalEndpoint) -> None:
        """Takes an endpoint out of the kernel; one that is not there is fine."""
        held = self.desire.local.get(endpoint.host_ifname)
        if held is not None and held.container_id == endpoint.container_id:
            del self.desire.local[endpoint.host_ifname]
            self.endpoints_by_ifindex.pop(endpoint.host_ifindex, None)
        applied = await self._apply()
        if applied.policy is not None and self.desire.in_kernel(endpoint):
            raise NotRealised(f"{endpoint.name} is not removed: {applied.policy}") from applied.policy

    def report(self) -> Realised:
        """What this node's kernel holds, now."""
        policy, services, ipcache = self._revisions
        unfit = self.desire.unfit_sets
        problems = (
            *self.desire.problems.values(),
            *(each.reason for each in unfit),
            *self._failures,
            *self.attachments.problems,
        )
        endpoints = [
            EndpointState(
                namespace=endpoint.namespace,
                pod=endpoint.pod,
                ips=endpoint.ips,
                identity=self.desire.readiness(endpoint).identity,
                ready=name in self._ready,
            )
            for name, endpoint in sorted(self.desire.local.items())
        ]
        maps = {
            mirror.name: MapUse(entries=len(mirror), capacity=mirror.capacity)
            for mirror in self.kernel.mirrors
        }
        for connections, live in self.live_connections.items():
            maps[connections.name] = MapUse(entries=live, capacity=connections.capacity)
        return Realised(
            node=self._node,
            time=timestamp(),
            instance=self._instance,
            enforcing=self.attachments.enforcing,
            policy_revision=policy,
            services_revision=services,
            ipcache_revision=ipcache,
            endpoints=tuple(endpoints),
            maps=maps,
            drift_repaired=self.drift_repaired,
            problems=problems,
            unfit_sets=unfit,
        )

    def enter(self, endpoint: LocalEndpoint) -> None:
        """A pod of this node is known; the kernel hears of it at the next application."""
        self.desire.local[endpoint.host_ifname] = endpoint
        self.endpoints_by_ifindex[endpoint.host_ifindex] = endpoint

    @property
    def policy_revision(self) -> int:
        """The policy commit that the kernel holds."""
        return self._revisions[0]

    def abandon(self, host_ifname: str) -> None:
        """Let go of a link of whose pod nothing is known."""
        self.desire.unknown_links.pop(host_ifname, None)
        self.trigger()

    @property
    def has_state(self) -> bool:
        """The kernel has been given what the buckets say of policies, Services, addresses and own pods."""
        pods = bool(self.desire.endpoints) or not self.desire.local
        return self._holds_policy and self._tried_services and self._revisions[2] > 0 and pods

    async def changed(self) -> None:
        """Waits for the next application."""
        async with self._applied:
            await self._applied.wait()

    # -- tasks -------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Applies changes for ever. What failed is tried again; what is new does not wait for that."""
        delay: float | None = None
        while True:
            try:
                async with asyncio.timeout(delay):
                    await self._wanted.wait()
            except TimeoutError:
                pass  # time to try again
            self._wanted.clear()
            applied = await self._apply()
            await self._tell_news()
            if applied.problems:
                log.warning("the kernel does not hold the desired state: %s", "; ".join(applied.problems))
            # What has gone in this application may have made room for the next.
            if applied.problems or self.desire.unfit_sets:
                delay = min(delay * 2, _RETRY_SECONDS[1]) if delay else _RETRY_SECONDS[0]
            else:
                delay = None
            await asyncio.sleep(_GATHER_SECONDS)

    async def resync(self, *, seconds: float) -> None:
        """Compares kernel and desired state every so often, mends what differs, and says so."""
        while True:
            await asyncio.sleep(seconds)
            async with self._lock:
                drift = self.kernel.repair(await asyncio.to_thread(self.kernel.drift))
            drift += await self.attachments.mend()
            if drift:
                self.drift_repaired += drift
                self.trigger()
                await self._tell_drift(drift)

    async def collect(self, *, seconds: float) -> None:
        """Makes room in conntrack every so often."""
        while True:
            await asyncio.sleep(seconds)
            for family in self.kernel.families:
                swept = await asyncio.to_thread(conntrack.sweep, family.connections, family=family.family)
                self.live_connections[family.connections] = swept.live

    def events_lost(self) -> dict[str, int]:
        """Events that found their ring full, by class, since the maps were made."""
        return ring.lost(self.kernel.events_lost)

    # -- the kernel --------------------------------------------------------------------------------

    async def _apply(self) -> Applied:
        async with self._lock:
            self.desire.want_local()
            ready = frozenset(
                name
                for name, endpoint in self.desire.local.items()
                if not self.desire.readiness(endpoint).reason
            )
            applied = self.kernel.apply()
            self._failures = applied.problems
            self._tried_services = self.desire.services.revision > 0
            policy, services, ipcache = self._revisions
            if applied.policy is None:
                self._ready = ready
                self._holds_policy = self.desire.policy.spoken
                ipcache = self.ipcache_revision
                # A policy that is closed for want of room, or not asked on some interface, is not in force;
                # nor may what an address still has in the kernel be taken away.
                missing = (
                    self.desire.unfit_sets or self.attachments.problems or self.desire.addresses.is_outdated
                )
                if not missing:
                    policy = self.desire.policy.revision
            if applied.services is None:
                services = self.desire.services.revision
            self._revisions = (policy, services, ipcache)
            if applied.policy is None and self.desire.lingering:
                self._wanted.set()
        async with self._applied:
            self._applied.notify_all()
        return applied

    async def _tell_news(self) -> None:
        """Says aloud which policy sets do not fit, once each until they do."""
        unfit = frozenset(self.desire.unfit_sets)
        self._told_unfit &= unfit
        for each in sorted(unfit - self._told_unfit, key=lambda one: one.id):
            await self._tell_unfit(each)
            self._told_unfit |= {each}

    def _pod_links(self) -> list[int]:
        return [*self.endpoints_by_ifindex, *self.desire.unknown_links.values()]
