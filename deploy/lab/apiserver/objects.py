"""What a write means: the life of an object from create to removal, above the bare store.

Every method is one step on the event loop: it either raises a ``StatusError`` and has changed nothing, or has
committed and told every watch. ``dry_run`` does everything but commit.

Deletion: finalizers hold an object back; a pod on a node stays, marked, until someone deletes it with a grace
period of 0 (the kubelet's part); a namespace goes with its last object; dependents follow their owners
(``garbage``).
"""

from __future__ import annotations

import copy
import secrets
import uuid
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec

from .addresses import ServiceAddresses, inherit
from .defaults import apply_defaults
from .errors import AlreadyExists, BadRequest, Conflict, Forbidden, Invalid, NotFound
from .garbage import FOREGROUND, GarbageCollector
from .resources import Registry, ResourceType
from .schema import check_types
from .store import Key, Object, Store
from .validation import invalid, validate

_SUFFIX_LETTERS = "bcdfghjklmnpqrstvwxz2456789"
_SYSTEM_FIELDS = (
    "uid",
    "resourceVersion",
    "generation",
    "creationTimestamp",
    "deletionTimestamp",
    "deletionGracePeriodSeconds",
    "selfLink",
)
_KEEPS_STATUS_ON_CREATE = frozenset({"nodes"})
_UNDELETABLE = frozenset({"default", "kube-system", "kube-public"})


class DeleteOptions(msgspec.Struct, frozen=True, kw_only=True):
    """The parts of Kubernetes' ``DeleteOptions`` that are honoured. ``grace`` is in seconds."""

    grace: int | None = None
    propagation: str = "Background"
    uid: str | None = None
    revision: str | None = None
    dry_run: bool = False


class Written(msgspec.Struct, frozen=True, kw_only=True):
    """The outcome of a write: the object, the fields nobody knows, and whether it was made by this write."""

    object: Object
    unknown: tuple[str, ...] = ()
    created: bool = False


def now() -> str:
    """The time as Kubernetes writes it: UTC, whole seconds."""
    return _timestamp(datetime.now(UTC))


def _timestamp(moment: datetime) -> str:
    return moment.strftime("%Y-%m-%dT%H:%M:%SZ")


class Objects:
    """Create, update and delete with the rules of the Kubernetes API."""

    def __init__(self, *, store: Store, registry: Registry, addresses: ServiceAddresses) -> None:
        self.store = store
        self._registry = registry
        self._addresses = addresses
        self._garbage = GarbageCollector(store=store, remover=self)
        store.observe(addresses.follow)
        store.observe(self._garbage.follow)

    def get(self, resource: ResourceType, *, namespace: str, name: str) -> Object:
        """The object, or ``NotFound``."""
        found = self.store.get(resource.storage, (namespace, name))
        if found is None:
            raise NotFound.of(resource, name)
        return found

    def create(
        self,
        resource: ResourceType,
        body: Object,
        *,
        namespace: str,
        strict: bool = False,
        dry_run: bool = False,
    ) -> Written:
        """Create an object from ``body``, which is taken over. ``strict`` refuses unknown fields."""
        new = _checked_identity(resource, body, namespace=namespace)
        unknown = _checked_fields(resource, new, strict=strict)
        metadata = new["metadata"]
        if metadata.get("resourceVersion"):
            raise BadRequest("resourceVersion should not be set on objects to be created")
        for field in _SYSTEM_FIELDS:
            metadata.pop(field, None)
        if resource.status and resource.storage not in _KEEPS_STATUS_ON_CREATE:
            new.pop("status", None)
        self._check_namespace(resource, namespace)
        if not metadata.get("name") and metadata.get("generateName"):
            metadata["name"] = self._generated_name(resource, namespace, metadata["generateName"])
        self._complete(resource, new, None)
        key = (namespace, metadata["name"])
        if self.store.get(resource.storage, key) is not None:
            raise AlreadyExists.of(resource, metadata["name"])
        metadata["uid"] = str(uuid.uuid4())
        metadata["creationTimestamp"] = now()
        if resource.generation:
            metadata["generation"] = 1
        stored = new if dry_run else self.store.put(resource.storage, key, new)
        return Written(object=stored, unknown=unknown, created=True)

    def update(
        self,
        resource: ResourceType,
        body: Object,
        *,
        namespace: str,
        name: str,
        status_only: bool = False,
        strict: bool = False,
        dry_run: bool = False,
    ) -> Written:
        """Replace an object, or only its status. ``Conflict`` when ``body`` was read before another's
        write."""
        current = self.get(resource, namespace=namespace, name=name)
        new = _checked_identity(resource, body, namespace=namespace)
        if new["metadata"].setdefault("name", name) != name:
            raise BadRequest(
                f"the name of the object ({new['metadata']['name']}) does not match the URL ({name})"
            )
        unknown = _checked_fields(resource, new, strict=strict)
        _check_preconditions(
            resource, current, uid=new["metadata"].get("uid"), revision=new["metadata"].get("resourceVersion")
        )
        new = _merged_with_current(resource, new, current, status_only=status_only)
        if not status_only:
            self._complete(resource, new, current)
            if resource.generation and _spec_of(new) != _spec_of(current):
                new["metadata"]["generation"] = current["metadata"].get("generation", 0) + 1
        if new == current or dry_run:
            return Written(object=new, unknown=unknown)
        return Written(object=self._commit(resource.storage, (namespace, name), new), unknown=unknown)

    def patch(
        self,
        resource: ResourceType,
        change: Callable[[Object], Object],
        *,
        namespace: str,
        name: str,
        status_only: bool = False,
        strict: bool = False,
        dry_run: bool = False,
    ) -> Written:
        """Replace an object by what ``change`` makes of it; a patch that sets resourceVersion can
        ``Conflict``."""
        current = self.get(resource, namespace=namespace, name=name)
        changed = copy.deepcopy(change(current))
        if not isinstance(changed, dict):
            raise BadRequest("the patch makes something else than an object")
        return self.update(
            resource,
            changed,
            namespace=namespace,
            name=name,
            status_only=status_only,
            strict=strict,
            dry_run=dry_run,
        )

    def delete(
        self, resource: ResourceType, *, namespace: str, name: str, options: DeleteOptions
    ) -> tuple[Object, bool]:
        """Delete an object; returns its last state, and whether it is gone already."""
        current = self.get(resource, namespace=namespace, name=name)
        _check_preconditions(resource, current, uid=options.uid, revision=options.revision)
        if resource.storage == "namespaces" and name in _UNDELETABLE:
            raise Forbidden(f'namespaces "{name}" is forbidden: this namespace may not be deleted')
        if options.dry_run:
            return current, True
        key, uid = (namespace, name), current["metadata"]["uid"]
        finalizers = list(current["metadata"].get("finalizers") or ())
        if options.propagation == "Orphan":
            self._orphan(uid)
        elif options.propagation == "Foreground" and self._garbage.dependents(uid):
            finalizers += [FOREGROUND] if FOREGROUND not in finalizers else []
        grace = _grace(resource, current, options)
        if resource.storage == "namespaces":
            return self._delete_namespace(resource, current)
        if not finalizers and grace == 0:
            return self.store.remove(resource.storage, key), True
        marked = _marked(resource, current, grace=grace, finalizers=finalizers)
        if marked != current:
            marked = self.store.put(resource.storage, key, marked)
        if FOREGROUND in finalizers:
            for dependent in self._garbage.dependents(uid):
                self.discard(*dependent, foreground=True)
        left = self.store.get(resource.storage, key)
        return (marked, True) if left is None else (left, False)

    def discard(self, storage: str, key: Key, *, foreground: bool = False) -> None:
        """Delete an object on behalf of the collector; one that is gone needs nothing."""
        resource = self._registry.of_storage(storage)
        if resource is not None and self.store.get(storage, key) is not None:
            options = DeleteOptions(propagation="Foreground" if foreground else "Background")
            self.delete(resource, namespace=key[0], name=key[1], options=options)

    def release(self, storage: str, key: Key, *, finalizer: str) -> None:
        """Drop one finalizer, and with the last one the object."""
        current = self.store.get(storage, key)
        if current is None:
            return
        kept = [name for name in current["metadata"].get("finalizers") or () if name != finalizer]
        self._commit(storage, key, current | {"metadata": current["metadata"] | {"finalizers": kept}})

    def _commit(self, storage: str, key: Key, new: Object) -> Object:
        """Store ``new``, or remove the object if its deletion waited for nothing but this write."""
        if storage == "namespaces":
            stored = self.store.put(storage, key, new)
            self._garbage.finish_namespace(key[1])
            return stored
        if _is_released(new):
            return self.store.remove(storage, key, last=new)
        return self.store.put(storage, key, new)

    def _complete(self, resource: ResourceType, new: Object, old: Object | None) -> None:
        apply_defaults(new, resource=resource)
        if resource.storage == "services":
            inherit(new, old=old)
        validate(new, resource=resource, old=old)
        if resource.storage == "services":
            self._addresses.assign(new, old=old, resource=resource)

    def _check_namespace(self, resource: ResourceType, namespace: str) -> None:
        if not resource.namespaced:
            return
        found = self.store.get("namespaces", ("", namespace))
        if found is None:
            raise NotFound(
                f'namespaces "{namespace}" not found', details={"name": namespace, "kind": "namespaces"}
            )
        if "deletionTimestamp" in found["metadata"]:
            cause = {
                "reason": "NamespaceTerminating",
                "field": "metadata.namespace",
                "message": "terminating",
            }
            raise Forbidden(
                f"{resource.plural} cannot be created in namespace {namespace}: it is being terminated",
                details={"causes": [cause]},
            )

    def _generated_name(self, resource: ResourceType, namespace: str, prefix: str) -> str:
        for name in self._random_names(prefix):
            if self.store.get(resource.storage, (namespace, name)) is None:
                return name
        raise AlreadyExists.of(resource, prefix)

    def _random_names(self, prefix: str) -> Iterator[str]:
        for _attempt in range(8):
            yield prefix[:58] + "".join(secrets.choice(_SUFFIX_LETTERS) for _letter in range(5))

    def _orphan(self, uid: str) -> None:
        for storage, key in self._garbage.dependents(uid):
            dependent = self.store.get(storage, key)
            if dependent is not None:
                kept = [o for o in dependent["metadata"]["ownerReferences"] if o.get("uid") != uid]
                metadata = dependent["metadata"] | {"ownerReferences": kept}
                self.store.put(storage, key, dependent | {"metadata": metadata})

    def _delete_namespace(self, resource: ResourceType, current: Object) -> tuple[Object, bool]:
        key, name = ("", current["metadata"]["name"]), current["metadata"]["name"]
        finalizers = list(current["metadata"].get("finalizers") or ())
        marked = _marked(resource, current, grace=0, finalizers=finalizers)
        marked["status"] = current["status"] | {"phase": "Terminating"}
        if "deletionTimestamp" not in current["metadata"]:
            marked = self.store.put("namespaces", key, marked)
        for storage in self.store.storages():
            for inner, _object in self.store.listed(storage, namespace=name):
                self.discard(storage, inner)
        self._garbage.finish_namespace(name)
        left = self.store.get("namespaces", key)
        return (marked, True) if left is None else (left, False)


def _checked_identity(resource: ResourceType, body: Object, *, namespace: str) -> Object:
    """``body`` with kind, apiVersion and namespace as the URL has them; ``BadRequest`` if it says
    otherwise."""
    for field, served in (("apiVersion", resource.api_version), ("kind", resource.kind)):
        if body.setdefault(field, served) != served:
            raise BadRequest(f"the {field} of the object is {body[field]!r}, this URL serves {served!r}")
    metadata = body.setdefault("metadata", {})
    if not isinstance(metadata, dict):
        raise BadRequest("metadata: an object is needed")
    if not resource.namespaced:
        metadata.pop("namespace", None)
    elif (metadata.get("namespace") or namespace) != namespace:
        raise BadRequest(
            f"the namespace of the object ({metadata['namespace']}) does not match the URL ({namespace})"
        )
    else:
        metadata["namespace"] = namespace
    for field in [field for field, value in metadata.items() if value is None]:
        del metadata[field]
    metadata.pop("managedFields", None)
    return body


def _checked_fields(resource: ResourceType, new: Object, *, strict: bool) -> tuple[str, ...]:
    unknown = tuple(check_types(new, resource=resource))
    if unknown and strict:
        listed = ", ".join(f'unknown field "{path}"' for path in unknown)
        raise BadRequest(f"{resource.kind} in version {resource.version!r}: strict decoding error: {listed}")
    return unknown


def _check_preconditions(
    resource: ResourceType, current: Object, *, uid: str | None, revision: str | None
) -> None:
    metadata = current["metadata"]
    if uid and uid != metadata["uid"]:
        why = f"the UID in the precondition ({uid}) is not the UID of the object ({metadata['uid']})"
        raise Conflict.of(resource, metadata["name"], why)
    if revision and revision != metadata["resourceVersion"]:
        why = "the object has been modified; please apply your changes to the latest version and try again"
        raise Conflict.of(resource, metadata["name"], why)


def _merged_with_current(
    resource: ResourceType, new: Object, current: Object, *, status_only: bool
) -> Object:
    """``new`` with everything that this endpoint does not change taken from ``current``."""
    if status_only:
        kept = {key: value for key, value in current.items() if key != "status"}
        return kept | ({"status": new["status"]} if "status" in new else {})
    metadata = new["metadata"]
    for field in _SYSTEM_FIELDS:
        metadata.pop(field, None)
        if field in current["metadata"]:
            metadata[field] = current["metadata"][field]
    if "generateName" in current["metadata"]:
        metadata.setdefault("generateName", current["metadata"]["generateName"])
    added = set(metadata.get("finalizers") or ()) - set(current["metadata"].get("finalizers") or ())
    if added and "deletionTimestamp" in metadata:
        why = "no new finalizers can be added if the object is being deleted"
        raise Invalid.of(resource, metadata["name"], [invalid("metadata.finalizers", sorted(added), why)])
    if resource.status:
        new.pop("status", None)
        if "status" in current:
            new["status"] = current["status"]
    return new


def _spec_of(stored: Object) -> dict[str, Any]:
    return {key: value for key, value in stored.items() if key not in ("metadata", "status")}


def _is_released(new: Object) -> bool:
    metadata = new["metadata"]
    return (
        "deletionTimestamp" in metadata
        and not metadata.get("finalizers")
        and not metadata.get("deletionGracePeriodSeconds")
    )


def _grace(resource: ResourceType, current: Object, options: DeleteOptions) -> int:
    """Seconds a deletion leaves to the kubelet: 0 for everything but a pod that may be running."""
    if resource.storage != "pods" or not current["spec"].get("nodeName"):
        return 0
    if current.get("status", {}).get("phase") in ("Failed", "Succeeded"):
        return 0
    default = current["spec"].get("terminationGracePeriodSeconds", 30)
    grace: int = default if options.grace is None else max(0, options.grace)
    before = current["metadata"].get("deletionGracePeriodSeconds")
    return grace if before is None else min(grace, before)


def _marked(resource: ResourceType, current: Object, *, grace: int, finalizers: list[str]) -> Object:
    metadata = dict(current["metadata"])
    if finalizers:
        metadata["finalizers"] = finalizers
    if metadata.get("deletionTimestamp") is None or grace < metadata.get("deletionGracePeriodSeconds", 0):
        moment = datetime.now(UTC) + timedelta(seconds=grace)
        metadata["deletionTimestamp"] = _timestamp(moment)
        metadata["deletionGracePeriodSeconds"] = grace
        if resource.generation:
            metadata["generation"] = metadata.get("generation", 0) + 1
    return current | {"metadata": metadata}
