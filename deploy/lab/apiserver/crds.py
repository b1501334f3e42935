"""Serves custom resources: follows stored CustomResourceDefinitions and keeps the registry in step with them.

A definition is served from the write that stores it, and marked Established by the next one. Several versions
serve the same objects unconverted (conversion strategy None). Objects are stored as they come: no pruning, no
schema validation, no defaulting. Deleting a definition removes its objects, whatever finalizers they have.
"""

from __future__ import annotations

from typing import Any

from .objects import now
from .resources import PrinterColumn, Registry, ResourceType, ScalePaths
from .store import Event, Object, Store


class CustomResources:
    """The link from CustomResourceDefinitions to the registry; ``follow`` is the store observer."""

    def __init__(self, *, store: Store, registry: Registry) -> None:
        self._store = store
        self._registry = registry

    def follow(self, event: Event) -> None:
        """Serve what a new or changed definition says, stop serving what a deleted one said."""
        if event.storage != "customresourcedefinitions.apiextensions.k8s.io":
            return
        if event.type == "DELETED":
            self._remove_objects(event.object)
        served = [] if event.type == "DELETED" else _served(event.object)
        if event.previous is not None:
            for resource in _served(event.previous):
                self._registry.remove(resource)
        for resource in served:
            self._registry.add(resource)
        if event.type == "ADDED":
            self._store.put(event.storage, event.key, _established(event.object))

    def _remove_objects(self, definition: Object) -> None:
        storage = definition["metadata"]["name"]
        for key, _object in self._store.listed(storage):
            self._store.remove(storage, key)


def _served(definition: Object) -> list[ResourceType]:
    """One resource per served version, the storage version first."""
    spec = definition["spec"]
    names = spec["names"]
    versions = sorted(spec["versions"], key=lambda version: version.get("storage") is not True)
    found = []
    for version in versions:
        if version.get("served") is False:
            continue
        subresources = version.get("subresources") or {}
        found.append(
            ResourceType(
                group=spec["group"],
                version=version["name"],
                plural=names["plural"],
                kind=names["kind"],
                singular=names.get("singular", ""),
                short_names=tuple(names.get("shortNames") or ()),
                categories=tuple(names.get("categories") or ()),
                namespaced=spec["scope"] == "Namespaced",
                status="status" in subresources,
                scale=_scale(subresources.get("scale")),
                generation=True,
                built_in=False,
                columns=tuple(_column(column) for column in version.get("additionalPrinterColumns") or ()),
                fields=tuple(f["jsonPath"].lstrip(".") for f in version.get("selectableFields") or ()),
                schema=(version.get("schema") or {}).get("openAPIV3Schema"),
            )
        )
    return found


def _scale(paths: dict[str, Any] | None) -> ScalePaths | None:
    if paths is None:
        return None
    return ScalePaths(
        spec_replicas=paths.get("specReplicasPath", ".spec.replicas").lstrip("."),
        status_replicas=paths.get("statusReplicasPath", ".status.replicas").lstrip("."),
        selector=paths.get("labelSelectorPath", "").lstrip("."),
    )


def _column(column: dict[str, Any]) -> PrinterColumn:
    return PrinterColumn(
        name=column["name"],
        type=column.get("type", "string"),
        path=column["jsonPath"].lstrip("."),
        priority=column.get("priority", 0),
    )


def _established(definition: Object) -> Object:
    conditions = [
        {
            "type": kind,
            "status": "True",
            "reason": reason,
            "message": message,
            "lastTransitionTime": now(),
        }
        for kind, reason, message in (
            ("NamesAccepted", "NoConflicts", "no conflicts found"),
            ("Established", "InitialNamesAccepted", "the initial names have been accepted"),
        )
    ]
    versions = [v["name"] for v in definition["spec"]["versions"] if v.get("storage")]
    status = {
        "acceptedNames": definition["spec"]["names"],
        "conditions": conditions,
        "storedVersions": versions,
    }
    return definition | {"status": status}
