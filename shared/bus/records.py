"""What a bucket's readers get, and what a bucket's stream says of itself."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Generic

import msgspec

from shared.bus.errors import EntryError
from shared.contract.base import M

OPERATION = "KV-Operation"
"""The header that makes a message a deletion marker."""

DELETED = frozenset({"DEL", "PURGE"})

MARKERS_KEPT_SECONDS = 3600.0
"""Age at which deletion markers may go: readers that were away for half of it take a new snapshot."""


@dataclass(frozen=True, slots=True)
class Entry(Generic[M]):
    """What a key holds. ``value`` is None when it was deleted; ``revision`` is the stream's sequence."""

    key: str
    value: M | None
    revision: int


@dataclass(frozen=True, slots=True)
class Batch(Generic[M]):
    """What :meth:`BucketStore.follow` yields."""

    snapshot: bool
    """The entries are all live keys: forget every key that is neither in them nor in ``errors``."""
    entries: tuple[Entry[M], ...]
    revision: int
    """Stream sequence up to which the state is known."""
    caught_up: bool
    """Nothing was pending on the server when this batch was made."""
    errors: tuple[EntryError, ...] = ()
    """Entries that could not be decoded, by key: keep the last good value."""

    def merge_into(self, values: dict[str, M]) -> None:
        """Brings ``values``, by key, up to what the batch says."""
        if self.snapshot:
            for key in values.keys() - {error.key for error in self.errors}:
                del values[key]
        for entry in self.entries:
            if entry.value is None:
                values.pop(entry.key, None)
            else:
                values[entry.key] = entry.value


class StreamState(msgspec.Struct, frozen=True):
    """The ``state`` of a stream."""

    messages: int = 0
    last_seq: int = 0


class StreamInfo(msgspec.Struct, frozen=True):
    """The parts of ``STREAM.INFO`` that are of use here."""

    created: str
    state: StreamState


def is_marker(headers: Mapping[str, str] | None) -> bool:
    """The message with these headers marks a deletion."""
    return headers is not None and headers.get(OPERATION) in DELETED
