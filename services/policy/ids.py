"""Content hashes: the ids of selectors, classes and sets.

An id is the first 64 bits of the SHA-256 of canonical JSON, as 16 hexadecimal digits. Equal contents have
equal ids in every replica and version; tables that are keyed by id compare the contents and raise
:class:`~services.policy.errors.HashCollision` when they differ.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from typing import NewType

import msgspec

from shared.contract.base import ClassId

Element = NewType("Element", str)
"""Part of a signature: the id of a peer selector, or "was in a class" for one whose selectors are unknown."""

Signature = frozenset[Element]
"""All peer selectors that match a peer. Equal signatures are one peer class."""

NO_SELECTOR: Signature = frozenset()

RESERVED_IDS = frozenset(("0" * 16, "0" * 15 + "1"))
"""The kernel's ``not ready`` and ``open`` sets."""


def content_digest(*content: object) -> str:
    """SHA-256 of a content made of strings, numbers, None and tuples; the first says what it is."""
    return hashlib.sha256(msgspec.json.encode(content)).hexdigest()


def content_id(*content: object) -> str:
    """The id of a content: the first 64 bits of its digest."""
    return content_digest(*content)[:16]


def class_id(signature: Iterable[Element]) -> ClassId:
    """The id of the class of all peers with this signature."""
    return ClassId(content_id("class", tuple(sorted(signature))))


def was(peer_class: ClassId, *, sequence: int) -> Element:
    """The element "was published in this class, as of this sequence number of the stream"."""
    return Element(f"was:{peer_class}:{sequence}")
