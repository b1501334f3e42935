"""Runs the probe program inside pods, all pods at the same time."""

from __future__ import annotations

import asyncio
import json
import sys
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from deploy.cli.errors import Unmet
from deploy.cli.matrix import Probe
from deploy.lab import client, probe

PROBE_SECONDS = 1.0
PROGRAM = Path(probe.__file__).resolve()
GRACE_SECONDS = 15.0
"""For a probe program to start and end on a busy machine, beside what the probes themselves take."""


async def run_probes(lab: str, probes: Sequence[Probe]) -> dict[str, Mapping[str, Any]]:
    """The probe program's result by probe id; raises :class:`Unmet` when a program could not be run."""
    by_source: dict[str, list[Probe]] = defaultdict(list)
    for wanted in probes:
        by_source[wanted.source].append(wanted)
    results = await asyncio.gather(*(_run_in(lab, pod, wanted) for pod, wanted in by_source.items()))
    return {result["id"]: result for found in results for result in found}


async def _run_in(lab: str, pod: str, probes: Sequence[Probe]) -> list[Mapping[str, Any]]:
    targets = [{"id": wanted.id, "ip": wanted.ip, "port": wanted.port} for wanted in probes]
    python = [sys.executable, "-I", "-S", str(PROGRAM), str(PROBE_SECONDS)]
    process = await asyncio.create_subprocess_exec(
        *client.exec_command(lab, pod, python),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        # Ctrl-C is for the command alone, which then ends its probes itself.
        start_new_session=True,
    )
    try:
        async with asyncio.timeout(PROBE_SECONDS + GRACE_SECONDS):
            out, err = await process.communicate(json.dumps(targets).encode())
    except TimeoutError:
        raise Unmet(f"the probe in pod {pod} did not end within {GRACE_SECONDS:g} s.") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        words = err.decode(errors="replace").strip().splitlines()[-1:]
        raise Unmet(f"the probe in pod {pod} failed: {' '.join(words) or process.returncode}.")
    found: list[Mapping[str, Any]] = json.loads(out)
    return found
