"""What a request asks for: its path as resource, namespace, name and subresource, its body, and its query
options."""

from __future__ import annotations

import base64
import binascii
from typing import Any

import msgspec
import yaml
from aiohttp import web

from . import protobuf
from .errors import BadRequest, NotAcceptable, NotFound, TooLarge, UnsupportedMediaType
from .objects import DeleteOptions
from .resources import Registry, ResourceType

MAX_BODY = 3 * 1024 * 1024
"""Bytes; the limit of a Kubernetes API server."""

JSON = "application/json"
YAML_TYPES = frozenset({"application/yaml", "application/apply-patch+yaml"})


class Target(msgspec.Struct, frozen=True, kw_only=True):
    """The resource, object or subresource that a path names. An empty ``name`` is the collection."""

    resource: ResourceType
    namespace: str = ""
    name: str = ""
    subresource: str = ""


class ListOptions(msgspec.Struct, frozen=True, kw_only=True):
    """Kubernetes' ``ListOptions``, parsed. ``revision`` is None where the request leaves it open (unset or
    0)."""

    labels: str = ""
    fields: str = ""
    revision: int | None = None
    match: str = ""
    limit: int = 0
    token: str = ""
    watch: bool = False
    bookmarks: bool = False
    initial_events: bool | None = None
    timeout: int | None = None


class PageToken(msgspec.Struct, frozen=True):
    """What a ``continue`` token carries: the list's revision, and the last key of the page before."""

    revision: int
    namespace: str
    name: str


def target_of(path: str, *, registry: Registry) -> Target:
    """Parse a path below ``/api`` or ``/apis``; ``NotFound`` if nothing is served there."""
    root, *parts = [part for part in path.split("/") if part]
    group = "" if root == "api" else (parts.pop(0) if parts else "")
    if root not in ("api", "apis") or len(parts) < 2:
        raise NotFound.of_path(path)
    version, *rest = parts
    namespace = ""
    inside = len(rest) >= 3 and rest[0] == "namespaces"
    if inside and not (len(rest) == 3 and rest[2] == "status"):
        namespace, rest = rest[1], rest[2:]
    plural, name, subresource = (*rest, "", "", "")[:3]
    resource = registry.find(group=group, version=version, plural=plural)
    if resource is None or len(rest) > 3 or (namespace and not resource.namespaced):
        raise NotFound.of_path(path)
    if resource.namespaced and name and not namespace:
        raise NotFound.of_path(path)
    return Target(resource=resource, namespace=namespace, name=name, subresource=subresource)


async def read_body(request: web.BaseRequest) -> tuple[Any, str]:
    """The decoded body (None if empty) and its media type, from JSON, YAML or Kubernetes protobuf."""
    media = request.headers.get("Content-Type", JSON).partition(";")[0].strip().lower()
    try:
        raw = await request.read()
    except web.HTTPRequestEntityTooLarge as refused:
        raise TooLarge(f"the request body is larger than {MAX_BODY} bytes") from refused
    if not raw:
        return None, media
    if media == protobuf.MEDIA_TYPE:
        return protobuf.decode(raw), media
    if media not in YAML_TYPES and media != JSON and not media.endswith("+json"):
        raise UnsupportedMediaType(f"the body is {media!r}; this server takes application/json and yaml")
    try:
        return (_decode_yaml(raw) if media in YAML_TYPES else msgspec.json.decode(raw)), media
    except (msgspec.DecodeError, yaml.YAMLError, UnicodeDecodeError, RecursionError) as refused:
        raise BadRequest(f"the body cannot be decoded as {media}: {refused}") from refused


def object_body(body: Any) -> dict[str, Any]:
    """``body`` if it is an object, else ``BadRequest``."""
    if not isinstance(body, dict):
        raise BadRequest("the body is not a Kubernetes object")
    return body


def list_options(request: web.BaseRequest) -> ListOptions:
    """The query of a list, watch or collection delete."""
    query = request.query
    version = query.get("resourceVersion", "")
    if version and not version.isdecimal():
        raise BadRequest(f"resourceVersion: a number is needed, not {version!r}")
    initial = query.get("sendInitialEvents")
    return ListOptions(
        labels=query.get("labelSelector", ""),
        fields=query.get("fieldSelector", ""),
        revision=int(version) if version not in ("", "0") else None,
        match=query.get("resourceVersionMatch", ""),
        limit=_number(query.get("limit", "0"), "limit"),
        token=query.get("continue", ""),
        watch=_flag(query.get("watch", "false")),
        bookmarks=_flag(query.get("allowWatchBookmarks", "false")),
        initial_events=None if initial is None else _flag(initial),
        timeout=_number(query["timeoutSeconds"], "timeoutSeconds") if "timeoutSeconds" in query else None,
    )


def delete_options(request: web.BaseRequest, body: Any) -> DeleteOptions:
    """The options of a delete, from its body and its query; where both speak, the query wins."""
    given = object_body(body) if body is not None else {}
    preconditions = given.get("preconditions") or {}
    query = request.query
    grace = query.get("gracePeriodSeconds", given.get("gracePeriodSeconds"))
    propagation = query.get("propagationPolicy", given.get("propagationPolicy"))
    if propagation is None and (
        given.get("orphanDependents") or _flag(query.get("orphanDependents", "false"))
    ):
        propagation = "Orphan"
    if propagation not in (None, "Background", "Foreground", "Orphan"):
        raise BadRequest(f"propagationPolicy: {propagation!r} is not Background, Foreground or Orphan")
    return DeleteOptions(
        grace=None if grace is None else _number(str(grace), "gracePeriodSeconds"),
        propagation=propagation or "Background",
        uid=preconditions.get("uid"),
        revision=preconditions.get("resourceVersion"),
        dry_run=bool(given.get("dryRun")) or is_dry_run(request),
    )


def is_dry_run(request: web.BaseRequest) -> bool:
    """Whether a write is to be checked and answered, but not made."""
    asked = request.query.get("dryRun")
    if asked not in (None, "", "All"):
        raise BadRequest(f"dryRun: {asked!r} is not All")
    return asked == "All"


def wants_table(request: web.BaseRequest) -> bool:
    """Whether the client prefers a Table; ``NotAcceptable`` if it takes no JSON at all."""
    accepted = [part.strip() for part in request.headers.get("Accept", "*/*").split(",")]
    for choice in accepted:
        media, *parameters = [part.strip() for part in choice.split(";")]
        if media in (JSON, "application/*", "*/*"):
            asked = dict(parameter.partition("=")[::2] for parameter in parameters)
            if asked.get("as") == "Table" and asked.get("v") == "v1":
                return True
            if "as" not in asked:
                return False
    raise NotAcceptable(f"this server answers in {JSON}; the request accepts {', '.join(accepted)}")


def encode_token(token: PageToken) -> str:
    """A ``continue`` value."""
    return base64.urlsafe_b64encode(msgspec.json.encode(token)).decode()


def decode_token(text: str) -> PageToken:
    """The content of a ``continue`` value, or ``BadRequest``."""
    try:
        return msgspec.json.decode(base64.urlsafe_b64decode(text), type=PageToken)
    except (msgspec.DecodeError, binascii.Error, ValueError) as refused:
        raise BadRequest("continue key is not valid") from refused


def _number(text: str, what: str) -> int:
    if not text.isdecimal():
        raise BadRequest(f"{what}: a number of 0 or more is needed, not {text!r}")
    return int(text)


def _flag(text: str) -> bool:
    if text.lower() in ("true", "1", "t", ""):
        return True
    if text.lower() in ("false", "0", "f"):
        return False
    raise BadRequest(f"{text!r} is not a boolean")


def _decode_yaml(raw: bytes) -> Any:
    loader = _JsonLikeLoader(raw)
    try:
        return loader.get_single_data()
    finally:
        loader.dispose()


class _JsonLikeLoader(yaml.SafeLoader):
    """YAML as Kubernetes reads it: timestamps stay text."""


_JsonLikeLoader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
