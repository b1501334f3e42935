"""The subresources that are not simply ``status``: ``scale``, and a pod's ``binding`` and ``eviction``."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import Any

from .errors import BadRequest, Conflict, NotFound
from .objects import DeleteOptions, Objects, now
from .resources import ResourceType, ScalePaths
from .store import Object


class Subresources:
    """Reads and writes them on top of ``Objects``."""

    def __init__(self, *, objects: Objects) -> None:
        self._objects = objects

    def bind(self, resource: ResourceType, body: Object, *, namespace: str, name: str) -> Object:
        """Put a pod on the node that a ``Binding`` names; ``Conflict`` if it is on one already."""
        target = body.get("target")
        node = target.get("name") if isinstance(target, dict) else None
        if not isinstance(node, str) or not node:
            raise BadRequest("target.name: a binding names its node")
        pod = self._objects.get(resource, namespace=namespace, name=name)
        if pod["spec"].get("nodeName"):
            raise Conflict.of(
                resource, name, f"pod {name} is already assigned to node {pod['spec']['nodeName']!r}"
            )
        if "deletionTimestamp" in pod["metadata"]:
            raise Conflict.of(resource, name, f"pod {name} is being deleted, cannot be assigned to a host")
        bound = copy.deepcopy(pod)
        bound["spec"]["nodeName"] = node
        conditions = [c for c in bound["status"].get("conditions") or [] if c["type"] != "PodScheduled"]
        conditions.append({"type": "PodScheduled", "status": "True", "lastTransitionTime": now()})
        bound["status"]["conditions"] = conditions
        self._objects.store.put(resource.storage, (namespace, name), bound)
        return _success()

    def evict(self, resource: ResourceType, body: Object, *, namespace: str, name: str) -> Object:
        """Delete a pod as ``kubectl drain`` asks; there are no disruption budgets here that could object."""
        asked = body.get("deleteOptions")
        grace = asked.get("gracePeriodSeconds") if isinstance(asked, dict) else None
        options = DeleteOptions(grace=grace if isinstance(grace, int) else None)
        self._objects.delete(resource, namespace=namespace, name=name, options=options)
        return _success()

    def read_scale(self, resource: ResourceType, *, namespace: str, name: str) -> Object:
        """The ``autoscaling/v1`` Scale of an object."""
        return _scale_of(self._objects.get(resource, namespace=namespace, name=name), _paths(resource))

    def write_scale(
        self,
        resource: ResourceType,
        change: Callable[[Object], Object],
        *,
        namespace: str,
        name: str,
        dry_run: bool = False,
    ) -> Object:
        """Set the replica count to what ``change`` makes of the Scale."""
        paths = _paths(resource)
        current = self._objects.get(resource, namespace=namespace, name=name)
        asked = change(_scale_of(current, paths))
        replicas = _at(asked, "spec.replicas")
        if not isinstance(replicas, int) or isinstance(replicas, bool) or replicas < 0:
            raise BadRequest(f"spec.replicas: a number of 0 or more is needed, not {replicas!r}")
        revision = _at(asked, "metadata.resourceVersion")

        def set_replicas(before: Object) -> Object:
            changed = copy.deepcopy(before)
            *parents, last = paths.spec_replicas.split(".")
            holder = changed
            for step in parents:
                holder = holder.setdefault(step, {})
            holder[last] = replicas
            if revision:
                changed["metadata"]["resourceVersion"] = revision
            return changed

        written = self._objects.patch(resource, set_replicas, namespace=namespace, name=name, dry_run=dry_run)
        return _scale_of(written.object, paths)


def _paths(resource: ResourceType) -> ScalePaths:
    if resource.scale is None:
        raise NotFound.of_path(f"{resource.plural}/scale")
    return resource.scale


def _scale_of(stored: Object, paths: ScalePaths) -> Object:
    metadata = stored["metadata"]
    kept = ("name", "namespace", "uid", "resourceVersion", "creationTimestamp")
    return {
        "kind": "Scale",
        "apiVersion": "autoscaling/v1",
        "metadata": {field: metadata[field] for field in kept if field in metadata},
        "spec": {"replicas": _at(stored, paths.spec_replicas) or 0},
        "status": {
            "replicas": _at(stored, paths.status_replicas) or 0,
            "selector": selector_text(_at(stored, paths.selector)),
        },
    }


def selector_text(selector: Any) -> str:
    """A label selector object as ``kubectl -l`` takes it."""
    if not isinstance(selector, dict):
        return selector if isinstance(selector, str) else ""
    parts = [f"{key}={value}" for key, value in sorted((selector.get("matchLabels") or {}).items())]
    for term in selector.get("matchExpressions") or ():
        key, values = term.get("key"), ",".join(term.get("values") or ())
        match term.get("operator"):
            case "Exists":
                parts.append(str(key))
            case "DoesNotExist":
                parts.append(f"!{key}")
            case operator:
                parts.append(f"{key} {str(operator).lower()} ({values})")
    return ",".join(parts)


def _at(value: Any, path: str) -> Any:
    for step in path.split(".") if path else ():
        value = value.get(step) if isinstance(value, dict) else None
    return value


def _success() -> Object:
    return {"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201}
