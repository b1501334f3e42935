"""Builds the virtual environment `.venv` from the lock files.

It stands on the system's Python with the system's site packages, because BCC's Python half exists only as a
system package. It is built beside the old one, which is then replaced by renaming: a failure leaves the old
one as it was.
"""

import re
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path

from deploy.bootstrap import stamps
from deploy.bootstrap.layout import Layout
from deploy.bootstrap.progress import Progress
from deploy.bootstrap.run import run_logged

SYSTEM_PYTHON = "/usr/bin/python3"


def build(layout: Layout, *, locks: Sequence[Path], progress: Progress) -> None:
    """Make `.venv` hold exactly what `locks` ask for, every file checked against its hash.

    Raises `StepFailedError` with pip's reasons; `.venv` is then unchanged.
    """
    new, old = layout.tree / ".venv.new", layout.tree / ".venv.old"
    for leftover in (new, old):
        if leftover.exists():
            shutil.rmtree(leftover)
    try:
        run_logged(
            [SYSTEM_PYTHON, "-m", "venv", "--system-site-packages", str(new)],
            step="making the virtual environment",
            log=layout.log,
        )
        requirements = [argument for lock in locks for argument in ("--requirement", str(lock))]
        total = len({name for lock in locks for name in locked_names(lock)})
        run_logged(
            [
                *(str(new / "bin/python"), "-m", "pip", "install"),
                *("--require-hashes", "--no-deps", "--only-binary", ":all:", "--ignore-installed"),
                *("--disable-pip-version-check", "--no-input", "--progress-bar", "off"),
                *requirements,
            ],
            step="installing the Python packages",
            log=layout.log,
            follow=_pip_reader(progress.detail, total=total),
        )
        _relocate(new, to=layout.venv)
        for lock in locks:
            stamps.write(layout, lock, venv=new)
        if layout.venv.exists():
            layout.venv.rename(old)
        new.rename(layout.venv)
    finally:
        shutil.rmtree(new, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def locked_names(lock: Path) -> list[str]:
    """Names of the packages in a lock file."""
    return re.findall(r"^([A-Za-z0-9._-]+)==", lock.read_text(), flags=re.MULTILINE)


def _pip_reader(show: Callable[[str], None], *, total: int) -> Callable[[str], bool]:
    collected = 0

    def follow(line: str) -> bool:
        nonlocal collected
        if line.startswith("Collecting "):
            collected += 1
            show(f"{collected}/{total}  {line.split()[1]}")
        elif line.startswith("Installing collected"):
            show(f"unpacking {total} packages")
        return False

    return follow


def _relocate(venv: Path, *, to: Path) -> None:
    """Have the environment's programs name the place it is going to, not the one it was built in."""
    here, there = str(venv).encode(), str(to).encode()
    for path in [venv / "pyvenv.cfg", *(venv / "bin").iterdir()]:
        if path.is_symlink() or not path.is_file():
            continue
        content = path.read_bytes()
        # programs in machine code start with ELF's magic number and hold no paths of ours
        if not content.startswith(b"\x7fELF") and here in content:
            path.write_bytes(content.replace(here, there))
