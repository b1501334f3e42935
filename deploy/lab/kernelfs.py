"""The kernel's file systems that a lab needs: bpffs and the cgroup (version 2) hierarchy.

bpffs is mounted at its usual place where it was not, and stays; a cgroup hierarchy is the system's to mount.
What a lab made in them is removed with its own prefix only. Removing what is not there is no error.
"""

from __future__ import annotations

import contextlib
import errno
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

from deploy.lab import processes
from deploy.lab.errors import MachineError
from deploy.lab.names import BPFFS, LabNames

CGROUP_ROOTS = (Path("/sys/fs/cgroup"), Path("/sys/fs/cgroup/unified"))
MAKE_ATTEMPTS = 10


def mounted(kind: str) -> list[Path]:
    """Where file systems of this type are mounted (proc_pid_mountinfo(5))."""
    found = []
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        head, _, tail = line.partition(" - ")
        if tail.split(" ", 1)[0] == kind:
            found.append(Path(head.split(" ")[4].encode().decode("unicode_escape")))
    return found


def ensure_bpffs() -> Path:
    """The bpffs at its usual place, mounted when it was not."""
    if BPFFS not in mounted("bpf"):
        done = subprocess.run(
            ["mount", "-t", "bpf", "bpf", str(BPFFS)], capture_output=True, text=True, check=False
        )
        if done.returncode != 0:
            raise MachineError(f"cannot mount bpf at {BPFFS}: {done.stderr.strip()}")
    return BPFFS


def cgroup_root() -> Path:
    """The root of the cgroup2 hierarchy; raises :class:`MachineError` when none is mounted."""
    places = mounted("cgroup2")
    for place in (*CGROUP_ROOTS, *places):
        if place in places:
            return place
    raise MachineError("no cgroup v2 hierarchy is mounted: mount one at /sys/fs/cgroup/unified")


def make_directory(folder: Path) -> None:
    """A directory of mode 0700 with its parents, also while another lab's end removes an empty parent."""
    for _ in range(MAKE_ATTEMPTS - 1):
        with contextlib.suppress(FileNotFoundError):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            return
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)


def remove_pins(names: LabNames) -> None:
    """Everything that the lab's datapaths pinned."""
    parent = BPFFS / "stentor"
    if not parent.is_dir():
        return
    for folder in parent.glob(f"{names.lab}-*"):
        for place, _, files in os.walk(folder, topdown=False):
            for name in files:
                (Path(place) / name).unlink(missing_ok=True)
            with _gone_already():
                Path(place).rmdir()
    with contextlib.suppress(OSError):  # another lab has pins there
        parent.rmdir()


def remove_cgroups(names: LabNames) -> None:
    """The lab's cgroups with whatever processes are in them."""
    for root in mounted("cgroup2"):
        parent = root / "stentor"
        if not parent.is_dir():
            continue
        for folder in parent.glob(f"{names.lab}-*"):
            for place, _, _ in os.walk(folder, topdown=False):
                remove_cgroup(Path(place))
        with contextlib.suppress(OSError):  # another lab has cgroups there
            parent.rmdir()


def remove_cgroup(folder: Path) -> None:
    """One cgroup without children; its processes are killed first. Blocks."""
    with _gone_already():
        members = [processes.identify(int(pid)) for pid in (folder / "cgroup.procs").read_text().split()]
        processes.kill_all(member for member in members if member is not None)
        folder.rmdir()


@contextlib.contextmanager
def _gone_already() -> Iterator[None]:
    """What another has removed, even while it was being read (ENODEV), is no error."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOENT, errno.ENODEV):
            raise
