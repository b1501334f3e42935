"""One pinned eBPF map as bytes to bytes, written in batches.

Owns the file descriptor. Updates are not atomic over several keys: the kernel applies a batch in order and
stops at the first failure, which is raised with the map's name. A full map is :class:`MapFull`.
"""

from __future__ import annotations

import ctypes
import errno
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import islice
from pathlib import Path

from services.datapath.kernel import libbpf
from services.datapath.kernel.errors import LayoutMismatch, MapFull

_BATCH = 4096
_LPM_TRIE = 11


class KernelMap:
    """A map with fixed key and value sizes (bytes); for per-CPU maps see :meth:`per_cpu`."""

    def __init__(self, name: str, *, path: Path, key_size: int, value_size: int) -> None:
        self.name = name
        self._fd = libbpf.open_pin(path)
        info = libbpf.map_info(self._fd)
        if (info.key_size, info.value_size) != (key_size, value_size):
            raise LayoutMismatch(
                f"map {path}: key and value have {info.key_size} and {info.value_size} bytes, "
                f"expected {key_size} and {value_size}; remove {path.parent} to start afresh"
            )
        self.key_size = key_size
        self.value_size = value_size
        self.capacity = int(info.max_entries)
        self.id = int(info.id)
        self._type = int(info.type)

    def close(self) -> None:
        """Gives the descriptor back; the map stays pinned."""
        os.close(self._fd)

    def get(self, key: bytes) -> bytes | None:
        """The value of a key, None without one."""
        value = ctypes.create_string_buffer(self.value_size)
        if libbpf.call("bpf_map_lookup_elem", self._fd, key, value, missing_ok=True) < 0:
            return None
        return value.raw

    def put(self, key: bytes, value: bytes) -> None:
        """Writes one entry."""
        try:
            libbpf.call("bpf_map_update_elem", self._fd, key, value, 0)
        except OSError as error:
            raise self._explain(error) from error

    def delete(self, key: bytes) -> None:
        """Removes one entry; one that is not there is fine."""
        libbpf.call("bpf_map_delete_elem", self._fd, key, missing_ok=True)

    def put_all(self, entries: Mapping[bytes, bytes]) -> Iterator[int]:
        """Writes entries in order, in batches; yields how many each has written, also before it raises."""
        items = iter(entries.items())
        while chunk := list(islice(items, _BATCH)):
            keys = b"".join(key for key, _ in chunk)
            values = b"".join(value for _, value in chunk)
            count = ctypes.c_uint32(len(chunk))
            try:
                libbpf.call("bpf_map_update_batch", self._fd, keys, values, ctypes.byref(count), None)
            except OSError as error:
                yield count.value
                raise self._explain(error) from error
            yield len(chunk)

    def delete_all(self, keys: Iterable[bytes]) -> None:
        """Removes entries; missing ones are fine."""
        for key in keys:
            self.delete(key)

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """All entries. Those that change meanwhile may be missed or come twice; callers compare again."""
        if self._type == _LPM_TRIE:
            yield from self._items_one_by_one()
            return
        count = self._batch_size()
        while True:
            try:
                yield from self._items_in_batches(count)
                return
            except _BatchTooSmall:
                count *= 2

    def keys(self) -> Iterator[bytes]:
        """All keys, one system call each."""
        key: bytes | None = None
        following = ctypes.create_string_buffer(self.key_size)
        while libbpf.call("bpf_map_get_next_key", self._fd, key, following, missing_ok=True) == 0:
            key = following.raw
            yield key

    def per_cpu(self, key: bytes) -> Sequence[bytes]:
        """The values of one key of a per-CPU map, one for each possible CPU."""
        cpus = libbpf.possible_cpus()
        stride = (self.value_size + 7) // 8 * 8
        values = ctypes.create_string_buffer(stride * cpus)
        libbpf.call("bpf_map_lookup_elem", self._fd, key, values)
        return [values.raw[cpu * stride : cpu * stride + self.value_size] for cpu in range(cpus)]

    def _batch_size(self) -> int:
        return min(_BATCH, self.capacity)

    def _items_one_by_one(self) -> Iterator[tuple[bytes, bytes]]:
        for key in self.keys():
            value = self.get(key)
            if value is not None:
                yield key, value

    def _items_in_batches(self, size: int) -> Iterator[tuple[bytes, bytes]]:
        # The cursor of a hash is a bucket number, of an array its index: 4 bytes, in room for more.
        cursor = ctypes.create_string_buffer(max(self.key_size, 8))
        keys = ctypes.create_string_buffer(self.key_size * size)
        values = ctypes.create_string_buffer(self.value_size * size)
        start: ctypes.Array[ctypes.c_char] | None = None
        while True:
            count = ctypes.c_uint32(size)
            last = False
            try:
                libbpf.call(
                    "bpf_map_lookup_batch", self._fd, start, cursor, keys, values, ctypes.byref(count), None
                )
            except OSError as error:
                if error.errno == errno.ENOSPC:
                    raise _BatchTooSmall from error
                if error.errno != errno.ENOENT:
                    raise
                last = True
            all_keys, all_values = keys.raw, values.raw
            for index in range(count.value):
                yield (
                    all_keys[index * self.key_size : (index + 1) * self.key_size],
                    all_values[index * self.value_size : (index + 1) * self.value_size],
                )
            if last:
                return
            start = cursor

    def _explain(self, error: OSError) -> Exception:
        if error.errno in (errno.E2BIG, errno.ENOSPC):
            return MapFull(
                f"map {self.name} is full at {self.capacity} entries; restart with a larger --map-size"
            )
        return OSError(error.errno, f"map {self.name}: {error.strerror}")


class _BatchTooSmall(Exception):
    """A hash bucket holds more entries than a batch has room for."""
