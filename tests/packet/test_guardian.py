"""Of a test run that is killed nothing stays behind."""

from __future__ import annotations

import asyncio
import sys
import uuid

from deploy.lab import namespaces
from deploy.lab.names import BPFFS, LabNames
from tests.packet.guardian import PINS, REPOSITORY, Guardian, clean, remains
from tests.packet.labs import eventually

KILLED_RUN = """
import os, subprocess, sys
from pathlib import Path
from tests.packet.guardian import PINS, Guardian
run = sys.argv[1]
guardian = Guardian(run)
for name in (f"stt-{run}-0", f"stm-{run}0", f"stl-t{run}x-node-1"):
    subprocess.run(["ip", "netns", "add", name], check=True)
Path(f"/run/stentor/lab/t{run}x").mkdir(parents=True)
Path(f"/sys/fs/bpf/{PINS}{run}/maps").mkdir(parents=True)
sleep = ["ip", "netns", "exec", f"stt-{run}-0", "sleep", "600"]
subprocess.Popen(sleep, stdout=subprocess.DEVNULL, start_new_session=True)
print("made", flush=True)
os.kill(os.getpid(), 9)
"""


async def test_what_a_killed_run_made_is_removed() -> None:
    run = uuid.uuid4().hex[:8]
    try:
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", KILLED_RUN, run, stdout=asyncio.subprocess.PIPE, cwd=REPOSITORY
        )
        output, _ = await process.communicate()
        assert output == b"made\n"
        assert process.returncode == -9
        await eventually(lambda: remains(run) == [])
        assert not (BPFFS / f"{PINS}{run}").exists()
        assert namespaces.names(LabNames(f"t{run}x").prefix) == []
    finally:
        clean(run)


def test_run_that_leaves_something_is_told_what() -> None:
    run = uuid.uuid4().hex[:8]
    guardian = Guardian(run)
    try:
        namespaces.create(f"stt-{run}-0")
    finally:
        left = guardian.dismiss()
    assert left == [f"network namespace stt-{run}-0"]
    assert remains(run) == []
