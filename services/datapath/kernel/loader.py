"""Makes sure that the node's programs and maps are pinned, compiling only when their text is new.

Layout on bpffs, below the datapath's own directory::

    maps-<layout>/<map>            state of the node; lives as long as the layout does
    programs-<text>/<program>      one directory for each program text; complete once it exists

A restart with the same text opens pins and compiles nothing, so the kernel's state and attached programs go
on unchanged. After an upgrade the new programs share the maps if the layout is the same. Directories of
other texts and layouts are removed only after the new programs are attached (:func:`remove_stale`).
"""

from __future__ import annotations

import asyncio
import shutil
import sys
from dataclasses import dataclass
from pathlib import Path

import msgspec

from services.datapath.kernel import libbpf
from services.datapath.kernel.build import PROGRAMS, BuildRequest
from services.datapath.kernel.errors import BuildFailed, KernelUnusable
from services.datapath.kernel.source import Sizes, layout_hash, program_text, text_hash

_BUILD_SECONDS = 120


@dataclass(frozen=True)
class Loaded:
    """Open descriptors of the node's programs, and where its maps are."""

    maps: Path
    programs: Path
    program_fds: dict[str, int]
    compiled: bool
    """Whether this start had to compile."""


async def load(*, bpffs: Path, sizes: Sizes) -> Loaded:
    """Opens the pinned programs, compiling them first when their text is new.

    Raises :class:`KernelUnusable` when ``bpffs`` is not on a bpf file system, :class:`BuildFailed` with the
    compiler's output when the programs cannot be made.
    """
    if not _on_bpffs(bpffs):
        raise KernelUnusable(f"{bpffs} is not on a bpf file system: mount -t bpf bpf /sys/fs/bpf")
    bpffs.mkdir(parents=True, exist_ok=True)
    maps = bpffs / f"maps-{layout_hash(sizes)}"
    text = program_text(pin_directory=maps, sizes=sizes)
    programs = bpffs / f"programs-{text_hash(text)}"
    compiled = not (maps.is_dir() and programs.is_dir())
    if compiled:
        shutil.rmtree(programs, ignore_errors=True)
        await _compile(BuildRequest(text=text, maps=str(maps), programs=str(programs)))
    return Loaded(
        maps=maps,
        programs=programs,
        program_fds={name: libbpf.open_pin(programs / name) for name in PROGRAMS},
        compiled=compiled,
    )


def open_ring(loaded: Loaded, name: str) -> int:
    """A descriptor of one of the program's event rings."""
    return libbpf.open_pin(loaded.programs / name)


def remove_stale(loaded: Loaded) -> None:
    """Removes the pins of other program texts and layouts; call it after the new programs are attached."""
    for entry in loaded.programs.parent.iterdir():
        if entry.name.startswith(("maps-", "programs-")) and entry not in (loaded.maps, loaded.programs):
            shutil.rmtree(entry, ignore_errors=True)


def _on_bpffs(path: Path) -> bool:
    mounts = (line.split() for line in Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines())
    return any(fields[2] == "bpf" and path.is_relative_to(fields[1]) for fields in mounts)


async def _compile(request: BuildRequest) -> None:
    child = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "services.datapath.kernel.build",
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
        cwd=Path(__file__).resolve().parents[3],
    )
    try:
        async with asyncio.timeout(_BUILD_SECONDS):
            _, output = await child.communicate(msgspec.json.encode(request))
    except TimeoutError as error:
        raise BuildFailed(f"compiling the datapath took more than {_BUILD_SECONDS} s") from error
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
    if child.returncode:
        raise BuildFailed(f"the datapath's programs cannot be built:\n{output.decode(errors='replace')}")
