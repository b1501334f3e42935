"""A machine that cannot run Stentor is told so in a sentence, exit code 2, before anything is made."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from deploy.lab import client
from tests.packet.guardian import REPOSITORY

UNSUPPORTED = 'ID=plan9\nVERSION_ID="4"\nPRETTY_NAME="Plan 9"\n'


def run_where(setting: str, *, folder: Path) -> subprocess.CompletedProcess[str]:
    """`stentor demo` in a mount namespace of its own, after ``setting`` was done there; $1 is the folder."""
    return subprocess.run(
        ["unshare", "--mount", "--propagation", "private", "sh", "-euc", setting, "sh", str(folder)],
        cwd=REPOSITORY,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


@pytest.mark.parametrize(
    ("setting", "sentence"),
    [
        (
            'mount --bind "$1/os-release" /etc/os-release; exec ./stentor demo',
            "Plan 9 is not supported: run Stentor on Debian 12 or Ubuntu 24.04.",
        ),
        (
            'grep -v "bpf$" /proc/filesystems >"$1/filesystems"; '
            'mount --bind "$1/filesystems" /proc/filesystems; exec ./stentor demo',
            "has no bpf file system: boot a kernel with eBPF and cgroup v2.",
        ),
        (
            "findmnt -n --types cgroup2 --output TARGET | xargs -r umount --lazy; exec ./stentor demo",
            "No cgroup v2 hierarchy is mounted: mount one",
        ),
        (
            "exec setpriv --bounding-set=-sys_admin,-bpf ./stentor demo",
            "The kernel refuses eBPF programs here (EPERM): run Stentor on a real or virtual machine",
        ),
    ],
    ids=["system", "kernel", "cgroup", "ebpf"],
)
def test_what_is_missing_is_named_and_nothing_is_made(setting: str, sentence: str, tmp_path: Path) -> None:
    (tmp_path / "os-release").write_text(UNSUPPORTED)
    before = set(client.labs())
    answer = run_where(setting, folder=tmp_path)
    assert answer.returncode == 2, answer.stderr
    assert answer.stdout == ""
    assert answer.stderr.startswith("stentor: ")
    assert sentence in answer.stderr
    assert answer.stderr.count("\n") == 1
    assert set(client.labs()) == before
