"""Applies and deletes Kubernetes manifests through an API server's discovery and plain requests.

Objects are taken in the order of the text, one after the other (a List stands for its items); the first
refusal ends it with a ManifestError that names the object, and what came before stays. Applying what is there
already replaces it, so that a rule taken out of a manifest is taken out of the cluster; Pods and Nodes, in
which others write too, are merged instead.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import Any

import yaml

from deploy.lab.errors import ManifestError
from deploy.lab.state import AppliedObject
from shared.kubernetes import ApiError, Conflict, Kubernetes, NotFound, Object

MERGED = ("Pod", "Node")
ALLOCATED = ("clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy", "healthCheckNodePort")
"""Fields of a Service's spec that the API server fills in and that may not be taken away again."""

KEPT = ("finalizers", "ownerReferences")
"""Fields of the metadata of what is there that stay when it is replaced."""

CONFLICTS = 5


@dataclass(frozen=True, kw_only=True)
class Document:
    """One object of a manifest."""

    object: Object
    kind: str
    api_version: str
    name: str
    namespace: str

    def __str__(self) -> str:
        where = f"{self.namespace}/" if self.namespace else ""
        return f"{self.kind} {where}{self.name}"


def read_manifest(text: str) -> list[Document]:
    """The objects of a YAML text of any number of documents.

    Raises ManifestError naming the document by its number.
    """
    try:
        loaded = list(yaml.safe_load_all(text))
    except yaml.YAMLError as error:
        raise ManifestError(f"manifest is no YAML: {_first_words(error)}") from error
    found: list[Document] = []
    for number, content in enumerate(loaded, start=1):
        if content is None:
            continue
        items = content.get("items") if isinstance(content, dict) and content.get("kind") == "List" else None
        for item in items if isinstance(items, list) else [content]:
            found.append(_document(item, number=number))
    return found


class Applier:
    """Applies and deletes on one API server.

    ``new_kind_seconds`` is how long a kind may take to be served after its definition was created.
    """

    def __init__(self, api: Kubernetes, *, new_kind_seconds: float = 5.0) -> None:
        self._api = api
        self._new_kind_seconds = new_kind_seconds
        self._discovered: dict[str, dict[str, tuple[str, bool]]] = {}

    async def apply(self, text: str) -> list[AppliedObject]:
        """Creates what is missing and makes the rest as it is written."""
        applied = []
        for document in read_manifest(text):
            try:
                applied.append(await self._apply(document))
            except ApiError as error:
                raise ManifestError(f"{document}: {error}") from error
        return applied

    async def delete(self, text: str) -> list[AppliedObject]:
        """Deletes the objects, the last first; one that is not there is ``absent``."""
        deleted = []
        for document in reversed(read_manifest(text)):
            path, namespace = await self._path(document)
            action = "deleted"
            try:
                await self._api.request("DELETE", f"{path}/{document.name}")
            except NotFound:
                action = "absent"
            except ApiError as error:
                raise ManifestError(f"{document}: {error}") from error
            deleted.append(_applied(document, namespace, action))
        return deleted

    async def _apply(self, document: Document) -> AppliedObject:
        collection, namespace = await self._path(document)
        path = f"{collection}/{document.name}"
        for left in reversed(range(CONFLICTS)):
            try:
                before = await self._api.request("GET", path)
            except NotFound:
                await self._api.request("POST", collection, body=document.object)
                return _applied(document, namespace, "created")
            try:
                after = await self._update(document, path, before)
            except Conflict:
                if not left:
                    raise
                continue
            same = _version(before) == _version(after)
            return _applied(document, namespace, "unchanged" if same else "configured")
        raise ManifestError(f"{document}: somebody else keeps changing it; apply it again")

    async def _update(self, document: Document, path: str, before: Object) -> Object:
        if document.kind in MERGED:
            return await self._api.request(
                "PATCH", path, body=document.object, content_type="application/strategic-merge-patch+json"
            )
        metadata = _with_others_notes(document.object["metadata"], before["metadata"])
        wanted = {**document.object, "metadata": metadata}
        if "status" in before:
            wanted["status"] = before["status"]
        if document.kind == "Service":
            wanted["spec"] = _with_allocations(wanted.get("spec") or {}, before.get("spec") or {})
        return await self._api.request("PUT", path, body=wanted)

    async def _path(self, document: Document) -> tuple[str, str]:
        """The collection's path, and the namespace, empty for a cluster-wide kind."""
        until = time.monotonic() + self._new_kind_seconds
        while True:
            kinds = await self._kinds(document.api_version)
            if document.kind in kinds:
                break
            self._discovered.pop(document.api_version, None)
            if time.monotonic() > until:
                raise ManifestError(
                    f"{document}: the API server has no kind {document.kind} in {document.api_version}"
                )
            await asyncio.sleep(0.2)
        plural, namespaced = kinds[document.kind]
        root = f"{'/apis' if '/' in document.api_version else '/api'}/{document.api_version}"
        if not namespaced:
            return f"{root}/{plural}", ""
        namespace = document.namespace or "default"
        return f"{root}/namespaces/{namespace}/{plural}", namespace

    async def _kinds(self, api_version: str) -> dict[str, tuple[str, bool]]:
        if api_version not in self._discovered:
            root = "/apis" if "/" in api_version else "/api"
            try:
                listed = await self._api.request("GET", f"{root}/{api_version}")
            except NotFound:
                return {}
            self._discovered[api_version] = {
                resource["kind"]: (resource["name"], bool(resource["namespaced"]))
                for resource in listed.get("resources") or []
                if "/" not in resource["name"]
            }
        return self._discovered[api_version]


def _document(content: Any, *, number: int) -> Document:
    if not isinstance(content, dict):
        raise ManifestError(f"manifest document {number} is no object")
    metadata = content.get("metadata")
    values = {
        "apiVersion": content.get("apiVersion"),
        "kind": content.get("kind"),
        "metadata.name": metadata.get("name") if isinstance(metadata, dict) else None,
    }
    for field, value in values.items():
        if not isinstance(value, str) or not value:
            raise ManifestError(f"manifest document {number}: {field} must be a string that is not empty")
    namespace = metadata.get("namespace") if isinstance(metadata, dict) else None
    return Document(
        object=content,
        kind=str(values["kind"]),
        api_version=str(values["apiVersion"]),
        name=str(values["metadata.name"]),
        namespace=str(namespace or ""),
    )


def _first_words(error: yaml.YAMLError) -> str:
    """What is wrong and where, in one line."""
    if isinstance(error, yaml.MarkedYAMLError) and error.problem_mark is not None:
        mark = error.problem_mark
        return f"line {mark.line + 1}, column {mark.column + 1}: {error.problem}"
    return str(error).partition("\n")[0]


def _with_others_notes(wanted: Object, before: Object) -> Object:
    """An object's metadata with what controllers and kubectl keep there, which no manifest takes away."""
    theirs = {
        key: value
        for key, value in (before.get("annotations") or {}).items()
        if key.partition("/")[0].endswith("kubernetes.io")
    }
    kept = {key: before[key] for key in KEPT if key in before}
    annotations = {**theirs, **(wanted.get("annotations") or {})}
    noted = {"annotations": annotations} if annotations else {}
    return {**kept, **wanted, **noted, "resourceVersion": before["resourceVersion"]}


def _with_allocations(wanted: Object, before: Object) -> Object:
    """A Service's spec with what the API server had given it, where the manifest leaves it open."""
    merged = {key: before[key] for key in ALLOCATED if key in before} | wanted
    if before.get("type", "ClusterIP") == wanted.get("type", "ClusterIP"):
        ports = {(port.get("protocol", "TCP"), port.get("port")): port for port in before.get("ports") or []}
        merged["ports"] = [
            {
                **{
                    key: value
                    for key, value in ports.get((port.get("protocol", "TCP"), port.get("port")), {}).items()
                    if key == "nodePort"
                },
                **port,
            }
            for port in wanted.get("ports") or []
        ]
    return merged


def _applied(document: Document, namespace: str, action: str) -> AppliedObject:
    return AppliedObject(kind=document.kind, name=document.name, namespace=namespace, action=action)


def _version(content: Object) -> str:
    return str((content.get("metadata") or {}).get("resourceVersion") or "")
