"""Field types and field names of the built-in kinds, taken from the Kubernetes client's generated models.

A wrong type is refused as a real server's decoder refuses it, so everything behind this check may rely on
shapes. Unknown fields are only reported: the caller refuses them under ``fieldValidation=Strict`` (kubectl's
default). What a *value* means is not looked at here. Custom resources are checked in their metadata only.
"""

from __future__ import annotations

import re
from typing import Any

from kubernetes_asyncio.client import models

from .errors import BadRequest
from .resources import ResourceType

_MODEL_NAMES = {"Event": "CoreV1Event"}
_PLAIN: dict[str, tuple[str, type | tuple[type, ...]]] = {
    "str": ("a string", str),
    "datetime": ("a timestamp", str),
    "int": ("an integer", int),
    "float": ("a number", (int, float)),
    "bool": ("a boolean", bool),
}
_LIST = re.compile(r"list\[(.+)\]")
_MAP = re.compile(r"dict\(str, (.+)\)")


def model_of(resource: ResourceType) -> str:
    """The name of the generated model of a built-in resource's objects."""
    return _MODEL_NAMES.get(resource.kind, f"V1{resource.kind}")


def model_fields(name: str) -> dict[str, str]:
    """A model's JSON field names and their declared types; empty for a model without fields."""
    model = getattr(models, name)
    return {model.attribute_map[attribute]: kind for attribute, kind in model.openapi_types.items()}


def check_types(body: dict[str, Any], *, resource: ResourceType) -> list[str]:
    """Raise ``BadRequest`` for a value of the wrong type; returns the paths of fields that do not exist."""
    unknown: list[str] = []
    try:
        if resource.built_in:
            _check(body, model_of(resource), "", unknown)
        else:
            _check(body.get("metadata"), "V1ObjectMeta", "metadata", unknown)
    except BadRequest as refused:
        message = f"{resource.kind} in version {resource.version!r} cannot be handled: {refused.message}"
        raise BadRequest(message) from refused
    return unknown


def _check(value: Any, kind: str, where: str, unknown: list[str]) -> None:
    if value is None or kind == "object":
        return
    if plain := _PLAIN.get(kind):
        wanted, types = plain
        if not isinstance(value, types) or (isinstance(value, bool) and kind != "bool"):
            raise BadRequest(f"{where}: {wanted} is needed, not {_shown(value)}")
    elif found := _LIST.fullmatch(kind):
        if not isinstance(value, list):
            raise BadRequest(f"{where}: a list is needed, not {_shown(value)}")
        for index, item in enumerate(value):
            _check(item, found[1], f"{where}[{index}]", unknown)
    elif not isinstance(value, dict):
        raise BadRequest(f"{where}: an object is needed, not {_shown(value)}")
    elif found := _MAP.fullmatch(kind):
        for key, item in value.items():
            _check(item, found[1], f"{where}.{key}", unknown)
    else:
        fields = model_fields(kind)
        for key, item in value.items():
            path = f"{where}.{key}" if where else key
            if key in fields:
                _check(item, fields[key], path, unknown)
            else:
                unknown.append(path)


def _shown(value: Any) -> str:
    if isinstance(value, (dict, list)):
        return "an object" if isinstance(value, dict) else "a list"
    return repr(value)
