"""Where the set-up reads and writes: one place, so that tests can point it at a directory of their own."""

import os
import sys
from pathlib import Path
from typing import NamedTuple


class Layout(NamedTuple):
    """The paths and facts of one machine and one working tree."""

    tree: Path
    """The repository; `.venv` and the lock files are in it."""
    system: str
    """ID and VERSION_ID of os-release, joined by a dash: `debian-12`."""
    machine: str
    """Machine name of the kernel: `x86_64`, `aarch64`."""
    release: str
    """Release of the running kernel, as `uname -r` says it."""
    filesystem: Path
    """Root of the file system that packages are installed to."""
    search_path: tuple[Path, ...]
    """Directories of programs."""

    @property
    def venv(self) -> Path:
        return self.tree / ".venv"

    @property
    def runtime_lock(self) -> Path:
        return self.tree / "requirements.lock"

    @property
    def development_lock(self) -> Path:
        return self.tree / "requirements-dev.lock"

    @property
    def modules(self) -> Path:
        """Directory in which BCC looks for the kernel's headers."""
        return self.filesystem / "lib/modules" / self.release

    @property
    def python(self) -> str:
        """Version of the interpreter that sets up, and that the virtual environment will use: `3.11`."""
        return f"{sys.version_info.major}.{sys.version_info.minor}"

    @property
    def log(self) -> Path:
        return self.filesystem / "var/log/stentor-setup.log"

    def find_program(self, name: str) -> Path | None:
        """The first executable of that name on the search path."""
        for directory in self.search_path:
            candidate = directory / name
            if os.access(candidate, os.X_OK):
                return candidate
        return None


def layout_of_this_machine(*, system: str) -> Layout:
    """The layout of the machine and tree that this module is part of. `system`: see `Layout.system`."""
    uname = os.uname()
    # root's PATH lacks the sbin directories where su was called without a dash
    directories = [*os.environ.get("PATH", "").split(os.pathsep), "/usr/sbin", "/sbin", "/usr/bin", "/bin"]
    return Layout(
        tree=Path(__file__).resolve().parents[2],
        system=system,
        machine=uname.machine,
        release=uname.release,
        filesystem=Path("/"),
        search_path=tuple(Path(directory) for directory in directories if directory),
    )
