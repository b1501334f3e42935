"""JSON patch (RFC 6902) and JSON merge patch (RFC 7386).

Both return a new document and leave their arguments as they were. A patch that does not apply raises: a
malformed one ``BadRequest``, one whose paths or tests do not fit the object ``PatchMismatch``, which the
caller reports as 422 with the object's name.
"""

from __future__ import annotations

import copy
from typing import Any

from .errors import ApiServerError, BadRequest


class PatchMismatch(ApiServerError):
    """The patch is well-formed but does not fit the object; the message names the operation and path."""


def merge_patch(target: Any, patch: Any) -> Any:
    """``target`` with ``patch`` merged in: objects merge, null deletes, everything else replaces."""
    if not isinstance(patch, dict):
        return copy.deepcopy(patch)
    merged = dict(target) if isinstance(target, dict) else {}
    for key, value in patch.items():
        if value is None:
            merged.pop(key, None)
        else:
            merged[key] = merge_patch(merged.get(key), value)
    return merged


def json_patch(target: Any, operations: Any) -> Any:
    """``target`` after the operations, in order; all of them or, by exception, none."""
    if not isinstance(operations, list) or not all(isinstance(step, dict) for step in operations):
        raise BadRequest("a JSON patch is a list of operations")
    document = copy.deepcopy(target)
    for step in operations:
        document = _apply(document, step)
    return document


def _apply(document: Any, step: dict[str, Any]) -> Any:
    kind = step.get("op")
    path = _pointer(step, "path")
    match kind:
        case "add":
            return _add(document, path, _value(step))
        case "remove":
            return _remove(document, path)
        case "replace":
            _find(document, path)
            return _add(_remove(document, path) if path else document, path, _value(step))
        case "move":
            source = _pointer(step, "from")
            if path[: len(source)] == source and path != source:
                raise PatchMismatch(f"move {_shown(source)}: into its own child {_shown(path)}")
            moved = _find(document, source)
            return _add(_remove(document, source), path, moved)
        case "copy":
            return _add(document, path, copy.deepcopy(_find(document, _pointer(step, "from"))))
        case "test":
            if not _same(_find(document, path), _value(step)):
                raise PatchMismatch(f"test {_shown(path)}: the value is another one")
            return document
    raise BadRequest(f"JSON patch operation {kind!r} is not add, remove, replace, move, copy or test")


def _same(left: Any, right: Any) -> bool:
    # Python counts True equal to 1; JSON does not.
    return bool(left == right) and isinstance(left, bool) == isinstance(right, bool)


def _value(step: dict[str, Any]) -> Any:
    if "value" not in step:
        raise BadRequest(f"JSON patch operation {step.get('op')!r} without value")
    return copy.deepcopy(step["value"])


def _pointer(step: dict[str, Any], member: str) -> list[str]:
    pointer = step.get(member)
    if not isinstance(pointer, str) or (pointer and not pointer.startswith("/")):
        raise BadRequest(f"JSON patch member {member!r} is not a JSON pointer: {pointer!r}")
    return [part.replace("~1", "/").replace("~0", "~") for part in pointer.split("/")[1:]]


def _shown(path: list[str]) -> str:
    return "/" + "/".join(path)


def _index(container: list[Any], step: str, path: list[str], *, end: int) -> int:
    if not step.isdecimal() or (step != "0" and step.startswith("0")) or int(step) >= end:
        raise PatchMismatch(f"{_shown(path)}: no element {step!r} in a list of {len(container)}")
    return int(step)


def _find(document: Any, path: list[str]) -> Any:
    for step in path:
        if isinstance(document, dict) and step in document:
            document = document[step]
        elif isinstance(document, list):
            document = document[_index(document, step, path, end=len(document))]
        else:
            raise PatchMismatch(f"{_shown(path)}: no such path")
    return document


def _add(document: Any, path: list[str], value: Any) -> Any:
    if not path:
        return value
    parent, step = _find(document, path[:-1]), path[-1]
    if isinstance(parent, dict):
        parent[step] = value
    elif isinstance(parent, list):
        last = len(parent)
        parent.insert(last if step == "-" else _index(parent, step, path, end=last + 1), value)
    else:
        raise PatchMismatch(f"{_shown(path)}: its parent is neither an object nor a list")
    return document


def _remove(document: Any, path: list[str]) -> Any:
    if not path:
        raise PatchMismatch("the whole object cannot be removed by patch")
    _find(document, path)
    parent, step = _find(document, path[:-1]), path[-1]
    del parent[int(step) if isinstance(parent, list) else step]
    return document
