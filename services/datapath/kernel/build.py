"""The compiling child process: ``python -m services.datapath.kernel.build`` compiles, loads and pins.

It reads a :class:`BuildRequest` (JSON) on standard input, lets BCC compile the text, pins every map and
program below the request's directories and writes nothing else. It exists because LLVM stays in memory once
used: the long-lived process opens pins only. A failure ends it with exit code 1 and the reason on
standard error; pins of a program that is not complete are removed.
"""

from __future__ import annotations

import ctypes
import os
import shutil
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec

from services.datapath.kernel import libbpf
from services.datapath.kernel.source import CONSTANTS

PROGRAMS = ("from_pod", "to_pod", "from_network")
"""The entry functions of ``bpf/stentor.c``, all tc classifiers."""

TAILS = {
    "undecided4": CONSTANTS["TAIL_UNDECIDED4"],
    "undecided6": CONSTANTS["TAIL_UNDECIDED6"],
    "from_pod6": CONSTANTS["TAIL_FROM_POD6"],
    "to_pod6": CONSTANTS["TAIL_TO_POD6"],
    "from_network6": CONSTANTS["TAIL_FROM_NETWORK6"],
}
"""Their other parts, with their places in the array ``TAIL_CALLS``, which the kernel empties when nobody but
programs refers to it: so it is pinned, too. Those that take longest to verify come first."""

TAIL_CALLS = "tail_calls"

RINGS = ("drop_events", "flow_events")
"""Ring buffers: they belong to a program's life, not to the node's state."""


class BuildRequest(msgspec.Struct, frozen=True):
    """What to build and where to pin it."""

    text: str
    maps: str
    """Directory on bpffs for maps, shared by all programs of one layout."""
    programs: str
    """Directory on bpffs for this text's programs and rings; complete when it exists."""


def build(request: BuildRequest) -> None:
    """Compiles and pins; raises whatever BCC or the kernel say."""
    from bcc import BPF, lib

    Path(request.maps).mkdir(parents=True, exist_ok=True)
    partial = Path(request.programs + "-partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    module = BPF(text=request.text.encode(), cflags=["-O2", "-Wall"])
    _compare_layouts(module, lib)

    def load(name: str) -> int:
        return int(module.load_func(name.encode(), BPF.SCHED_CLS).fd)

    # The kernel's verifier takes longest by far, and checks several programs at the same time.
    with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as threads:
        loaded = dict(zip((*TAILS, *PROGRAMS), threads.map(load, (*TAILS, *PROGRAMS)), strict=True))
    for name in PROGRAMS:
        libbpf.pin(loaded[name], partial / name)
    for name in (*RINGS, TAIL_CALLS):
        libbpf.pin(int(lib.bpf_table_fd(module.module, name.encode())), partial / name)
    for name, place in TAILS.items():
        module[TAIL_CALLS.encode()][ctypes.c_int(place)] = ctypes.c_int(loaded[name])
    partial.rename(request.programs)


def _compare_layouts(module: object, lib: ctypes.CDLL) -> None:
    """BCC reopens a pin without comparing it with the declaration, so that is done here."""
    handle = module.module  # type: ignore[attr-defined]  # bcc has no types
    for function in ("name", "fd_id", "key_size_id", "leaf_size_id", "max_entries_id"):
        call = getattr(lib, f"bpf_table_{function}")
        call.argtypes = [ctypes.c_void_p, ctypes.c_size_t]
        call.restype = ctypes.c_char_p if function == "name" else ctypes.c_int
    for number in range(lib.bpf_num_tables(handle)):
        name = lib.bpf_table_name(handle, number).decode()
        if name in (*RINGS, TAIL_CALLS):
            continue
        info = libbpf.map_info(lib.bpf_table_fd_id(handle, number))
        declared = (
            lib.bpf_table_key_size_id(handle, number),
            lib.bpf_table_leaf_size_id(handle, number),
            lib.bpf_table_max_entries_id(handle, number),
        )
        if (info.key_size, info.value_size, info.max_entries) != declared:
            raise SystemExit(
                f"pinned map {name} has key, value, entries of {info.key_size}, {info.value_size}, "
                f"{info.max_entries}; the program declares {declared}: remove its directory on bpffs"
            )


def main() -> None:
    """Builds the request on standard input."""
    request = msgspec.json.decode(sys.stdin.buffer.read(), type=BuildRequest)
    try:
        build(request)
    except BaseException:
        shutil.rmtree(request.programs + "-partial", ignore_errors=True)
        raise


if __name__ == "__main__":
    main()
