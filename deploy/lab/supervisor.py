"""Keeps the lab's child processes running.

Each child is one task: start, wait for its end, wait a moment, start again; the moment is 1 s and doubles to
10 s while the child keeps dying early. A held child is not started again. Children are recorded by pid and
start time while they run, carry the lab's mark in their environment, and die with the daemon (PDEATHSIG), so
that nothing is left to run unsupervised after the daemon was killed.

Leaving the context stops the children, the highest stage first; those of one stage at the same time.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from types import TracebackType

import msgspec

from deploy.lab import processes
from deploy.lab.errors import ChildError
from deploy.lab.names import namespace_path

log = logging.getLogger(__name__)

FIRST_PAUSE_SECONDS = 1.0
LAST_PAUSE_SECONDS = 10.0
STEADY_SECONDS = 10.0
"""A child that ran this long has not died early."""
GRACE_SECONDS = 5.0
"""Between SIGTERM and SIGKILL."""


class ChildState(StrEnum):
    """What a child does now."""

    RUNNING = "running"
    PAUSED = "paused"
    """Ended by itself; will be started again after the pause."""
    HELD = "held"
    """Ended, and stays so until it is started by request."""


@dataclass(frozen=True, kw_only=True)
class ChildSpec:
    """A program to keep running."""

    name: str
    argv: tuple[str, ...]
    env: Mapping[str, str] = field(default_factory=dict)
    """Beside the daemon's own environment."""
    namespace: str | None = None
    """The network namespace to run in, None for the daemon's; mounts stay the daemon's."""
    stage: int = 0
    """Children of later stages need those of earlier ones."""
    ready_url: str = ""
    """Answers 200 when the child is ready, as seen from the daemon; ``tcp://host:port``: takes a connection;
    empty: ready while it runs."""


class ChildStatus(msgspec.Struct, frozen=True, kw_only=True):
    """A child as the control API tells it."""

    name: str
    state: ChildState
    pid: int = 0
    restarts: int = 0
    last_exit: int | None = None
    """Exit code; minus the signal's number when a signal ended it."""
    held: bool = False
    """True for a running child that will not be started again when it ends."""
    ready: bool | None = None
    log: str = ""


def bound_to_parent(argv: tuple[str, ...], *, namespace: str | None) -> list[str]:
    """The command line for a process that dies with this one, in a network namespace."""
    enter = [] if namespace is None else ["nsenter", f"--net={namespace_path(namespace)}", "--"]
    return ["setpriv", "--pdeathsig", "KILL", "--", *enter, *argv]


class Child:
    """One supervised program; see the module's text for its life."""

    def __init__(self, spec: ChildSpec, *, log_file: Path, record: Path, env: Mapping[str, str]) -> None:
        self.spec = spec
        self.log_file = log_file
        self.restarts = 0
        self.last_exit: int | None = None
        self.held = False
        self._record = record
        self._env = {**os.environ, **env, **spec.env}
        self._process: asyncio.subprocess.Process | None = None
        self._wake = asyncio.Event()
        self._ended = asyncio.Event()
        self._ended.set()

    @property
    def status(self) -> ChildStatus:
        """What it does now; whether it is ready is not known here."""
        running = self._process is not None
        return ChildStatus(
            name=self.spec.name,
            state=ChildState.RUNNING if running else ChildState.HELD if self.held else ChildState.PAUSED,
            pid=self._process.pid if self._process is not None else 0,
            restarts=self.restarts,
            last_exit=self.last_exit,
            held=self.held,
            log=str(self.log_file),
        )

    async def run(self) -> None:
        """For ever; cancellation stops the program."""
        pause = FIRST_PAUSE_SECONDS
        while True:
            while self.held:
                self._wake.clear()
                await self._wake.wait()
            started = time.monotonic()
            if not await self._run_once():
                continue
            pause = FIRST_PAUSE_SECONDS if time.monotonic() - started >= STEADY_SECONDS else pause
            log.warning(
                "%s ended with %s; starting it again in %g s, see %s",
                self.spec.name,
                self.last_exit,
                pause,
                self.log_file,
            )
            self._wake.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._wake.wait(), pause)
            pause = min(2 * pause, LAST_PAUSE_SECONDS)
            self.restarts += 1

    async def _run_once(self) -> bool:
        """From start to end; whether it is to be started again."""
        self._ended.clear()
        try:
            with self.log_file.open("ab") as output:
                process = await asyncio.create_subprocess_exec(
                    *bound_to_parent(self.spec.argv, namespace=self.spec.namespace),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    env=self._env,
                )
            self._process = process
            try:
                identity = processes.identify(process.pid)
                if identity is not None:
                    processes.write_record(self._record, identity)
                self.last_exit = await process.wait()
            except asyncio.CancelledError:
                await _terminate(process)
                raise
        finally:
            self._process = None
            self._record.unlink(missing_ok=True)
            self._ended.set()
        return not self.held

    def hold(self) -> None:
        """Keeps it from being started again once it ends."""
        self.held = True

    def start(self) -> None:
        """Undoes :meth:`hold`, and cuts a pause short."""
        self.held = False
        self._wake.set()

    async def stop(self) -> None:
        """Holds it and ends it: SIGTERM, after a grace SIGKILL."""
        self.hold()
        self._wake.set()
        if self._process is not None:
            await _terminate(self._process)
        await self._ended.wait()

    def kill(self, number: signal.Signals) -> None:
        """Sends a signal.

        Raises ChildError when it does not run.
        """
        if self._process is None:
            raise ChildError(f"{self.spec.name} is not running")
        self._process.send_signal(number)


class Supervisor:
    """The children of one daemon, by name. Use as an async context manager inside ``group``.

    A child that cannot be supervised (its program cannot be started at all) fails the group.
    """

    def __init__(
        self, group: asyncio.TaskGroup, *, logs: Path, records: Path, env: Mapping[str, str]
    ) -> None:
        self._group = group
        self._logs = logs
        self._records = records
        self._env = env
        self._children: dict[str, Child] = {}
        self._tasks: dict[str, asyncio.Task[None]] = {}

    async def __aenter__(self) -> Supervisor:
        self._logs.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._records.mkdir(mode=0o700, parents=True, exist_ok=True)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        stages = sorted({child.spec.stage for child in self._children.values()}, reverse=True)
        for stage in stages:
            tasks = [self._tasks[name] for name, child in self._children.items() if child.spec.stage == stage]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

    def add(self, spec: ChildSpec, *, held: bool = False) -> Child:
        """Starts a child; its name must be new."""
        if spec.name in self._children:
            raise ChildError(f"{spec.name} is supervised already")
        child = Child(
            spec,
            log_file=self._logs / f"{spec.name}.log",
            record=self._records / f"{spec.name}.json",
            env=self._env,
        )
        if held:
            child.hold()
        self._children[spec.name] = child
        self._tasks[spec.name] = self._group.create_task(child.run(), name=f"child {spec.name}")
        return child

    @property
    def children(self) -> tuple[Child, ...]:
        """In the order of their adding."""
        return tuple(self._children.values())

    def child(self, name: str) -> Child:
        """The child of that name.

        Raises ChildError naming those there are.
        """
        try:
            return self._children[name]
        except KeyError:
            raise ChildError(f"no child {name!r}; there are {', '.join(self._children)}") from None


def python(*argv: str) -> tuple[str, ...]:
    """The command line of a Python program with this interpreter."""
    return (sys.executable, *argv)


async def _terminate(process: asyncio.subprocess.Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.send_signal(signal.SIGTERM)
        process.send_signal(signal.SIGCONT)
    try:
        await asyncio.wait_for(process.wait(), GRACE_SECONDS)
    except TimeoutError:
        with contextlib.suppress(ProcessLookupError):
            process.kill()
        await process.wait()
