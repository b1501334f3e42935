"""Label and field selectors as lists, watches and collection deletes take them.

Grammar: Kubernetes "Labels and Selectors" (``=``, ``==``, ``!=``, ``in``, ``notin``, ``key``, ``!key``,
``gt``/``lt`` as ``>`` and ``<``) and "Field Selectors" (``=``, ``==``, ``!=`` on a fixed set of fields per
resource).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from .errors import BadRequest
from .resources import ResourceType

Predicate: TypeAlias = Callable[[Mapping[str, Any]], bool]

_SET = re.compile(r"^(?P<key>[^\s!=<>(),]+)\s+(?P<op>in|notin)\s*\((?P<values>[^()]*)\)$")
_COMPARE = re.compile(r"^(?P<key>[^\s!=<>(),]+)\s*(?P<op>==|=|!=|>|<)\s*(?P<value>[^\s!=<>(),]*)$")
_EXISTS = re.compile(r"^(?P<not>!?)\s*(?P<key>[^\s!=<>(),]+)$")


_BOOLEAN_FIELDS = frozenset({("spec", "unschedulable"), ("spec", "hostNetwork")})


def everything(_object: Mapping[str, Any]) -> bool:
    """The predicate of an absent selector."""
    return True


def label_predicate(selector: str) -> Predicate:
    """Whether an object's labels satisfy ``selector``; ``BadRequest`` when it cannot be parsed."""
    tests = [_label_test(part.strip(), selector) for part in _split(selector) if part.strip()]
    if not tests:
        return everything

    def matches(candidate: Mapping[str, Any]) -> bool:
        labels = candidate["metadata"].get("labels") or {}
        return all(test(labels) for test in tests)

    return matches


def field_predicate(selector: str, *, resource: ResourceType) -> Predicate:
    """Whether an object's fields satisfy ``selector``; ``BadRequest`` for fields the resource does not
    index."""
    known = ("metadata.name", "metadata.namespace", *resource.fields)
    tests: list[tuple[tuple[str, ...], bool, str]] = []
    for part in selector.split(","):
        if not part:
            continue
        found = re.match(r"^([^=!]+)(==|=|!=)(.*)$", part)
        if found is None:
            raise BadRequest(f"invalid field selector {selector!r}: {part!r} is not <field>=<value>")
        path, operator, value = found.groups()
        if path not in known:
            raise BadRequest(
                f"field label not supported: {path} ({resource.plural} has {', '.join(sorted(known))})"
            )
        tests.append((tuple(path.split(".")), operator != "!=", value))
    if not tests:
        return everything
    return lambda candidate: all((_field(candidate, path) == value) is equal for path, equal, value in tests)


def both(first: Predicate, second: Predicate) -> Predicate:
    """The conjunction of two predicates."""
    if first is everything:
        return second
    if second is everything:
        return first
    return lambda candidate: first(candidate) and second(candidate)


def _split(selector: str) -> list[str]:
    """Split at the commas that are not between parentheses."""
    parts, depth, start = [], 0, 0
    for index, character in enumerate(selector):
        depth += (character == "(") - (character == ")")
        if character == "," and depth == 0:
            parts.append(selector[start:index])
            start = index + 1
    return [*parts, selector[start:]]


def _label_test(part: str, selector: str) -> Callable[[Mapping[str, str]], bool]:
    if found := _SET.match(part):
        key, values = found["key"], {value.strip() for value in found["values"].split(",")}
        if found["op"] == "in":
            return lambda labels: labels.get(key) in values
        return lambda labels: labels.get(key) not in values
    if found := _COMPARE.match(part):
        key, operator, value = found["key"], found["op"], found["value"]
        if operator in {"=", "=="}:
            return lambda labels: labels.get(key) == value
        if operator == "!=":
            return lambda labels: labels.get(key) != value
        return _integer_test(key, operator, value, selector)
    if found := _EXISTS.match(part):
        key, absent = found["key"], bool(found["not"])
        return lambda labels: (key in labels) is not absent
    raise BadRequest(f"unable to parse label selector {selector!r}: {part!r} is not a requirement")


def _integer_test(key: str, operator: str, value: str, selector: str) -> Callable[[Mapping[str, str]], bool]:
    if not re.fullmatch(r"-?\d+", value):
        raise BadRequest(f"unable to parse label selector {selector!r}: {value!r} is not an integer")
    bound = int(value)

    def test(labels: Mapping[str, str]) -> bool:
        label = labels.get(key, "")
        if not re.fullmatch(r"-?\d+", label):
            return False
        return int(label) > bound if operator == ">" else int(label) < bound

    return test


def _field(candidate: Mapping[str, Any], path: tuple[str, ...]) -> str:
    value: Any = candidate
    for step in path:
        value = value.get(step) if isinstance(value, Mapping) else None
    if value is None:
        return "false" if path in _BOOLEAN_FIELDS else ""
    return str(value).lower() if isinstance(value, bool) else str(value)
