"""Takes down what a test process left behind: ``python -m tests.packet.guardian RUN``.

It waits until its standard input ends, which happens when the test process closes it or is gone by whatever
end, and then removes everything that carries the name of the run. Standard output tells what that was, one
line each: nothing, if the tests cleaned up after themselves. It has a session of its own, so that what ends
the test process (Ctrl-C, the end of a terminal) does not end it too.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path
from typing import IO

from deploy.lab import kernelfs, namespaces, processes
from deploy.lab.names import BPFFS, PREFIX, STATE_ROOT, LabNames
from deploy.lab.teardown import remove_lab

REPOSITORY = Path(__file__).resolve().parents[2]
PINS = "stentor-test-"
"""Directories on bpffs that belong to no lab begin with this."""


def remains(run: str) -> list[str]:
    """What there is of a run, in words."""
    return [
        *(f"lab {name}" for name in _labs(run)),
        *(f"network namespace {name}" for name in _namespaces(run)),
        *(f"pins {path}" for path in BPFFS.glob(f"{PINS}{run}*")),
    ]


def clean(run: str) -> None:
    """Removes all of it."""
    for name in _labs(run):
        remove_lab(LabNames(name), tell=lambda text: None)
    left = _namespaces(run)
    inodes = {inode for name in left if (inode := namespaces.inode(name)) is not None}
    processes.kill_all(processes.in_namespaces(inodes))
    for name in left:
        namespaces.remove(name)
    for path in BPFFS.glob(f"{PINS}{run}*"):
        shutil.rmtree(path, ignore_errors=True)


def _namespaces(run: str) -> list[str]:
    return [name for name in namespaces.names("st") if run in name]


def _labs(run: str) -> list[str]:
    states = [path.name for path in STATE_ROOT.iterdir()] if STATE_ROOT.is_dir() else []
    spaces = [name.split("-")[1] for name in namespaces.names(f"{PREFIX}-")]
    folders = [path.name for path in (BPFFS / "stentor").glob("*-*")]
    groups = [path.name for root in kernelfs.mounted("cgroup2") for path in root.glob("stentor/*-*")]
    names = {*states, *spaces, *(name.split("-")[0] for name in (*folders, *groups))}
    return sorted(name for name in names if run in name)


class Guardian:
    """The process, as the test process sees it."""

    def __init__(self, run: str) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.packet.guardian", run],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=REPOSITORY,
            start_new_session=True,
        )

    def dismiss(self) -> list[str]:
        """Has it clean up now and end; what it found."""
        found, _ = self._process.communicate()
        return str(found).splitlines()


def main(run: str, *, until_end_of: IO[str]) -> None:
    """Waits, cleans, and tells."""
    until_end_of.read()
    found = remains(run)
    clean(run)
    # Last, for a test process that was killed does not listen.
    for what in found:
        print(what)


if __name__ == "__main__":
    main(sys.argv[1], until_end_of=sys.stdin)
