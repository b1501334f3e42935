"""What Stentor asks of the machine itself, checked by trying it."""

import ctypes
import errno
import os
import re
import shutil
import struct
import subprocess
from pathlib import Path

from deploy.bootstrap.headers import DEBIAN_ARCHITECTURES
from deploy.bootstrap.layout import Layout

OLDEST_KERNEL = (5, 10)
"""First release with bpf_redirect_peer."""
SPACE_NEEDED_MIB = 1024
"""LLVM with BCC, kernel headers with their compiler, and the virtual environment."""

_BPF_SYSTEM_CALL = {"x86_64": 321, "aarch64": 280}
_BPF_PROG_LOAD = 5
_BPF_PROG_TYPE_SCHED_CLS = 3
_RETURN_ZERO = bytes.fromhex("b7000000000000009500000000000000")


def shortcomings(layout: Layout) -> list[str]:
    """What keeps Stentor from running on this machine. Needs root.

    One sentence for each thing that is missing: what it is, and what to do.
    """
    if layout.machine not in DEBIAN_ARCHITECTURES:
        return [f"The processor ({layout.machine}) is not supported: run Stentor on x86_64 or aarch64."]
    found = (
        _kernel_shortcoming(layout.release),
        _ebpf_shortcoming(layout.machine),
        _cgroup_shortcoming(layout.filesystem / "proc/mounts"),
        _namespace_shortcoming(),
    )
    return [sentence for sentence in found if sentence is not None]


def shortage_of_space(layout: Layout) -> list[str]:
    """The same for what setting up needs besides."""
    for place in (layout.filesystem / "usr", layout.tree):
        free = shutil.disk_usage(place).free // 2**20
        if free < SPACE_NEEDED_MIB:
            return [
                f"There is too little room under {place} ({free} MiB free): free up {SPACE_NEEDED_MIB} MiB."
            ]
    return []


def _kernel_shortcoming(release: str) -> str | None:
    version = tuple(int(number) for number in re.findall(r"[0-9]+", release)[:2])
    if version >= OLDEST_KERNEL:
        return None
    return f"The kernel ({release}) is too old: boot Linux {OLDEST_KERNEL[0]}.{OLDEST_KERNEL[1]} or later."


def _ebpf_shortcoming(machine: str) -> str | None:
    """Load the smallest traffic-control program: bpf(2), BPF_PROG_LOAD."""
    code = ctypes.create_string_buffer(_RETURN_ZERO, len(_RETURN_ZERO))
    licence = ctypes.create_string_buffer(b"GPL")
    attributes = struct.pack(
        "=IIQQ32x",
        _BPF_PROG_TYPE_SCHED_CLS,
        len(_RETURN_ZERO) // 8,
        ctypes.addressof(code),
        ctypes.addressof(licence),
    )
    system_call = ctypes.CDLL(None, use_errno=True).syscall
    descriptor = int(system_call(_BPF_SYSTEM_CALL[machine], _BPF_PROG_LOAD, attributes, len(attributes)))
    if descriptor >= 0:
        os.close(descriptor)
        return None
    reason = errno.errorcode.get(ctypes.get_errno(), str(ctypes.get_errno()))
    return (
        f"The kernel refuses eBPF programs here ({reason}): run Stentor on a real or virtual machine, "
        "or in a container that has the capabilities BPF, NET_ADMIN and SYS_ADMIN and may call bpf."
    )


def _cgroup_shortcoming(mounts: Path) -> str | None:
    if any(line.split()[2] == "cgroup2" for line in mounts.read_text().splitlines()):
        return None
    return (
        "No cgroup v2 hierarchy is mounted: mount one (mkdir -p /sys/fs/cgroup/unified && "
        "mount -t cgroup2 none /sys/fs/cgroup/unified)."
    )


def _namespace_shortcoming() -> str | None:
    attempt = subprocess.run(
        ["unshare", "--net", "true"], capture_output=True, text=True, stdin=subprocess.DEVNULL, check=False
    )
    if attempt.returncode == 0:
        return None
    return (
        f"Network namespaces cannot be made here ({attempt.stderr.strip()}): run Stentor on a real "
        "or virtual machine, or in a container that has the capability SYS_ADMIN."
    )
