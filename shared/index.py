"""Indexes: sets by key that hold no empty set, so that what is gone leaves nothing behind."""

from __future__ import annotations

from typing import TypeVar

K = TypeVar("K")
V = TypeVar("V")


def discard(index: dict[K, set[V]], key: K, value: V) -> None:
    """Take ``value`` from the set at ``key``, and the set when it was the last; neither need be there."""
    values = index.get(key)
    if values is not None:
        values.discard(value)
        if not values:
            del index[key]
