"""The programs that talk through the path: compiled from spin.c when there is a C compiler, else spin.py."""

from __future__ import annotations

import asyncio
import shutil
import subprocess
import sys
from pathlib import Path

import msgspec

from deploy.cli.errors import Unmet
from deploy.lab import client

_HERE = Path(__file__).resolve().parent
_GRACE_SECONDS = 10.0


class Talk(msgspec.Struct, frozen=True):
    """What a client printed."""

    count: int
    seconds: float
    median_us: float

    @property
    def rate(self) -> float:
        """Each second."""
        return self.count / self.seconds


async def build(folder: Path) -> tuple[list[str], str]:
    """The command line of the program, and what it is for the reader of the figures."""
    compiler = shutil.which("gcc") or shutil.which("cc")
    if compiler is None:
        return [sys.executable, "-I", "-S", str(_HERE / "spin.py")], "Python (no C compiler is installed)"
    program = folder / "spin"
    arguments = ("-O2", "-o", str(program), str(_HERE / "spin.c"))
    process = await asyncio.create_subprocess_exec(
        compiler, *arguments, stdin=subprocess.DEVNULL, stderr=subprocess.PIPE
    )
    _, errors = await process.communicate()
    if process.returncode != 0:
        raise Unmet(f"{compiler} cannot compile bench/spin.c: {errors.decode(errors='replace')[:500]}")
    return [str(program)], f"C ({Path(compiler).name})"


async def start_server(
    lab: str, pod: str, program: list[str], *, port: int, cpu: int
) -> asyncio.subprocess.Process:
    """A server in a pod, which listens."""
    process = await asyncio.create_subprocess_exec(
        *client.exec_command(lab, pod, [*program, "serve", str(port), str(cpu)]),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
    )
    said = b"" if process.stdout is None else await process.stdout.readline()
    if said != b"ready\n":
        raise Unmet(f"the server in pod {pod} did not start.")
    return process


async def talk(
    lab: str, pod: str, program: list[str], *, kind: str, target: tuple[str, int], seconds: float, cpu: int
) -> Talk:
    """A client in a pod: ``ask`` or ``connect``."""
    address, port = target
    command = [*program, kind, address, str(port), str(seconds), str(cpu)]
    process = await asyncio.create_subprocess_exec(
        *client.exec_command(lab, pod, command),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(seconds + _GRACE_SECONDS):
            output, errors = await process.communicate()
    except TimeoutError:
        raise Unmet(f"the client in pod {pod} did not end.") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        raise Unmet(f"the client in pod {pod} failed: {errors.decode(errors='replace').strip()}.")
    return msgspec.json.decode(output, type=Talk)
