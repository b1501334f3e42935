"""Client and server that measure the path: both kinds speak the same, over loopback."""

from __future__ import annotations

import asyncio
import os
import shutil
import socket
import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from bench.programs import Talk

BENCH = Path(__file__).resolve().parents[2] / "bench"


@pytest.fixture
def program(request: pytest.FixtureRequest, tmp_path: Path) -> list[str]:
    if request.param == "python":
        return [sys.executable, "-I", "-S", str(BENCH / "spin.py")]
    compiler = shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler is installed")
    subprocess.run(
        [compiler, "-Wall", "-Werror", "-O2", "-o", tmp_path / "spin", BENCH / "spin.c"], check=True
    )
    return [str(tmp_path / "spin")]


@pytest.mark.parametrize("program", ["python", "c"], indirect=True)
@pytest.mark.parametrize("kind", ["ask", "connect"])
async def test_they_talk(program: list[str], kind: str) -> None:
    processors = sorted(os.sched_getaffinity(0))
    if os.geteuid() != 0 or len(processors) < 2:
        pytest.skip("real-time priority needs root, and two programs that never sleep need two processors")
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = str(probe.getsockname()[1])
    # In a network namespace of their own: the server changes a setting of it.
    script = (
        'ip link set lo up; coproc SERVER { exec "$@" serve $PORT $CPU; }; read -u ${SERVER[0]} said; '
        '"$@" $KIND 127.0.0.1 $PORT 0.1 $OTHER; kill $SERVER_PID'
    )
    process = await asyncio.create_subprocess_exec(
        *("unshare", "--net", "timeout", "20", "bash", "-c", script, "talk", *program),
        stdout=subprocess.PIPE,
        env={
            **os.environ,
            "PORT": port,
            "KIND": kind,
            "CPU": str(processors[-1]),
            "OTHER": str(processors[0]),
        },
    )
    output, _ = await process.communicate()
    said = msgspec.json.decode(output, type=Talk)
    assert said.count > 10
    assert 0.1 <= said.seconds < 2
    assert said.rate == said.count / said.seconds
