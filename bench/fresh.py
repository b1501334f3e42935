"""A lab of a benchmark's own, which goes with it, and the running of benchmarks that can be interrupted."""

from __future__ import annotations

import asyncio
import secrets
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from pathlib import Path

from bench.shown import Shown
from deploy.cli.errors import INTERRUPTED
from deploy.cli.output import say
from deploy.lab import client


def new_name() -> str:
    """Of a lab that nobody else has."""
    return f"bench{secrets.token_hex(4)}"


@asynccontextmanager
async def fresh_lab(
    *, nodes: int, shown: Shown, manifests: Sequence[Path] = (), enable_on: str = "all"
) -> AsyncIterator[str]:
    """The name of a lab that runs, until the end of the context."""
    name = new_name()
    try:
        await client.up(name, nodes=nodes, manifests=manifests, enable_on=enable_on, tell=shown.tell)
        yield name
    finally:
        shown.tell(f"removing lab {name}")
        await client.down(name)


def run(work: Callable[[], Awaitable[None]]) -> int:
    """Run to the end, or until a signal; what was begun is undone in both cases. The exit code."""
    return asyncio.run(_run(work))


async def _run(work: Callable[[], Awaitable[None]]) -> int:
    task = asyncio.ensure_future(work())
    interrupted = False

    def interrupt() -> None:
        nonlocal interrupted
        if interrupted:
            say("the lab is being removed; this takes a few seconds", stderr=True)
            return
        interrupted = True
        task.cancel()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        loop.add_signal_handler(number, interrupt)
    await asyncio.wait([task])
    if interrupted and task.cancelled():
        return INTERRUPTED
    task.result()
    return 0
