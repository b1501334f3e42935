"""The node's own part of the network: uplinks, own addresses, routes to other nodes' pods, pod CIDRs, and
whether policy is enforced here at all.

Level-triggered: what the bucket ``nodes`` says is compared with the kernel at every change and every half
minute. Without a record of this node nothing is undone.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Iterable
from ipaddress import ip_address, ip_network

from services.datapath.errors import UplinkUnknown
from services.datapath.ipam import HostLocalIpam
from services.datapath.netlink import Netlink
from services.datapath.realise import Realiser
from shared.contract.identity import NodeRecord
from shared.contract.names import token
from shared.reconcile import Reconciler
from shared.service import Health

log = logging.getLogger(__name__)

_RESYNC_SECONDS = 30.0
_DEFAULT_MTU = 1500


class NodeNetwork:
    """See the module. ``annotated_only``: enforce where the node's annotation says so, else everywhere."""

    def __init__(
        self,
        *,
        node: str,
        annotated_only: bool,
        netlink: Netlink,
        realiser: Realiser,
        ipam: HostLocalIpam,
        health: Health,
    ) -> None:
        self.mtu = _DEFAULT_MTU
        """Of the uplinks, the least; pods get it too."""
        self._node = node
        self._annotated_only = annotated_only
        self._netlink = netlink
        self._realiser = realiser
        self._ipam = ipam
        self._health = health
        self._succeeding = False
        """The programs wait to take over from those of another text."""
        self._reconciler = Reconciler("node network", self._reconcile, resync=_RESYNC_SECONDS)

    def trigger(self) -> None:
        """The bucket ``nodes`` changed."""
        self._reconciler.trigger()

    async def run(self) -> None:
        """Keeps the node's network as it is meant, for ever."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._reconciler.run(), name="reconcile node network")
            if self._succeeding:
                tasks.create_task(self._succeed(), name="wait for the first state")

    async def start(self) -> None:
        """What needs no record of this node: forwarding, own addresses, enforcement where it is always on.

        Where programs of another text enforce, perhaps with maps of their own, the new ones take over when
        they have been told as much.
        """
        await self._netlink.enable_forwarding()
        await self._take_own_addresses()
        self._succeeding = await self._realiser.attachments.adopt()
        if not self._annotated_only and not self._succeeding:
            await self._realiser.attachments.enforce(True)

    async def _succeed(self) -> None:
        while not self._realiser.has_state:
            await self._realiser.changed()
        self._succeeding = False
        self.trigger()

    async def _reconcile(self) -> None:
        await self._take_own_addresses()
        nodes = self._realiser.desire.addresses.nodes
        own = nodes.get(token(self._node))
        if own is None:
            self._health.set_not_ready(
                "node", f"node {self._node} is not published: is the identity service running?"
            )
            return
        if own.pod_cidrs:
            self._ipam.set_cidrs(own.pod_cidrs)
        try:
            uplinks = await self._netlink.uplinks(node_addresses=own.addresses)
        except UplinkUnknown as error:
            self._health.set_not_ready("node", str(error))
            return
        self.mtu = min(uplink.mtu for uplink in uplinks)
        if not self._succeeding:
            await self._realiser.attachments.set_uplinks(uplink.ifindex for uplink in uplinks)
            await self._realiser.attachments.enforce(own.use_cilium or not self._annotated_only)
            self._realiser.trigger()
        changes = await self._netlink.reconcile_routes(self._routes(nodes.values()))
        if changes.problems:
            self._health.set_not_ready("node", "; ".join(changes.problems))
        else:
            self._health.set_ready("node")

    async def _take_own_addresses(self) -> None:
        addresses = await self._netlink.local_addresses()
        self._realiser.desire.addresses.set_own(address.ip for address in addresses)
        self._realiser.trigger()

    def _routes(self, nodes: Iterable[NodeRecord]) -> dict[str, str]:
        routes = {}
        for node in nodes:
            if node.name == self._node:
                continue
            for cidr in node.pod_cidrs:
                gateway = _gateway(node, version=ip_network(cidr).version)
                if gateway is not None:
                    routes[cidr] = gateway
        return routes


def _gateway(node: NodeRecord, *, version: int) -> str | None:
    return next((ip for ip in node.addresses if ip_address(ip).version == version), None)
