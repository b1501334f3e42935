"""Links, addresses, routes and attached programs of this node: the service's one door to rtnetlink.

Must be made in a process that is in the node's network namespace. Calls run in a few threads (see
:mod:`services.datapath.netns`), so that the event loop never waits for the kernel, and pods are made and
deleted in parallel. There is no order between calls: the caller keeps those of one pod apart.

A call that is cancelled is finished first, so that undoing it can never run before it. Raises
:class:`LinkError`.
"""

from __future__ import annotations

import asyncio
import os
import socket
import threading
from collections.abc import Callable, Collection, Mapping
from concurrent.futures import Future
from pathlib import Path
from queue import SimpleQueue
from typing import TypeVar

from pyroute2.netlink.exceptions import NetlinkError

from services.datapath import noderoutes, podlink
from services.datapath.endpoints import HOST_IFNAME_PREFIX
from services.datapath.errors import LinkError
from services.datapath.kernel import attach
from services.datapath.kernel.attach import Hook
from services.datapath.netns import Worker
from services.datapath.noderoutes import NodeAddress, RouteChanges, Uplink
from services.datapath.podlink import PodLink, VethPair

T = TypeVar("T")

_FORWARDING = ("net/ipv4/ip_forward", "net/ipv6/conf/all/forwarding")


class Netlink:
    """See the module. ``workers`` is how many netlink calls may be under way at once."""

    def __init__(self, *, workers: int = 8) -> None:
        self._home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        self._jobs: SimpleQueue[Callable[[Worker], None] | None] = SimpleQueue()
        self._threads = [
            threading.Thread(target=self._work, name=f"netlink-{number}", daemon=True)
            for number in range(workers)
        ]
        for thread in self._threads:
            thread.start()

    async def close(self) -> None:
        """Wait for calls under way, then give up threads and sockets."""
        for _ in self._threads:
            self._jobs.put(None)
        for thread in self._threads:
            await asyncio.to_thread(thread.join)
        os.close(self._home)

    async def create_pod_link(self, link: PodLink) -> VethPair:
        """Make the veth, both sides down: nothing passes before :meth:`bring_up_pod_link`."""
        return await self._run(lambda worker: podlink.create(worker, link), what="make a pod's link")

    async def bring_up_pod_link(self, link: PodLink) -> None:
        """Addresses, routes, neighbours, and both sides up. Attach the programs before. May be repeated."""
        await self._run(lambda worker: podlink.bring_up(worker, link), what="set up a pod's link")

    async def delete_pod_link(self, name: str) -> bool:
        """Delete a veth by the name of its host side; False when there is none."""
        return await self._run(lambda worker: podlink.delete(worker, name), what="delete a pod's link")

    async def pod_link_differences(self, link: PodLink) -> tuple[str, ...]:
        """Sentences that each name what is not as :meth:`bring_up_pod_link` left it."""
        return await self._run(lambda worker: podlink.differences(worker, link), what="check a pod's link")

    async def pod_links(self) -> dict[str, int]:
        """Host sides of all pods' veths in this node: name to ifindex."""
        return await self._run(
            lambda _: {
                name: index for index, name in socket.if_nameindex() if name.startswith(HOST_IFNAME_PREFIX)
            },
            what="list the pods' links",
        )

    async def attach_program(self, hook: Hook) -> None:
        """Put a program in its place, atomically replacing the one that was there."""
        what = f"attach {hook.name} to the {hook.side} of interface {hook.ifindex}"
        await self._run(lambda worker: attach.attach(worker.node, hook), what=what)

    async def detach_programs(self, ifindex: int) -> None:
        """Remove all programs from an interface; one that is gone or bare is fine."""
        what = f"detach programs from interface {ifindex}"
        await self._run(lambda worker: attach.detach(worker.node, ifindex), what=what)

    async def attached_program(self, *, ifindex: int, side: str) -> str | None:
        """Name of the filter on one side (``ingress``, ``egress``) of an interface, None without one."""
        what = f"look for programs on interface {ifindex}"
        return await self._run(
            lambda worker: attach.attached(worker.node, ifindex=ifindex, side=side), what=what
        )

    async def interfaces_with(self, program: str) -> frozenset[int]:
        """Interfaces on whose ingress side there is this program, of whatever text."""

        def find(worker: Worker) -> frozenset[int]:
            names = {
                index: attach.attached(worker.node, ifindex=index, side="ingress")
                for index, _ in socket.if_nameindex()
            }
            return frozenset(
                index for index, name in names.items() if name and name.partition("-")[0] == program
            )

        return await self._run(find, what=f"look for {program} on all interfaces")

    async def uplinks(self, *, node_addresses: Collection[str] = ()) -> tuple[Uplink, ...]:
        """Interfaces with a default route or one of the node's addresses; raises :class:`UplinkUnknown`."""
        return await self._run(
            lambda worker: noderoutes.uplinks(worker, node_addresses), what="look for the uplinks"
        )

    async def local_addresses(self) -> tuple[NodeAddress, ...]:
        """Every address of the node itself that has global scope."""
        return await self._run(noderoutes.local_addresses, what="list the node's addresses")

    async def reconcile_routes(self, desired: Mapping[str, str]) -> RouteChanges:
        """Make the routes to other nodes' pods be ``desired``: pod CIDR to the address of its node."""
        return await self._run(
            lambda worker: noderoutes.reconcile_routes(worker, desired),
            what="reconcile routes to other nodes",
        )

    async def enable_forwarding(self) -> None:
        """Let the node route packets between its interfaces: pods are behind it."""

        def write(_: Worker) -> None:
            for name in _FORWARDING:
                path = Path("/proc/sys") / name
                if path.exists() and path.read_text().strip() != "1":
                    path.write_text("1")

        await self._run(write, what="switch on forwarding")

    async def _run(self, call: Callable[[Worker], T], *, what: str) -> T:
        done: Future[T] = Future()

        def job(worker: Worker) -> None:
            try:
                done.set_result(_called(call, worker, what))
            except BaseException as error:  # whatever it is, the caller has to have it
                done.set_exception(error)

        self._jobs.put(job)
        result = asyncio.wrap_future(done)
        cancelled: asyncio.CancelledError | None = None
        while not result.done():
            try:
                await asyncio.wait([result])
            except asyncio.CancelledError as error:
                cancelled = error
        if cancelled is not None:
            result.exception()
            raise cancelled
        return result.result()

    def _work(self) -> None:
        worker = Worker(self._home)
        try:
            while (job := self._jobs.get()) is not None:
                job(worker)
        finally:
            worker.close()


def _called(call: Callable[[Worker], T], worker: Worker, what: str) -> T:
    try:
        return call(worker)
    except NetlinkError as error:
        raise LinkError(f"{what}: {os.strerror(error.code)}") from error
    except LinkError as error:
        if not isinstance(error.__cause__, NetlinkError):
            worker.reset()
        raise
    except OSError as error:
        worker.reset()
        raise LinkError(f"{what}: {error}") from error
    except BaseException:
        worker.reset()
        raise
