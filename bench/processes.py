"""Memory and CPU time of the lab's processes, as the kernel accounts them."""

from __future__ import annotations

import os
from pathlib import Path

from bench.report import ProcessUse
from deploy.lab import client, processes
from deploy.lab.names import LabNames

_TICK_SECONDS = 1 / os.sysconf("SC_CLK_TCK")


async def process_uses(lab: str, *, command: str) -> list[ProcessUse]:
    """Of every service, of NATS, and of the lab itself (API server, controllers and kubelets)."""
    status = await client.status(lab)
    running = [(child.name, child.pid) for child in status.children if child.pid]
    daemon = processes.read_record(LabNames(lab).daemon_record)
    if daemon is not None:
        running.append(("lab (API server, kubelets)", daemon.pid))
    return [_use(name, pid, command=command) for name, pid in running]


def _use(name: str, pid: int, *, command: str) -> ProcessUse:
    folder = Path("/proc") / str(pid)
    sizes = {
        fields[0].rstrip(":"): int(fields[1])
        for line in (folder / "smaps_rollup").read_text().splitlines()
        if (fields := line.split())[-1] == "kB"
    }
    spent = (folder / "stat").read_text().rpartition(")")[2].split()
    return ProcessUse(
        name=name,
        resident_mib=round(sizes["Rss"] / 1024, 1),
        proportional_mib=round(sizes["Pss"] / 1024, 1),
        cpu_seconds=round((int(spent[11]) + int(spent[12])) * _TICK_SECONDS, 2),
        command=command,
    )


def peak_mib(pid: int) -> float:
    """The most memory that a process ever had resident (VmHWM)."""
    for line in (Path("/proc") / str(pid) / "status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == "VmHWM":
            return int(value.split()[0]) / 1024
    raise ValueError(f"process {pid} has no VmHWM: it has ended")
