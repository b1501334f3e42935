"""How long `stentor demo` takes, as its own process."""

from __future__ import annotations

import asyncio
import subprocess
import sys
import time

from bench.figures import Figure, Samples
from bench.fresh import new_name
from bench.load import since, usage
from bench.shown import Shown
from deploy.cli.errors import Unmet
from deploy.lab import client
from deploy.lab.client import REPOSITORY


async def measure_demo(*, count: int, shown: Shown) -> Figure | None:
    """Wall time from the start of the process to its end; each must succeed."""
    samples = Samples("stentor demo", "s")
    with shown.part("stentor demo", total=count) as advance:
        for _ in range(count):
            before = usage()
            began = time.perf_counter()
            await _run_once(new_name())
            samples.add(time.perf_counter() - began, quiet=since(before).quiet)
            advance()
    return samples.figure(command=f"stentor bench lab --pods 0 --changes 0 --demos {count}")


async def _run_once(lab: str) -> None:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "deploy.cli", "demo", "--name", lab),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        cwd=REPOSITORY,
        # Ctrl-C is for the benchmark alone.
        start_new_session=True,
    )
    try:
        output, _ = await process.communicate()
    except asyncio.CancelledError:
        process.kill()
        await process.wait()
        await client.down(lab)
        raise
    if process.returncode != 0:
        raise Unmet(f"stentor demo ended with {process.returncode}: {output.decode(errors='replace')[-500:]}")
