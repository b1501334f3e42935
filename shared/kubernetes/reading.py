"""From decoded JSON objects to the few fields that a service needs.

A service declares those fields as narrow structs; an object that does not fit is refused by name and JSON
path, so that the service can keep its last good version and go on with the others.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeVar

import msgspec

from shared.kubernetes.errors import ObjectRefused

T = TypeVar("T")
V = TypeVar("V")


class KubernetesStruct(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """Fields of an object in camel case, others ignored; with ``| None``, as absent and null are one."""


def read_object(
    data: Mapping[str, Any], *, as_type: type[T], make: Callable[[T], V], kind: str, namespace: str, name: str
) -> V:
    """What ``make`` makes of the object; raises :class:`ObjectRefused`, also for a ValueError of ``make``."""
    try:
        return make(msgspec.convert(data, type=as_type))
    except (msgspec.ValidationError, ValueError) as error:
        raise ObjectRefused(kind=kind, namespace=namespace, name=name, reason=str(error)) from error
