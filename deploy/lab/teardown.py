"""Removes a lab: its daemon, everything it or its datapaths made, and its records.

Needs no daemon and no complete lab: each part is looked for on the machine itself, so it works after a crash
of anything, for half-made labs, and any number of times. A process is ended only when its recorded start time
is its own, or when it runs in one of the lab's namespaces or carries the lab's mark in its environment.
"""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Callable

from deploy.lab import kernelfs, namespaces, processes
from deploy.lab.names import STATE_ROOT, LabNames

DAEMON_GRACE_SECONDS = 15.0


def remove_lab(names: LabNames, *, tell: Callable[[str], None]) -> bool:
    """Removes all of the lab; ``tell`` hears each step. Returns whether there was anything of it. Blocks."""
    was_there = names.state.exists() or bool(namespaces.names(names.prefix))
    _stop_daemon(names, tell=tell)
    _end_processes(names, tell=tell)
    found = namespaces.names(names.prefix)
    if found:
        tell(f"removing {len(found)} network namespaces")
    for namespace in found:
        namespaces.remove(namespace)
    kernelfs.remove_cgroups(names)
    kernelfs.remove_pins(names)
    shutil.rmtree(names.state, ignore_errors=True)
    with contextlib.suppress(OSError):  # other labs are there
        STATE_ROOT.rmdir()
    return was_there


def _stop_daemon(names: LabNames, *, tell: Callable[[str], None]) -> None:
    daemon = processes.read_record(names.daemon_record)
    if daemon is not None and processes.alive(daemon):
        tell("stopping the daemon and its services")
        processes.stop(daemon, grace_seconds=DAEMON_GRACE_SECONDS)


def _end_processes(names: LabNames, *, tell: Callable[[str], None]) -> None:
    while True:
        inodes = {found for name in namespaces.names(names.prefix) if (found := namespaces.inode(name))}
        recorded = [
            process
            for file in names.processes.glob("*.json")
            if (process := processes.read_record(file)) is not None and processes.alive(process)
        ]
        left = {*recorded, *processes.in_namespaces(inodes), *processes.marked(names.state)}
        if not left:
            return
        # Again until none is left: one may have started another in between.
        tell(f"ending {len(left)} processes")
        processes.kill_all(left)
