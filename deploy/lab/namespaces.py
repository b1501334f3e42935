"""Network namespaces by name: made, entered for one call, removed.

A thread may live in another namespace than its process, so work inside a namespace is done by a thread that
enters it, runs one function and ends. A socket belongs to the namespace of the thread that made it, for ever.

Making one that exists and removing one that does not are no errors.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import socket
import threading
from collections.abc import Callable
from concurrent.futures import Future
from pathlib import Path
from typing import TypeVar

from pyroute2 import netns

from deploy.lab.errors import MachineError
from deploy.lab.names import NETNS_ROOT, namespace_path

T = TypeVar("T")

CLONE_NEWNET = 0x40000000
"""linux/sched.h"""

_libc = ctypes.CDLL(None, use_errno=True)


def _in_thread(job: Callable[[], T]) -> T:
    outcome: Future[T] = Future()

    def body() -> None:
        try:
            outcome.set_result(job())
        except BaseException as error:  # handed to the caller's thread
            outcome.set_exception(error)

    thread = threading.Thread(target=body, name="in-namespace", daemon=True)
    thread.start()
    thread.join()
    return outcome.result()


def run_in(namespace: str, job: Callable[[], T]) -> T:
    """The value of ``job()``, called inside the namespace; blocks until it is done."""

    def body() -> T:
        with namespace_path(namespace).open("rb") as handle:
            netns.setns(handle.fileno())
        return job()

    return _in_thread(body)


def socket_in(namespace: str | None, *, family: int, kind: int = socket.SOCK_STREAM) -> socket.socket:
    """A non-blocking socket of the namespace, of this process's own one when it is None."""

    def make() -> socket.socket:
        made = socket.socket(family, kind)
        made.setblocking(False)
        return made

    return make() if namespace is None else run_in(namespace, make)


def create(namespace: str) -> bool:
    """Makes the namespace; False when it was there."""
    path = namespace_path(namespace)
    if path.exists():
        if _is_bound(path):
            return False
        # Left by a maker that died between the file and the mount.
        path.unlink()

    def body() -> None:
        if _libc.unshare(CLONE_NEWNET) != 0:
            number = ctypes.get_errno()
            raise MachineError(f"network namespace {namespace}: {os.strerror(number)}; run as root")
        netns.attach(namespace, f"self/task/{threading.get_native_id()}")

    _in_thread(body)
    return True


def remove(namespace: str) -> None:
    """Unbinds the namespace; with its last process and socket the kernel frees it and its interfaces."""
    with contextlib.suppress(FileNotFoundError):
        netns.remove(namespace)


def names(prefix: str) -> list[str]:
    """The named namespaces that begin with ``prefix``."""
    with contextlib.suppress(FileNotFoundError):
        return sorted(path.name for path in NETNS_ROOT.iterdir() if path.name.startswith(prefix))
    return []


def inode(namespace: str) -> tuple[int, int] | None:
    """Device and inode that identify the namespace, None when it is not bound."""
    try:
        status = namespace_path(namespace).stat()
    except FileNotFoundError:
        return None
    own = Path("/proc/self/ns/net").stat()
    return (status.st_dev, status.st_ino) if status.st_dev == own.st_dev else None


def write_sysctl(namespace: str, values: dict[str, str]) -> None:
    """Sets ``net.*`` values in the namespace; a name that this kernel does not have is an error."""

    def body() -> None:
        for name, value in values.items():
            path = Path("/proc/sys") / name.replace(".", "/")
            try:
                path.write_text(value)
            except OSError as error:
                if error.errno == errno.ENOENT and name.startswith("net.ipv6."):
                    continue  # a kernel without IPv6 has nothing to switch off
                raise MachineError(f"cannot set {name}={value} in {namespace}: {error.strerror}") from error

    run_in(namespace, body)


def _is_bound(path: Path) -> bool:
    return path.stat().st_dev == Path("/proc/self/ns/net").stat().st_dev
