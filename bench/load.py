"""What the rest of the machine does while something is measured.

CPU time of processes is summed over this process and its descendants (what is measured, and the measuring)
and over all others (what disturbs). A process that ends hands its time to its parent, so the sums lose
nothing. Time that the hypervisor gave to other machines disturbs as well. Kernel threads belong to nobody
and are left out: most of what they do is caused by what is measured.
"""

from __future__ import annotations

import asyncio
import os
import time
from dataclasses import dataclass
from pathlib import Path

_PROC = Path("/proc")
_TICK_SECONDS = 1 / os.sysconf("SC_CLK_TCK")
_KERNEL_THREADS = 2
"""Parent of all kernel threads."""
_LOOK_SECONDS = 0.1
_OWN_AT_REST = 0.3
"""Of a processor; what is measured uses less when it has nothing left to do (looking takes a part of it)."""
_STEAL = 8
"""Field of the first line of proc_stat(5)."""

QUIET_CORES = 0.05
"""Of one core; what others may use of it while a sample is taken that counts."""


@dataclass(frozen=True, slots=True)
class Usage:
    """CPU seconds since some beginning."""

    at: float
    own: float
    others: float


@dataclass(frozen=True, slots=True)
class Span:
    """From one usage to a later one."""

    seconds: float
    own: float
    others: float

    @property
    def quiet(self) -> bool:
        """Nobody else did anything worth mentioning. Accounting is in ticks, so one more is forgiven."""
        return self.others <= 1.01 * _TICK_SECONDS + QUIET_CORES * self.seconds

    @property
    def cores_of_others(self) -> float:
        """How many processors the others used in the mean."""
        return self.others / self.seconds if self.seconds > 0 else 0.0


def usage() -> Usage:
    """As it is now; takes a few milliseconds."""
    parents: dict[int, int] = {}
    spent: dict[int, int] = {}
    for entry in os.scandir(_PROC):
        if not entry.name.isdigit():
            continue
        try:
            text = (_PROC / entry.name / "stat").read_text()
        except (FileNotFoundError, ProcessLookupError):
            continue
        # The command in parentheses may itself hold blanks and parentheses; nothing after it does.
        fields = text.rpartition(")")[2].split()
        pid = int(entry.name)
        parents[pid] = int(fields[1])
        spent[pid] = sum(int(field) for field in fields[11:15])
    own = _descendants(parents, os.getpid())
    others = sum(
        ticks for pid, ticks in spent.items() if pid not in own and _KERNEL_THREADS not in (pid, parents[pid])
    )
    steal = int((_PROC / "stat").read_text().split("\n", 1)[0].split()[_STEAL])
    return Usage(
        at=time.monotonic(),
        own=sum(spent[pid] for pid in own) * _TICK_SECONDS,
        others=(others + steal) * _TICK_SECONDS,
    )


def since(before: Usage) -> Span:
    """From then until now."""
    now = usage()
    return Span(
        seconds=now.at - before.at,
        own=max(now.own - before.own, 0),
        others=max(now.others - before.others, 0),
    )


async def at_rest(*, patience: float) -> None:
    """Waits until neither what is measured nor others have anything to do; at most ``patience`` seconds."""
    until = time.monotonic() + patience
    while time.monotonic() < until:
        before = usage()
        await asyncio.sleep(_LOOK_SECONDS)
        span = since(before)
        if span.quiet and span.own <= _OWN_AT_REST * span.seconds:
            return


def _descendants(parents: dict[int, int], root: int) -> set[int]:
    children: dict[int, list[int]] = {}
    for pid, parent in parents.items():
        children.setdefault(parent, []).append(pid)
    found = {root}
    waiting = [root]
    while waiting:
        for child in children.get(waiting.pop(), ()):
            if child not in found:
                found.add(child)
                waiting.append(child)
    return found
