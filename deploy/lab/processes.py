"""Processes by pid and start time, so that a reused pid is never taken for the process that had it.

A record outlives its process and even the daemon that wrote it; whether it still names a living process is
decided at the moment of a signal, through a pidfd, which cannot change its meaning in between.
"""

from __future__ import annotations

import contextlib
import os
import select
import signal
from collections.abc import Iterable, Iterator
from pathlib import Path

import msgspec

from deploy.lab.names import MARK

PROC = Path("/proc")


class ProcessId(msgspec.Struct, frozen=True, kw_only=True):
    """One process, for all time since boot."""

    pid: int
    start_time: int
    """Clock ticks after boot (field 22 of proc_pid_stat(5))."""


def identify(pid: int) -> ProcessId | None:
    """The process that has ``pid`` now; None when there is none, or only its zombie."""
    try:
        text = (PROC / str(pid) / "stat").read_text()
    except (FileNotFoundError, ProcessLookupError):
        return None
    # The command in parentheses may itself hold blanks and parentheses; nothing after it does.
    fields = text.rpartition(")")[2].split()
    if fields[0] in ("Z", "X"):
        return None
    return ProcessId(pid=pid, start_time=int(fields[19]))


def alive(process: ProcessId) -> bool:
    """Whether exactly this process still runs."""
    return identify(process.pid) == process


def stop(process: ProcessId, *, grace_seconds: float) -> None:
    """SIGTERM, then after the grace SIGKILL; returns when the process has ended. Blocks."""
    handle = _open(process)
    if handle is None:
        return
    try:
        with contextlib.suppress(ProcessLookupError):
            if grace_seconds > 0:
                signal.pidfd_send_signal(handle, signal.SIGTERM)
                # A stopped process would sit out its grace.
                signal.pidfd_send_signal(handle, signal.SIGCONT)
            if grace_seconds <= 0 or not _ended(handle, grace_seconds):
                signal.pidfd_send_signal(handle, signal.SIGKILL)
                _ended(handle, None)
    finally:
        os.close(handle)


def kill_all(processes: Iterable[ProcessId]) -> None:
    """SIGKILL to all, then waits for each to end. Blocks."""
    handles = [handle for process in processes if (handle := _open(process)) is not None]
    try:
        for handle in handles:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(handle, signal.SIGKILL)
        for handle in handles:
            _ended(handle, None)
    finally:
        for handle in handles:
            os.close(handle)


def everyone() -> Iterator[ProcessId]:
    """All processes but this one."""
    for entry in PROC.iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            process = identify(int(entry.name))
            if process is not None:
                yield process


def in_namespaces(inodes: set[tuple[int, int]]) -> list[ProcessId]:
    """The processes whose network namespace is one of these (device, inode) pairs, never those of our own."""
    own = (PROC / "self/ns/net").stat()
    wanted = inodes - {(own.st_dev, own.st_ino)}
    found = []
    for process in everyone() if wanted else ():
        with contextlib.suppress(OSError):
            status = (PROC / str(process.pid) / "ns/net").stat()
            if (status.st_dev, status.st_ino) in wanted:
                found.append(process)
    return found


def marked(state: Path) -> list[ProcessId]:
    """The processes whose environment says that they belong to the lab with this state directory."""
    mark = f"{MARK}={state}".encode()
    found = []
    for process in everyone():
        with contextlib.suppress(OSError):
            if mark in (PROC / str(process.pid) / "environ").read_bytes().split(b"\0"):
                found.append(process)
    return found


def write_record(path: Path, process: ProcessId) -> None:
    """Records a process, whole or not at all."""
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_bytes(msgspec.json.encode(process))
    temporary.rename(path)


def read_record(path: Path) -> ProcessId | None:
    """The recorded process; None without a record, or with one torn by a full disk."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=ProcessId)
    except (FileNotFoundError, msgspec.DecodeError):
        return None


def _open(process: ProcessId) -> int | None:
    try:
        handle = os.pidfd_open(process.pid)
    except ProcessLookupError:
        return None
    # Looked at after the pidfd exists: from here on the number cannot come to mean another process.
    if alive(process):
        return handle
    os.close(handle)
    return None


def _ended(handle: int, seconds: float | None) -> bool:
    poller = select.poll()
    poller.register(handle, select.POLLIN)
    return bool(poller.poll(None if seconds is None else seconds * 1000))
