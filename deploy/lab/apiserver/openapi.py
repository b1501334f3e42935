"""OpenAPI v3 documents, one per group and version, made from the registry and the client's models on request.

kubectl reads three things from them: that a kind's PATCH takes the query parameter ``fieldValidation`` (so
that it leaves validation to the server), the fields of a kind (``kubectl explain``), and that PATCH does
*not* list strategic merge patch, which makes it compute such patches from its own built-in types, whose merge
keys these documents lack.
"""

from __future__ import annotations

import re
from typing import Any

from .discovery import KUBERNETES_VERSION
from .resources import Registry, ResourceType
from .schema import model_fields, model_of

Document = dict[str, Any]

_PLAIN: dict[str, Document] = {
    "str": {"type": "string"},
    "datetime": {"type": "string", "format": "date-time"},
    "int": {"type": "integer"},
    "float": {"type": "number"},
    "bool": {"type": "boolean"},
    "object": {},
}
_PATCH_TYPES = ("application/json-patch+json", "application/merge-patch+json", "application/apply-patch+yaml")
_WRITE_PARAMETERS: list[Document] = [
    {"name": name, "in": "query", "schema": {"type": "string", "uniqueItems": True}}
    for name in ("dryRun", "fieldManager", "fieldValidation")
]


def index(registry: Registry) -> Document:
    """The body of ``/openapi/v3``: where each group and version's document is."""
    paths = {}
    for group, versions in registry.groups().items():
        for version in versions:
            path = _path(group, version)
            paths[path] = {"serverRelativeURL": f"/openapi/v3/{path}"}
    return {"paths": paths}


def document(registry: Registry, *, group: str, version: str) -> Document | None:
    """The OpenAPI v3 document of one group and version, or None."""
    resources = registry.of_version(group=group, version=version)
    if not resources:
        return None
    paths: Document = {}
    schemas: Document = {}
    for resource in resources:
        kind = {"group": group, "version": version, "kind": resource.kind}
        if resource.built_in:
            reference = _add_model(model_of(resource), schemas)
            schemas[model_of(resource)]["x-kubernetes-group-version-kind"] = [kind]
        else:
            name = f"{resource.kind}.{version}"
            schemas[name] = _custom_schema(resource) | {"x-kubernetes-group-version-kind": [kind]}
            reference = {"$ref": f"#/components/schemas/{name}"}
        scope = "/namespaces/{namespace}" if resource.namespaced else ""
        collection = f"/{_path(group, version)}{scope}/{resource.plural}"
        paths[collection] = {"post": _operation("post", kind, reference, ("application/json",))}
        paths[collection + "/{name}"] = {
            "put": _operation("put", kind, reference, ("application/json",)),
            "patch": _operation("patch", kind, reference, _PATCH_TYPES),
        }
    return {
        "openapi": "3.0.0",
        "info": {"title": "Stentor lab Kubernetes API", "version": KUBERNETES_VERSION},
        "paths": paths,
        "components": {"schemas": schemas},
    }


def _path(group: str, version: str) -> str:
    return f"apis/{group}/{version}" if group else f"api/{version}"


def _operation(action: str, kind: Document, schema: Document, media: tuple[str, ...]) -> Document:
    return {
        "x-kubernetes-action": action,
        "x-kubernetes-group-version-kind": kind,
        "parameters": _WRITE_PARAMETERS,
        "requestBody": {"content": {media_type: {"schema": schema} for media_type in media}},
        "responses": {"200": {"description": "OK", "content": {"application/json": {"schema": schema}}}},
    }


def _custom_schema(resource: ResourceType) -> Document:
    schema: Document = dict(resource.schema or {"type": "object"})
    properties = dict(schema.get("properties") or {})
    for name, kind in (("apiVersion", "string"), ("kind", "string"), ("metadata", "object")):
        properties.setdefault(name, {"type": kind})
    return schema | {"properties": properties}


def _add_model(name: str, schemas: Document) -> Document:
    """A reference to a model's schema, adding it and everything it refers to."""
    if name not in schemas:
        schema: Document = {"type": "object", "properties": {}}
        schemas[name] = schema
        for field, kind in model_fields(name).items():
            schema["properties"][field] = _schema_of(kind, schemas)
    return {"$ref": f"#/components/schemas/{name}"}


def _schema_of(kind: str, schemas: Document) -> Document:
    if kind in _PLAIN:
        return _PLAIN[kind]
    if found := re.fullmatch(r"list\[(.+)\]", kind):
        return {"type": "array", "items": _schema_of(found[1], schemas)}
    if found := re.fullmatch(r"dict\(str, (.+)\)", kind):
        return {"type": "object", "additionalProperties": _schema_of(found[1], schemas)}
    return _add_model(kind, schemas)
