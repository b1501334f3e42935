"""The kernel's file systems that a lab needs: bpffs and the cgroup (version 2) hierarchy.

They are found where they are mounted and mounted where they are not; what a lab made in them is removed with
its own prefix only. Removing what is not there is no error.
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
OWN_CGROUP_ROOT = Path("/run/stentor/cgroup2")
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
        _mount("bpf", BPFFS)
    return BPFFS


def ensure_cgroup_root() -> Path:
    """The root of the cgroup2 hierarchy, mounted at a place of our own when it was nowhere."""
    places = mounted("cgroup2")
    for place in (*CGROUP_ROOTS, OWN_CGROUP_ROOT):
        if place in places:
            return place
    if places:
        return places[0]
    OWN_CGROUP_ROOT.mkdir(parents=True, exist_ok=True)
    _mount("cgroup2", OWN_CGROUP_ROOT)
    return OWN_CGROUP_ROOT


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


def _mount(kind: str, place: Path) -> None:
    done = subprocess.run(
        ["mount", "-t", kind, kind, str(place)], capture_output=True, text=True, check=False
    )
    if done.returncode != 0:
        raise MachineError(f"cannot mount {kind} at {place}: {done.stderr.strip()}")
