"""What the kernel's program costs for one packet of a pod, without the rest of the path."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from pathlib import Path

from bench import testrun
from bench.figures import Figure, Samples
from bench.load import since, usage
from bench.switches import NODE
from bench.testrun import ACK, SYN, Case
from deploy.cli.errors import Unmet
from deploy.lab import client
from deploy.lab.names import LabNames

_FIRST_PORT = 20_000
_FRESH_PORT = 30_000
_CLOSED_PORT = 81


class Packets:
    """From one pod to another of the same node of a lab; ``port`` is the one that policy allows."""

    def __init__(self, lab: str, *, source: str, destination: str, service: str, port: int) -> None:
        self._lab = lab
        self._source = source
        self._destination = destination
        self._service = service
        self._port = port
        self._samples: list[Samples] = []

    async def without_policy(self) -> None:
        """Cases for an enforcing node without a policy."""
        await self._measure(
            "no policy",
            [
                self._case("a frame that is no IPv4, dropped", source=""),
                self._case("known connection", flags=ACK, opened=True),
                self._case("new connection", fresh=True),
                self._case("new connection, by ClusterIP", fresh=True, destination=self._service),
            ],
        )

    async def with_policy(self) -> None:
        """Cases for a node whose policy allows ``port`` alone."""
        await self._measure(
            "policy",
            [
                self._case("known connection", flags=ACK, opened=True, source_port=_FIRST_PORT + 1),
                self._case("new connection", fresh=True, source_port=_FRESH_PORT + testrun.FRESH),
                self._case("denied", fresh=True, port=_CLOSED_PORT),
            ],
        )

    def figures(self, *, command: str) -> list[Figure | None]:
        """What was measured."""
        return [samples.figure(command=command) for samples in self._samples]

    def _case(
        self,
        name: str,
        *,
        source: str | None = None,
        destination: str | None = None,
        port: int | None = None,
        source_port: int | None = None,
        flags: int = SYN,
        opened: bool = False,
        fresh: bool = False,
    ) -> Case:
        return {
            "name": name,
            "source": self._source if source is None else source,
            "destination": destination or self._destination,
            "port": port or self._port,
            "source_port": source_port or (_FRESH_PORT if fresh else _FIRST_PORT),
            "flags": flags,
            "opened": opened,
            "fresh": fresh,
        }

    async def fresh(self, *, source_port: int) -> tuple[list[int], bool]:
        """Nanoseconds of each new connection from this port on (testrun.FRESH), and whether undisturbed."""
        case = self._case("new", fresh=True, source_port=source_port)
        found, quiet = await self._run([case])
        return found["new"], quiet

    async def _measure(self, variant: str, cases: list[Case]) -> None:
        found, quiet = await self._run(cases)
        for name, nanoseconds in found.items():
            samples = Samples(f"program: {variant}, {name}", "ns")
            for value in nanoseconds:
                samples.add(float(value), quiet=quiet)
            self._samples.append(samples)

    async def _run(self, cases: list[Case]) -> tuple[dict[str, list[int]], bool]:
        pin = next(LabNames(self._lab).bpffs(NODE).glob("programs-*/from_pod"))
        program = [sys.executable, "-I", "-S", str(Path(testrun.__file__).resolve()), str(pin), self._source]
        before = usage()
        process = await asyncio.create_subprocess_exec(
            *client.host_command(self._lab, NODE, program),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        output, errors = await process.communicate(json.dumps(cases).encode())
        quiet = since(before).quiet
        if process.returncode != 0:
            raise Unmet(f"the test run failed: {errors.decode(errors='replace').strip()[-300:]}")
        return json.loads(output), quiet
