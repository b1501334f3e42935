"""Strategic merge patch: a merge patch that merges some lists by key instead of replacing them.

Which lists merge, and by which key, is a property of the Kubernetes Go types (struct tags ``patchStrategy``
and ``patchMergeKey``); the tables below state it for the served built-in kinds. A list that is not in a table
is replaced whole. Directives: ``$patch: delete|replace|merge``, ``$setElementOrder/<list>``,
``$deleteFromPrimitiveList/<list>`` and ``$retainKeys``. Server-side apply uses the same merge, without
directives.
"""

from __future__ import annotations

import copy
from typing import Any

import msgspec

from .errors import BadRequest


class Field(msgspec.Struct, frozen=True):
    """How one field merges: ``type`` names its table; ``key`` is the merge key of a list of objects, and
    ``primitives`` says that it is a list of plain values that merges as a set."""

    type: str = ""
    key: str = ""
    primitives: bool = False


_CONTAINERS = Field("Container", "name")
_CONDITIONS = Field(key="type")

_TYPES: dict[str, dict[str, Field]] = {
    "": {},
    "Object": {"metadata": Field("Metadata")},
    "Metadata": {"finalizers": Field(primitives=True), "ownerReferences": Field(key="uid")},
    "Pod": {"metadata": Field("Metadata"), "spec": Field("PodSpec"), "status": Field("PodStatus")},
    "PodTemplate": {"metadata": Field("Metadata"), "spec": Field("PodSpec")},
    "PodSpec": {
        "containers": _CONTAINERS,
        "initContainers": _CONTAINERS,
        "ephemeralContainers": _CONTAINERS,
        "volumes": Field(key="name"),
        "imagePullSecrets": Field(key="name"),
        "hostAliases": Field(key="ip"),
        "topologySpreadConstraints": Field(key="topologyKey"),
        "resourceClaims": Field(key="name"),
        "schedulingGates": Field(key="name"),
    },
    "Container": {
        "env": Field(key="name"),
        "ports": Field(key="containerPort"),
        "volumeMounts": Field(key="mountPath"),
        "volumeDevices": Field(key="devicePath"),
    },
    "PodStatus": {
        "conditions": _CONDITIONS,
        "podIPs": Field(key="ip"),
        "hostIPs": Field(key="ip"),
    },
    "Workload": {
        "metadata": Field("Metadata"),
        "spec": Field("WorkloadSpec"),
        "status": Field("Conditions"),
    },
    "WorkloadSpec": {"template": Field("PodTemplate")},
    "Conditions": {"conditions": _CONDITIONS},
    "Service": {
        "metadata": Field("Metadata"),
        "spec": Field("ServiceSpec"),
        "status": Field("Conditions"),
    },
    "ServiceSpec": {"ports": Field(key="port")},
    "Node": {"metadata": Field("Metadata"), "spec": Field("NodeSpec"), "status": Field("NodeStatus")},
    "NodeSpec": {"podCIDRs": Field(primitives=True)},
    "NodeStatus": {"conditions": _CONDITIONS, "addresses": Field(key="type")},
    "Namespace": {"metadata": Field("Metadata"), "status": Field("Conditions")},
    "ServiceAccount": {"metadata": Field("Metadata"), "secrets": Field(key="name")},
}
_TYPES["Deployment"] = _TYPES["ReplicaSet"] = _TYPES["Workload"]


def strategic_merge(target: dict[str, Any], patch: dict[str, Any], *, kind: str) -> dict[str, Any]:
    """``target`` (an object of ``kind``) with ``patch`` applied; neither argument is changed."""
    return _merge_object(target, patch, kind if kind in _TYPES else "Object", "")


def _merge_object(target: Any, patch: dict[str, Any], type_name: str, where: str) -> dict[str, Any]:
    directive = patch.get("$patch")
    if directive == "replace":
        return {key: _plain(value) for key, value in patch.items() if key != "$patch"}
    if directive == "delete":
        return {}
    if directive not in (None, "merge"):
        raise BadRequest(f"{where or 'patch'}: $patch {directive!r} is not replace, delete or merge")
    merged = dict(target) if isinstance(target, dict) else {}
    if "$retainKeys" in patch:
        retained = patch["$retainKeys"]
        merged = {key: value for key, value in merged.items() if key in retained}
    fields = _TYPES[type_name]
    for key, value in patch.items():
        if key in ("$patch", "$retainKeys"):
            continue
        if key.startswith("$deleteFromPrimitiveList/"):
            name = key.partition("/")[2]
            merged[name] = [item for item in merged.get(name) or [] if item not in value]
        elif not key.startswith("$setElementOrder/"):
            if value is None:
                merged.pop(key, None)
            else:
                merged[key] = _merge_value(merged.get(key), value, fields.get(key, Field()), f"{where}.{key}")
    for key, order in patch.items():
        if key.startswith("$setElementOrder/"):
            name = key.partition("/")[2]
            if isinstance(merged.get(name), list):
                merged[name] = _ordered(merged[name], order, fields.get(name, Field()))
    return merged


def _merge_value(target: Any, patch: Any, field: Field, where: str) -> Any:
    if isinstance(patch, dict):
        return _merge_object(target, patch, field.type, where)
    if not isinstance(patch, list):
        return patch
    if field.primitives:
        kept = list(target or [])
        return kept + [item for item in patch if item not in kept]
    if field.key:
        return _merge_list(target or [], patch, field, where)
    return _plain(patch)


def _merge_list(target: list[Any], patch: list[Any], field: Field, where: str) -> list[Any]:
    if {"$patch": "replace"} in patch:
        return [_plain(item) for item in patch if item != {"$patch": "replace"}]
    merged = list(target)
    for item in patch:
        if not isinstance(item, dict):
            raise BadRequest(f"{where}: the elements of this list are objects, not {item!r}")
        if item.get(field.key) is None:
            raise BadRequest(f"{where}: an element has no merge key {field.key!r}")
        same = [index for index, old in enumerate(merged) if _key_of(old, field) == item[field.key]]
        if item.get("$patch") == "delete":
            merged = [old for index, old in enumerate(merged) if index not in same]
        elif same:
            merged[same[0]] = _merge_object(merged[same[0]], item, field.type, f"{where}[{item[field.key]}]")
        else:
            merged.append(_merge_object({}, item, field.type, f"{where}[{item[field.key]}]"))
    return merged


def _key_of(item: Any, field: Field) -> Any:
    return item.get(field.key) if isinstance(item, dict) and field.key else item


def _ordered(items: list[Any], order: list[Any], field: Field) -> list[Any]:
    """``items`` in the patch's order; those the patch does not know stay after the one they followed."""
    rank = {repr(_key_of(item, field)): index for index, item in enumerate(order)}
    known = iter(
        sorted((i for i in items if _rank(i, rank, field) >= 0), key=lambda i: _rank(i, rank, field))
    )
    return [next(known) if _rank(item, rank, field) >= 0 else item for item in items]


def _rank(item: Any, rank: dict[str, int], field: Field) -> int:
    return rank.get(repr(_key_of(item, field)), -1)


def _plain(value: Any) -> Any:
    """A copy without directives, for a part of the patch that becomes part of the object."""
    if isinstance(value, dict):
        return {
            key: _plain(inner)
            for key, inner in value.items()
            if not (
                key == "$patch"
                or key == "$retainKeys"
                or key.startswith(("$setElementOrder/", "$deleteFrom"))
            )
        }
    if isinstance(value, list):
        return [_plain(inner) for inner in value if inner != {"$patch": "replace"}]
    return copy.copy(value)
