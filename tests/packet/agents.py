"""Traffic between a lab's pods, as the pods see it: runs :mod:`tests.packet.traffic` inside them."""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from deploy.lab import client
from deploy.lab.supervisor import bound_to_parent
from tests.packet.labs import Lab, eventually

PROGRAM = Path(__file__).with_name("traffic.py")
DENIED_SECONDS = 0.4
"""A connection without an answer after this time counts as denied, where denial is expected or polled for."""
ALLOWED_SECONDS = 5.0
"""Patience where an answer must come."""


def job(
    kind: str,
    ip: str,
    port: int = 80,
    *,
    id: str = "",
    every: float = 0.05,
    patience: float = ALLOWED_SECONDS,
    count: int | None = None,
    size: int = 8,
) -> dict[str, Any]:
    """One thing to do, see :mod:`tests.packet.traffic`."""
    return {
        "id": id or f"{kind} {ip}:{port}",
        "kind": kind,
        "ip": ip,
        "port": port,
        "every": every,
        "patience": patience,
        "count": count,
        "size": size,
    }


@dataclass(frozen=True)
class Try:
    """One try. Times are those of :func:`time.monotonic`."""

    id: str
    began: float
    ended: float
    outcome: str
    answer: Any = None
    detail: str = ""
    resent: int = 0

    @property
    def pod(self) -> str:
        """Who answered."""
        return str((self.answer or {}).get("pod", ""))

    @property
    def client(self) -> str:
        """Whom the server saw."""
        return str((self.answer or {}).get("client", {}).get("ip", ""))


@dataclass
class Traffic:
    """The tries of running jobs, by job, in the order of their ends."""

    tries: dict[str, list[Try]] = field(default_factory=dict)

    def since(self, id: str, moment: float) -> list[Try]:
        """Tries of a job that began at or after a moment."""
        return [each for each in self.tries.get(id, []) if each.began >= moment]

    async def more(self, *ids: str, count: int = 5) -> None:
        """Waits until each of these jobs, or all, has ended ``count`` tries begun from now on."""
        now = time.monotonic()
        for id in ids or tuple(self.tries):
            await eventually(lambda id=id: len(self.since(id, now)) >= count)  # type: ignore[misc]

    def faults(self, *, allowed: Sequence[str] = (), denied: Sequence[str] = ()) -> list[str]:
        """Tries that did not end as they must, as sentences."""
        wrong = [
            f"{each.id}: {each.outcome} {each.detail} at {each.began:.3f}, {each.ended - each.began:.3f} s"
            for id in allowed
            for each in self.tries[id]
            if each.outcome != "open"
        ]
        wrong += [
            f"{each.id}: {each.outcome} at {each.began:.3f}, answered by {each.pod}"
            for id in denied
            for each in self.tries[id]
            if each.outcome != "denied"
        ]
        return wrong


def _read(line: bytes) -> Try:
    return Try(**json.loads(line))


def program(jobs: Sequence[dict[str, Any]]) -> list[str]:
    """The command line that does jobs where it is started."""
    return [sys.executable, "-I", "-S", str(PROGRAM), json.dumps(list(jobs))]


def command(lab: Lab, pod: str, jobs: Sequence[dict[str, Any]], *, namespace: str) -> list[str]:
    """The command line that does jobs in a pod."""
    inside = client.exec_command(lab.name, pod, program(jobs), namespace=namespace)
    return bound_to_parent(tuple(inside), namespace=None)


def command_in(network_namespace: str, jobs: Sequence[dict[str, Any]]) -> list[str]:
    """The same in a network namespace, such as a host's."""
    return bound_to_parent(tuple(program(jobs)), namespace=network_namespace)


@asynccontextmanager
async def traffic(lab: Lab, namespace: str, **jobs: Sequence[dict[str, Any]]) -> AsyncIterator[Traffic]:
    """Jobs by pod, running inside the context, each with a first try. Pods' hyphens are written ``_``."""
    names = {pod: pod.replace("_", "-") for pod in jobs}
    commands = [command(lab, names[pod], each, namespace=namespace) for pod, each in jobs.items()]
    ids = [job["id"] for each in jobs.values() for job in each]
    async with traffic_of(commands, ids=ids) as seen:
        yield seen


@asynccontextmanager
async def traffic_of(commands: Sequence[list[str]], *, ids: Sequence[str]) -> AsyncIterator[Traffic]:
    """Commands that do jobs, wherever that is, running inside the context; each job with a first try."""
    seen = Traffic({id: [] for id in ids})
    assert len(seen.tries) == len(ids), "ids of jobs must differ"
    processes = []
    readers = []

    async def read(stream: asyncio.StreamReader) -> None:
        while line := await stream.readline():
            each = _read(line)
            seen.tries[each.id].append(each)

    try:
        for argv in commands:
            process = await asyncio.create_subprocess_exec(*argv, stdout=asyncio.subprocess.PIPE)
            processes.append(process)
            assert process.stdout is not None
            readers.append(asyncio.create_task(read(process.stdout), name=f"traffic {process.pid}"))
        await eventually(lambda: all(seen.tries.values()))
        yield seen
    finally:
        for process in processes:
            if process.returncode is None:
                process.kill()
            await process.wait()
        await asyncio.gather(*readers)


async def tried(lab: Lab, pod: str, *jobs: dict[str, Any], namespace: str = "default") -> list[Try]:
    """Each job once from a pod; the tries in the order of the jobs."""
    return await _finished(command(lab, pod, _once(jobs), namespace=namespace))


async def tried_in(network_namespace: str, *jobs: dict[str, Any]) -> list[Try]:
    """The same from a network namespace."""
    return await _finished(command_in(network_namespace, _once(jobs)))


def _once(jobs: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    return [{**each, "count": 1, "id": str(number)} for number, each in enumerate(jobs)]


async def _finished(argv: list[str]) -> list[Try]:
    process = await asyncio.create_subprocess_exec(*argv, stdout=asyncio.subprocess.PIPE)
    try:
        output, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    assert process.returncode == 0, f"traffic ended with {process.returncode}: {argv}"
    return sorted((_read(line) for line in output.splitlines()), key=lambda each: int(each.id))
