"""The verbs of the API: from a parsed target to a response.

Reads answer from the store as it is at that moment. A list in pages is not a snapshot: each page is current,
and all carry the first page's revision, so a watch from it replays whatever came between. Old revisions are
not kept; asking for one exactly is ``410 Gone``.

Server-side apply (``application/apply-patch+yaml``) is a merge by the strategic merge tables: it sets what
the configuration says and removes nothing, keeps no field ownership, and so never reports an ownership
conflict.
"""

from __future__ import annotations

import urllib.parse
from collections.abc import Callable, Sequence
from typing import Any

import msgspec
from aiohttp import web

from . import requests
from .errors import BadRequest, Expired, Invalid, MethodNotAllowed, NotFound, UnsupportedMediaType
from .objects import Objects, Written
from .patches import PatchMismatch, json_patch, merge_patch
from .requests import ListOptions, PageToken, Target
from .resources import ResourceType
from .selectors import Predicate, both, field_predicate, label_predicate
from .store import Object
from .strategic import strategic_merge
from .subresources import Subresources
from .tables import table
from .validation import invalid
from .watches import WatchStream

APPLY = "application/apply-patch+yaml"


class Rest:
    """Answers requests for resources. Raises ``StatusError``, which the server turns into responses."""

    def __init__(self, *, objects: Objects) -> None:
        self._objects = objects
        self._store = objects.store
        self._subresources = Subresources(objects=objects)

    async def answer(self, request: web.BaseRequest, target: Target) -> web.StreamResponse:
        """The response to ``request``, which is for ``target``."""
        body, media = await requests.read_body(request)
        match request.method, bool(target.name):
            case "GET", False:
                return await self._list_or_watch(request, target)
            case "GET", True:
                return await self._get(request, target)
            case "POST", False:
                return self._create(request, target, body)
            case "POST", True:
                return self._act(target, body)
            case "PUT", True:
                return self._put(request, target, requests.object_body(body))
            case "PATCH", True:
                return self._patch(request, target, body, media)
            case "DELETE", True if not target.subresource:
                return self._delete(request, target, body)
            case "DELETE", False:
                return self._delete_collection(request, target, body)
        raise MethodNotAllowed(f"{request.method} is not supported on {request.path}")

    async def _get(self, request: web.BaseRequest, target: Target) -> web.StreamResponse:
        as_table = requests.wants_table(request)
        resource = target.resource
        if target.subresource == "scale":
            return _json(
                self._subresources.read_scale(resource, namespace=target.namespace, name=target.name)
            )
        _require_status_or_self(target)
        options = requests.list_options(request)
        if options.watch:
            return await self._watch(request, target, options, as_table=as_table)
        found = self._objects.get(resource, namespace=target.namespace, name=target.name)
        if as_table:
            metadata = {"resourceVersion": found["metadata"]["resourceVersion"]}
            return _json(table([found], resource=resource, metadata=metadata, include=_include(request)))
        return _json(_versioned(found, resource))

    async def _list_or_watch(self, request: web.BaseRequest, target: Target) -> web.StreamResponse:
        as_table = requests.wants_table(request)
        options = requests.list_options(request)
        if options.watch:
            return await self._watch(request, target, options, as_table=as_table)
        resource = target.resource
        page, metadata = self._page(target, options)
        if as_table:
            return _json(table(page, resource=resource, metadata=metadata, include=_include(request)))
        items = [_versioned(item, resource) for item in page]
        return _json(
            {
                "kind": resource.list_kind,
                "apiVersion": resource.api_version,
                "metadata": metadata,
                "items": items,
            }
        )

    def _page(self, target: Target, options: ListOptions) -> tuple[list[Object], Object]:
        """The objects of one page, and the list's metadata."""
        storage = target.resource.storage
        revision = self._store.revision
        if options.revision is not None:
            self._store.check_reached(options.revision)
            if options.match == "Exact" and options.revision != revision:
                raise Expired(f"The provided resource version is too old: {options.revision} ({revision})")
        predicate = _predicate(target, options)
        found = [
            (key, item)
            for key, item in self._store.listed(storage, namespace=target.namespace)
            if predicate(item)
        ]
        if options.token:
            token = requests.decode_token(options.token)
            if token.revision < self._store.compacted(storage):
                raise Expired(
                    "The provided continue parameter is too old to display a consistent list result."
                )
            revision = token.revision
            found = [(key, item) for key, item in found if key > (token.namespace, token.name)]
        metadata: Object = {"resourceVersion": str(revision)}
        if options.limit and len(found) > options.limit:
            metadata["remainingItemCount"] = len(found) - options.limit
            found = found[: options.limit]
            last = found[-1][0]
            metadata["continue"] = requests.encode_token(PageToken(revision, last[0], last[1]))
        return [item for _key, item in found], metadata

    async def _watch(
        self, request: web.BaseRequest, target: Target, options: ListOptions, *, as_table: bool
    ) -> web.StreamResponse:
        resource, include = target.resource, _include(request)

        def render(item: Object) -> Any:
            if as_table:
                metadata = {"resourceVersion": item["metadata"]["resourceVersion"]}
                return table([item], resource=resource, metadata=metadata, include=include)
            return _versioned(item, resource)

        stream = WatchStream(
            store=self._store,
            target=target,
            options=options,
            predicate=_predicate(target, options),
            render=render,
        )
        return await stream.serve(request)

    def _create(self, request: web.BaseRequest, target: Target, body: Any) -> web.Response:
        if target.resource.namespaced and not target.namespace:
            raise MethodNotAllowed(f"{target.resource.plural} are created in a namespace")
        written = self._objects.create(
            target.resource,
            requests.object_body(body),
            namespace=target.namespace,
            strict=_strict(request),
            dry_run=requests.is_dry_run(request),
        )
        return _written(written, target, request)

    def _act(self, target: Target, body: Any) -> web.Response:
        given = requests.object_body(body)
        resource, namespace, name = target.resource, target.namespace, target.name
        if target.subresource not in resource.actions:
            raise MethodNotAllowed(f"POST is not supported on {resource.plural}/{target.subresource}")
        if target.subresource == "binding":
            answer = self._subresources.bind(resource, given, namespace=namespace, name=name)
        else:
            answer = self._subresources.evict(resource, given, namespace=namespace, name=name)
        return _json(answer, code=201)

    def _put(self, request: web.BaseRequest, target: Target, body: Object) -> web.Response:
        dry_run = requests.is_dry_run(request)
        if target.subresource == "scale":
            return self._scale(target, lambda _scale: body, dry_run=dry_run)
        _require_status_or_self(target)
        written = self._objects.update(
            target.resource,
            body,
            namespace=target.namespace,
            name=target.name,
            status_only=target.subresource == "status",
            strict=_strict(request),
            dry_run=dry_run,
        )
        return _written(written, target, request)

    def _patch(self, request: web.BaseRequest, target: Target, body: Any, media: str) -> web.Response:
        dry_run = requests.is_dry_run(request)
        change = _change(body, media, target)
        if target.subresource == "scale":
            return self._scale(target, change, dry_run=dry_run)
        _require_status_or_self(target)
        resource, namespace, name = target.resource, target.namespace, target.name
        exists = self._store.get(resource.storage, (namespace, name)) is not None
        if media == APPLY and not exists and not target.subresource:
            new = requests.object_body(body)
            metadata = new.setdefault("metadata", {})
            if isinstance(metadata, dict):
                metadata["name"] = name
            written = self._objects.create(
                resource, new, namespace=namespace, strict=_strict(request), dry_run=dry_run
            )
        else:
            written = self._objects.patch(
                resource,
                change,
                namespace=namespace,
                name=name,
                status_only=target.subresource == "status",
                strict=_strict(request),
                dry_run=dry_run,
            )
        return _written(written, target, request)

    def _scale(self, target: Target, change: Callable[[Object], Object], *, dry_run: bool) -> web.Response:
        return _json(
            self._subresources.write_scale(
                target.resource, change, namespace=target.namespace, name=target.name, dry_run=dry_run
            )
        )

    def _delete(self, request: web.BaseRequest, target: Target, body: Any) -> web.Response:
        resource = target.resource
        options = requests.delete_options(request, body)
        last, gone = self._objects.delete(
            resource, namespace=target.namespace, name=target.name, options=options
        )
        if not gone:
            return _json(_versioned(last, resource))
        details = {"name": target.name, "group": resource.group, "kind": resource.plural}
        details["uid"] = last["metadata"]["uid"]
        return _json(
            {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details}
        )

    def _delete_collection(self, request: web.BaseRequest, target: Target, body: Any) -> web.Response:
        resource = target.resource
        if resource.namespaced and not target.namespace:
            raise MethodNotAllowed(f"{resource.plural} are deleted one namespace at a time")
        options = requests.delete_options(request, body)
        page, metadata = self._page(target, requests.list_options(request))
        for item in page:
            name = item["metadata"]["name"]
            if self._store.get(resource.storage, (target.namespace, name)) is not None:
                self._objects.delete(resource, namespace=target.namespace, name=name, options=options)
        items = [_versioned(item, resource) for item in page]
        return _json(
            {
                "kind": resource.list_kind,
                "apiVersion": resource.api_version,
                "metadata": metadata,
                "items": items,
            }
        )


def _require_status_or_self(target: Target) -> None:
    if target.subresource and not (target.subresource == "status" and target.resource.status):
        raise NotFound.of_path(f"{target.resource.plural}/{target.subresource}")


def _change(body: Any, media: str, target: Target) -> Callable[[Object], Object]:
    """The patch as a function of the object, which it does not change."""
    resource = target.resource
    if media == "application/json-patch+json":

        def apply(current: Object) -> Object:
            try:
                return requests.object_body(json_patch(current, body))
            except PatchMismatch as refused:
                cause = invalid("patch", str(refused), "the patch does not fit the object")
                raise Invalid.of(resource, target.name, [cause]) from refused

        return apply
    patch = requests.object_body(body)
    if media == "application/merge-patch+json" or (media == APPLY and not resource.built_in):
        return lambda current: requests.object_body(merge_patch(current, patch))
    if media in ("application/strategic-merge-patch+json", APPLY):
        if not resource.built_in:
            raise UnsupportedMediaType(f"{resource.qualified} takes JSON patch, merge patch and apply")
        kind = "Object" if target.subresource == "scale" else resource.kind
        return lambda current: strategic_merge(current, patch, kind=kind)
    raise UnsupportedMediaType(f"{media!r} is not a patch type of this server")


def _predicate(target: Target, options: ListOptions) -> Predicate:
    fields = field_predicate(options.fields, resource=target.resource)
    return both(label_predicate(options.labels), fields)


def _include(request: web.BaseRequest) -> str:
    return request.query.get("includeObject", "Metadata")


def _strict(request: web.BaseRequest) -> bool:
    asked = request.query.get("fieldValidation", "Warn")
    if asked not in ("", "Ignore", "Warn", "Strict"):
        raise BadRequest(f"fieldValidation: {asked!r} is not Ignore, Warn or Strict")
    return asked == "Strict"


def _versioned(item: Object, resource: ResourceType) -> Object:
    """``item`` in the requested version; the versions of a custom resource differ in nothing else here."""
    if item.get("apiVersion") == resource.api_version:
        return item
    return item | {"apiVersion": resource.api_version}


def _written(written: Written, target: Target, request: web.BaseRequest) -> web.Response:
    code = 201 if written.created else 200
    warn = request.query.get("fieldValidation", "Warn") == "Warn"
    unknown: Sequence[str] = written.unknown if warn else ()
    headers = [("Warning", f'299 - "unknown field \\"{urllib.parse.quote(path)}\\""') for path in unknown]
    return _json(_versioned(written.object, target.resource), code=code, headers=headers)


def _json(body: Any, *, code: int = 200, headers: Sequence[tuple[str, str]] = ()) -> web.Response:
    return web.Response(
        body=msgspec.json.encode(body),
        status=code,
        headers=[("Content-Type", "application/json"), *headers],
    )
