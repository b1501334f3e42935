"""A node with links for pods to come, an outside, and two ways to ask its kernel about first packets.

:meth:`Stage.in_memory` executes the node's programs on packets in memory (BPF_PROG_TEST_RUN): thousands a
second, with the maps as they are. An answer is the action that the program returned together with the event
that it told. :meth:`Stage.on_links` sends packets: an answer is the arrival where the packet is to arrive, or
the event of its drop. Each packet has to come to one of the two, so nothing is waited for that does not
happen.

Each call has source ports of its own, so that no question meets the connection of another one, unless it is
to: then the earlier packets are sent again, and their connections have to be decided again.
"""

from __future__ import annotations

import asyncio
import itertools
import subprocess
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from bench.testrun import Program
from services.datapath.kernel.build import PROGRAMS
from services.datapath.kernel.layout import EVENT
from services.datapath.kernel.loader import Loaded
from services.datapath.kernel.ring import AT_INGRESS, EVENT_DROP
from shared.contract.drops import DropReason
from tests.packet.mininode import V4, V6, MiniNode, Pod
from tests.packet.questions import ALLOWED, DENIED, Question, Trace, frame_of, trace_of
from tests.packet.wire import Wire

OWN_IPS = (V4.node, V6.node)
"""Of the node itself."""

LINKS = 8

TC_ACT_OK, TC_ACT_SHOT, TC_ACT_REDIRECT = 0, 2, 7

_BEHIND = {"-4": (V4.outside[0], f"{V4.node}/32"), "-6": ("fe80::53", f"{V6.node}/128")}
"""Next hop of all that the node does not know, and the node's address, by family."""
_NOBODY = "02:53:54:00:00:ff"
_CHUNK = 1500
"""Packets between two looks at the event rings, which have room for some thousand events."""
_PATIENCE = 20.0
"""Seconds for all packets of a chunk to come to something."""


class Way(NamedTuple):
    """How a packet meets the node, and where it goes if it passes."""

    program: str
    at: Pod
    """Behind the interface that the program is on."""
    to: Pod | None
    """Whom it reaches: a local pod or the outside; None: the node itself."""
    came_in: int = 0
    """Interface at which the node's stack received what it sends to a pod; 0: it is the node's own."""

    @property
    def action(self) -> int:
        """What the program returns for a packet that passes."""
        return TC_ACT_OK if self.program == "to_pod" or self.to is None else TC_ACT_REDIRECT


class Asked(NamedTuple):
    """A question, and how it is put."""

    question: Question
    way: Way


@dataclass
class Stage(MiniNode):
    """See the module; made by :meth:`build`."""

    links: list[Pod] = field(default_factory=list)
    _programs: dict[str, Program] = field(default_factory=dict)
    _wire: Wire | None = None
    _told: defaultdict[Trace, list[str]] = field(default_factory=lambda: defaultdict(list))
    """Verdicts by events."""
    _arrived: defaultdict[Trace, list[str]] = field(default_factory=lambda: defaultdict(list))
    """Where packets came out."""
    _source_port: int = 0
    _source_ports: Iterator[int] = field(
        default_factory=lambda: itertools.cycle(range(20_000, 60_000, len(PROGRAMS)))
    )

    @classmethod
    async def build(cls, loaded: Loaded) -> Stage:
        """A node with its links, and routes to the outside."""
        stage = await cls.create(loaded)
        try:
            await stage._furnish()
        except BaseException:
            await stage.close()
            raise
        return stage

    async def _furnish(self) -> None:
        outside = await self.add_outside()
        for family, (gateway, own) in _BEHIND.items():
            ip = ("ip", "-n", self.prefix, family)
            for command in (
                ("address", "replace", own, "dev", "lo"),
                ("neighbour", "replace", gateway, "lladdr", _NOBODY, "nud", "permanent", "dev", "up0"),
                ("route", "replace", "default", "via", gateway, "dev", "up0"),
            ):
                await asyncio.to_thread(subprocess.run, [*ip, *command], check=True, capture_output=True)
        self._wire = Wire(home=self.prefix, arrived=self._arrive)
        self._wire.open(outside.name, netns=outside.netns, device="eth0")
        for number in range(LINKS):
            # The addresses that pods are to have are not on the links: the programs alone know them.
            second = V6.pods.format(number + 2)
            link = await self.add_pod(f"l{number}", identity=256, also=(second,))
            self.links.append(link)
            self._wire.open(link.name, netns=link.netns, device="eth0")
            self._wire.open(_host_side(link), netns=self.prefix, device=link.host_ifname, listens=False)
        self._programs = {name: Program(str(self.loaded.programs / name)) for name in PROGRAMS}

    async def close(self) -> None:
        """Removes everything."""
        if self._wire is not None:
            self._wire.close()
        for program in self._programs.values():
            program.close()
        await super().close()

    async def in_memory(self, asked: Sequence[Asked], *, again: bool = False) -> list[str]:
        """The answers of test runs, in order; ``again`` with the source ports of the last time."""
        if not again:
            self._source_port = next(self._source_ports)
        answers: list[str] = []
        for start in range(0, len(asked), _CHUNK):
            answers += await self._run(asked[start : start + _CHUNK], again=again)
        return answers

    async def _run(self, asked: Sequence[Asked], *, again: bool) -> list[str]:
        actions, traces, due = [], [], []
        for question, way in asked:
            port = self._source_port + PROGRAMS.index(way.program)
            trace = trace_of(question, source_port=port)
            frame = frame_of(question, source_port=port)
            action = (
                self._programs[way.program].run(frame, ifindex=way.at.ifindex, came_in=way.came_in).action
            )
            traces.append(trace)
            actions.append(action)
            # A known connection that goes on is not told.
            if not again or action == TC_ACT_SHOT:
                due.append(trace)
        await self._settle(due, self._told)
        answers = []
        for (_, way), trace, action in zip(asked, traces, actions, strict=True):
            untold = ALLOWED if again and action != TC_ACT_SHOT else "nothing"
            told = " and ".join(self._told[trace]) or untold
            right = way.action if told == ALLOWED else TC_ACT_SHOT
            answers.append(told if action == right else f"tc action {action} and event {told!r}")
        self._told.clear()
        return answers

    async def on_links(self, asked: Sequence[Asked]) -> list[str]:
        """The answers of packets on the links, in order."""
        assert self._wire is not None
        port = next(self._source_ports)
        traces = [trace_of(each.question, source_port=port) for each in asked]
        for each in asked:
            place = _host_side(each.way.at) if each.way.program == "to_pod" else each.way.at.name
            self._wire.send(place, frame_of(each.question, source_port=port))
        await self._settle(traces, self._told)
        passed = [
            trace
            for each, trace in zip(asked, traces, strict=True)
            if ALLOWED in self._told[trace] and each.way.to is not None
        ]
        await self._settle(passed, self._arrived)
        answers = []
        for each, trace in zip(asked, traces, strict=True):
            told = " and ".join(self._told[trace])
            arrived = self._arrived[trace]
            expected = [each.way.to.name] if told == ALLOWED and each.way.to is not None else []
            answers.append(told if arrived == expected else f"arrived at {arrived} and event {told!r}")
        self._told.clear()
        self._arrived.clear()
        return answers

    async def _settle(self, traces: Sequence[Trace], where: defaultdict[Trace, list[str]]) -> None:
        """Returns when there is something for each trace, or has not been for too long."""
        wanted = set(traces)
        try:
            async with asyncio.timeout(_PATIENCE):
                while not wanted <= where.keys():
                    self._news.clear()
                    await self._news.wait()
        except TimeoutError:
            return  # the answers show what is missing

    def _arrive(self, place: str, trace: Trace) -> None:
        self._arrived[trace].append(place)
        self._news.set()

    def _take(self, batch: list[bytes]) -> None:
        for data in batch:
            event = EVENT.unpack(data)
            kind, reason, flags = event[15:18]
            trace = Trace(event[3], event[4], event[10], event[11], event[19])
            self._told[trace].append(_verdict(kind, reason, flags))
        self._news.set()


def _verdict(kind: int, reason: int, flags: int) -> str:
    if kind != EVENT_DROP:
        return ALLOWED
    direction = "ingress" if flags & AT_INGRESS else "egress"
    if reason == DropReason.POLICY_DENIED:
        return DENIED[direction]
    return f"dropped at {direction}: {DropReason(reason).name}"


def _host_side(link: Pod) -> str:
    """The place that sends to a link from the node's side."""
    return f"host side of {link.name}"
