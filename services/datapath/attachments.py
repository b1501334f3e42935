"""Which interfaces of the node have programs: those of its pods and its uplinks, while it enforces policy.

Until it is known whether the node enforces, new pods get programs and nothing else changes. What cannot be
attached or detached is named in ``problems`` and tried again whenever somebody asks for the same again. One
operation at a time: so whatever is asked for while a pod is made holds for that pod too. Programs of other
texts go once no interface has them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterable

from services.datapath.errors import LinkError
from services.datapath.kernel.attach import Hook
from services.datapath.kernel.loader import Loaded, remove_stale
from services.datapath.netlink import Netlink

log = logging.getLogger(__name__)

UPLINK_PROGRAM = "from_network"


class Attachments:
    """See the module. ``pods`` tells the host sides of all pods' links, by ifindex."""

    def __init__(self, *, loaded: Loaded, netlink: Netlink, pods: Callable[[], Iterable[int]]) -> None:
        self._loaded = loaded
        self._netlink = netlink
        self._pods = pods
        self._uplinks: frozenset[int] = frozenset()
        self._leaving: frozenset[int] = frozenset()
        """Interfaces that are no uplinks any more and still have the program."""
        self._enforcing: bool | None = None
        self._told = False
        self._failures: dict[int, str] = {}
        self._lock = asyncio.Lock()

    @property
    def enforcing(self) -> bool:
        """Whether packets meet the programs on all interfaces but those in ``problems``."""
        return self._told

    @property
    def problems(self) -> tuple[str, ...]:
        """Sentences about interfaces that are not as they must be."""
        return tuple(self._failures.values())

    async def adopt(self) -> bool:
        """Takes note of what an earlier process has left; True where programs of another text enforce."""
        async with self._lock:
            self._uplinks = await self._netlink.interfaces_with(UPLINK_PROGRAM)
            names = {hook.name for hook in self._hooks()}
            older = [
                hook
                for hook in self._hooks()
                if await self._netlink.attached_program(ifindex=hook.ifindex, side=hook.side)
                not in (None, *names)
            ]
            self._told = bool(older)
            self._failures = {
                hook.ifindex: f"interface {hook.ifindex} has programs of another text still" for hook in older
            }
        return bool(older)

    async def guard(self, ifindex: int) -> None:
        """Puts programs on a new pod's link; raises :class:`LinkError`."""
        async with self._lock:
            if self._enforcing is not False:
                for hook in self._pod_hooks(ifindex):
                    await self._netlink.attach_program(hook)

    async def enforce(self, on: bool) -> None:
        """Puts programs on all interfaces, or takes them off: then pods talk by the node's routes alone."""
        async with self._lock:
            if on == self._enforcing and not self._failures:
                return
            changed, self._enforcing = on != self._enforcing, on
            await self._settle()
            self._told = on
        if changed:
            log.info("enforcement is %s", "on" if on else "off")

    async def set_uplinks(self, ifindexes: Iterable[int]) -> None:
        """The interfaces to other machines."""
        async with self._lock:
            before, self._uplinks = self._uplinks, frozenset(ifindexes)
            self._leaving = (self._leaving | before) - self._uplinks
            await self._leave()
            for ifindex in self._uplinks - before if self._enforcing else ():
                await self._attempt(ifindex, self._netlink.attach_program(self._uplink_hook(ifindex)))

    async def mend(self) -> int:
        """Puts back programs that somebody removed or replaced; returns how many."""
        mended = 0
        async with self._lock:
            for hook in self._hooks() if self._enforcing else ():
                there = await self._netlink.attached_program(ifindex=hook.ifindex, side=hook.side)
                if there != hook.name:
                    mended += await self._attempt(hook.ifindex, self._netlink.attach_program(hook))
        return mended

    async def _settle(self) -> None:
        self._failures.clear()
        if self._enforcing:
            for hook in self._hooks():
                await self._attempt(hook.ifindex, self._netlink.attach_program(hook))
        else:
            for ifindex in {hook.ifindex for hook in self._hooks()}:
                await self._attempt(ifindex, self._netlink.detach_programs(ifindex))
        await self._leave()
        if not self._failures:
            remove_stale(self._loaded)

    async def _leave(self) -> None:
        for ifindex in self._leaving:
            if await self._attempt(ifindex, self._netlink.detach_programs(ifindex)):
                self._leaving -= {ifindex}

    async def _attempt(self, ifindex: int, change: Awaitable[None]) -> bool:
        try:
            await change
        except LinkError as error:
            if ifindex in self._leaving or ifindex in {hook.ifindex for hook in self._hooks()}:
                log.warning("interface %d: %s", ifindex, error)
                self._failures[ifindex] = str(error)
            return False  # else it was a pod that has been deleted meanwhile
        self._failures.pop(ifindex, None)
        return True

    def _hooks(self) -> list[Hook]:
        pods = [hook for ifindex in self._pods() for hook in self._pod_hooks(ifindex)]
        return pods + [self._uplink_hook(ifindex) for ifindex in self._uplinks]

    def _pod_hooks(self, ifindex: int) -> tuple[Hook, Hook]:
        return (
            self._hook(ifindex, side="ingress", program="from_pod"),
            self._hook(ifindex, side="egress", program="to_pod"),
        )

    def _uplink_hook(self, ifindex: int) -> Hook:
        return self._hook(ifindex, side="ingress", program=UPLINK_PROGRAM)

    def _hook(self, ifindex: int, *, side: str, program: str) -> Hook:
        name = f"{program}-{self._loaded.programs.name.removeprefix('programs-')}"
        return Hook(ifindex=ifindex, side=side, name=name, fd=self._loaded.program_fds[program])
