"""Files of the state directory: a crash at any moment leaves the old or the new content, whole.

The directory is meant for a memory file system (``/run``): its content means nothing after the node
restarts, and syncing costs nothing there. Raises :class:`StateError` naming the file.
"""

from __future__ import annotations

import os
from pathlib import Path

from services.datapath.errors import StateError


def make_directory(path: Path) -> None:
    """Make a directory, with its parents, that only the datapath's user can enter."""
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
    except OSError as error:
        raise StateError(f"{path}: cannot make the directory: {error.strerror}") from error


def write(path: Path, data: bytes) -> None:
    """Replace the file's content, durably."""
    temporary = path.with_name(f".{path.name}.new")
    try:
        with temporary.open("wb") as file:
            os.fchmod(file.fileno(), 0o600)
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        temporary.rename(path)
        _sync_directory(path.parent)
    except OSError as error:
        raise StateError(f"{path}: cannot write: {error.strerror}") from error


def remove(path: Path) -> None:
    """Remove the file if it exists, durably."""
    try:
        path.unlink(missing_ok=True)
        _sync_directory(path.parent)
    except OSError as error:
        raise StateError(f"{path}: cannot remove: {error.strerror}") from error


def set_aside(path: Path) -> Path:
    """Keep an unreadable file for people to look at, under a name that is not read again."""
    aside = path.with_name(path.name + ".broken")
    try:
        path.rename(aside)
    except OSError as error:
        raise StateError(f"{path}: cannot set aside: {error.strerror}") from error
    return aside


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
