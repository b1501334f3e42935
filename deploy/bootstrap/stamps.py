"""Stamps: the proof, inside `.venv`, that it holds what a lock file asks for.

A stamp is written last, once the installation is complete, and holds a hash of the lock file and of all that
an installation from it depends on. An environment without its stamp is not used.
"""

import hashlib
from pathlib import Path

from deploy.bootstrap.layout import Layout


def _fingerprint(layout: Layout, lock: Path) -> str:
    digest = hashlib.sha256(lock.read_bytes())
    digest.update(f"{layout.python} {layout.machine} {layout.system}".encode())
    return digest.hexdigest()


def _stamp(venv: Path, lock: Path) -> Path:
    return venv / f"{lock.name}.stamp"


def write(layout: Layout, lock: Path, *, venv: Path) -> None:
    """Record that `venv` now holds what `lock` asks for."""
    _stamp(venv, lock).write_text(_fingerprint(layout, lock))


def was_installed(layout: Layout, lock: Path) -> bool:
    """Whether `.venv` was made from `lock`, perhaps from an older state of it."""
    return _stamp(layout.venv, lock).is_file()


def is_current(layout: Layout, lock: Path) -> bool:
    """Whether `.venv` holds what `lock` asks for now, for this system and interpreter."""
    return was_installed(layout, lock) and _stamp(layout.venv, lock).read_text() == _fingerprint(layout, lock)
