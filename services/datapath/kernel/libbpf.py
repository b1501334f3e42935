"""The few libbpf calls that the long-lived process makes, through ctypes on ``libbpf.so.1``.

BCC stays in the compiling child process (its import alone costs 65 MB); everything afterwards is pins and
file descriptors. Fails with :class:`OSError` carrying the kernel's errno and the name of the call.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Callable
from functools import cache
from pathlib import Path

from services.datapath.kernel.errors import KernelUnusable

_CALLS: dict[str, tuple[object, ...]] = {
    "bpf_obj_get": (ctypes.c_char_p,),
    "bpf_obj_pin": (ctypes.c_int, ctypes.c_char_p),
    "bpf_obj_get_info_by_fd": (ctypes.c_int, ctypes.c_void_p, ctypes.POINTER(ctypes.c_uint32)),
    "bpf_map_lookup_elem": (ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p),
    "bpf_map_update_elem": (ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_uint64),
    "bpf_map_delete_elem": (ctypes.c_int, ctypes.c_void_p),
    "bpf_map_get_next_key": (ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p),
    "bpf_map_update_batch": (
        ctypes.c_int,
        ctypes.c_void_p,
        ctypes.c_void_p,
        ctypes.POINTER(ctypes.c_uint32),
        ctypes.c_void_p,
    ),
    "bpf_map_delete_batch": (
        ctypes.c_int,
        ctypes.c_void_p,
        ctypes.POINTER(ctypes.c_uint32),
        ctypes.c_void_p,
    ),
    "bpf_map_lookup_batch": (
        ctypes.c_int,
        ctypes.c_void_p,
        ctypes.c_void_p,
        ctypes.c_void_p,
        ctypes.c_void_p,
        ctypes.POINTER(ctypes.c_uint32),
        ctypes.c_void_p,
    ),
    "libbpf_num_possible_cpus": (),
    "ring_buffer__epoll_fd": (ctypes.c_void_p,),
    "ring_buffer__consume": (ctypes.c_void_p,),
}

RING_CALLBACK = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t)
"""``int callback(void *context, void *data, size_t size)`` of libbpf's ring buffer."""


@cache
def library() -> ctypes.CDLL:
    """libbpf with its prototypes set; raises :class:`KernelUnusable` where it is not installed."""
    try:
        loaded = ctypes.CDLL("libbpf.so.1", use_errno=True)
    except OSError as error:
        raise KernelUnusable("libbpf.so.1 is missing: install the package libbpf1") from error
    for name, arguments in _CALLS.items():
        function = getattr(loaded, name)
        function.argtypes = list(arguments)
        function.restype = ctypes.c_int
    loaded.ring_buffer__new.argtypes = [ctypes.c_int, RING_CALLBACK, ctypes.c_void_p, ctypes.c_void_p]
    loaded.ring_buffer__new.restype = ctypes.c_void_p
    loaded.ring_buffer__free.argtypes = [ctypes.c_void_p]
    loaded.ring_buffer__free.restype = None
    return loaded


def call(name: str, *arguments: object, missing_ok: bool = False) -> int:
    """Calls libbpf; negative results become :class:`OSError`, or -1 for ENOENT with ``missing_ok``."""
    function: Callable[..., int] = getattr(library(), name)
    result = function(*arguments)
    if result >= 0:
        return result
    code = -result if result != -1 else ctypes.get_errno() or errno.EPERM
    if missing_ok and code == errno.ENOENT:
        return -1
    raise OSError(code, f"{name}: {os.strerror(code)}")


def open_pin(path: Path) -> int:
    """A file descriptor for a pinned map or program; raises :class:`FileNotFoundError` without one."""
    try:
        return call("bpf_obj_get", os.fsencode(path))
    except OSError as error:
        raise OSError(error.errno, os.strerror(error.errno or 0), str(path)) from error


def pin(descriptor: int, path: Path) -> None:
    """Pins a map or program, so that it outlives this process."""
    call("bpf_obj_pin", descriptor, os.fsencode(path))


def possible_cpus() -> int:
    """How many values a key of a per-CPU map has."""
    return call("libbpf_num_possible_cpus")


class MapInfo(ctypes.Structure):
    """The beginning of ``struct bpf_map_info`` (uapi/linux/bpf.h)."""

    _fields_ = (
        ("type", ctypes.c_uint32),
        ("id", ctypes.c_uint32),
        ("key_size", ctypes.c_uint32),
        ("value_size", ctypes.c_uint32),
        ("max_entries", ctypes.c_uint32),
        ("map_flags", ctypes.c_uint32),
        ("name", ctypes.c_char * 16),
    )


def map_info(descriptor: int) -> MapInfo:
    """What the kernel says of a map."""
    info = MapInfo()
    size = ctypes.c_uint32(ctypes.sizeof(info))
    call("bpf_obj_get_info_by_fd", descriptor, ctypes.byref(info), ctypes.byref(size))
    return info
