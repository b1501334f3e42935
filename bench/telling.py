"""CPU time that processes spend on new connections, each of which is told as a flow.

Connections are opened for a moment; the time counts until the lab is at rest again. The moment is short
enough for all events to find room in the kernel's ring: lost ones would make telling look cheap.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from pathlib import Path

from bench.figures import Figure, Samples
from bench.load import at_rest, since, usage
from bench.programs import Talk
from bench.shown import Shown
from bench.switches import NODE
from deploy.cli.errors import Unmet
from deploy.lab import client
from deploy.lab.children import NATS, datapath_child

SECONDS = 0.25
TIMES = 5
TOLD_SECONDS = 5.0
"""Long enough for all flows to be told also where others use the machine."""


async def measure_telling(
    lab: str, connect: Callable[[float], Awaitable[Talk]], *, command: str, patience: float, shown: Shown
) -> list[Figure | None]:
    """``connect`` opens connections for so many seconds."""
    pids = {child.name: child.pid for child in (await client.status(lab)).children}
    samples = {
        datapath_child(NODE): Samples("CPU time of the datapath process for a new connection", "us"),
        NATS: Samples("CPU time of NATS for a new connection", "us"),
    }
    with shown.part("telling flows", total=TIMES) as advance:
        for _ in range(TIMES):
            await at_rest(patience=patience)
            before = usage()
            spent = {name: _nanoseconds(pids[name]) for name in samples}
            made = await connect(SECONDS)
            await at_rest(patience=max(patience, TOLD_SECONDS))
            quiet = since(before).quiet
            for name, into in samples.items():
                into.add((_nanoseconds(pids[name]) - spent[name]) / made.count / 1000, quiet=quiet)
            advance()
    return [into.figure(command=command) for into in samples.values()]


def _nanoseconds(pid: int) -> int:
    """On a processor, of all threads that live (proc_pid_schedstat)."""
    try:
        tasks = list((Path("/proc") / str(pid) / "task").iterdir())
        return sum(int((task / "schedstat").read_text().split()[0]) for task in tasks)
    except FileNotFoundError as error:
        raise Unmet(f"CPU time of process {pid} cannot be read: {error}.") from error
