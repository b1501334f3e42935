"""What a deletion takes with it: dependents of a removed owner, and a namespace once it is empty.

Follows the store, so the owner index and the namespace counts cannot drift from the objects. Collection
happens inside the write that made it due: when a delete has been answered, its dependents are gone or
terminating.
"""

from __future__ import annotations

from collections import Counter
from typing import Protocol

from .store import Event, Key, Object, Store

FOREGROUND = "foregroundDeletion"


class Remover(Protocol):
    """How the collector acts on objects."""

    def discard(self, storage: str, key: Key, *, foreground: bool = False) -> None:
        """Delete the object as a client's DELETE would; nothing if it is not there."""

    def release(self, storage: str, key: Key, *, finalizer: str) -> None:
        """Drop one finalizer, and with the last one the object."""


class GarbageCollector:
    """Owner references and namespace contents; ``follow`` is the store observer."""

    def __init__(self, *, store: Store, remover: Remover) -> None:
        self._store = store
        self._remover = remover
        self._places: dict[str, tuple[str, Key]] = {}
        self._dependents: dict[str, set[tuple[str, Key]]] = {}
        self._contents: Counter[str] = Counter()

    def follow(self, event: Event) -> None:
        """Keep the indexes in step, then collect what the change has made garbage."""
        place = (event.storage, event.key)
        if event.previous is not None:
            for uid in owner_uids(event.previous):
                self._dependents.get(uid, set()).discard(place)
        if event.type != "DELETED":
            self._places[event.object["metadata"]["uid"]] = place
            for uid in owner_uids(event.object):
                self._dependents.setdefault(uid, set()).add(place)
            if event.type == "ADDED":
                self._contents[event.key[0]] += 1
                self._collect_if_orphan(event.storage, event.key, event.object)
            return
        self._places.pop(event.object["metadata"]["uid"], None)
        self._contents[event.key[0]] -= 1
        self._collect_dependents(event.object)
        self._release_owners(event.object)
        self.finish_namespace(event.key[0])

    def dependents(self, uid: str) -> list[tuple[str, Key]]:
        """The objects that name ``uid`` as an owner, in a fixed order."""
        return sorted(self._dependents.get(uid, ()))

    def finish_namespace(self, name: str) -> None:
        """Remove a terminating namespace that holds nothing any more."""
        namespace = self._store.get("namespaces", ("", name)) if name else None
        if namespace is None or self._contents[name] > 0:
            return
        if "deletionTimestamp" in namespace["metadata"] and not namespace["metadata"].get("finalizers"):
            del self._contents[name]
            self._store.remove("namespaces", ("", name))

    def _collect_if_orphan(self, storage: str, key: Key, created: Object) -> None:
        # A controller may have created this for an owner that went while the request was under way.
        owners = owner_uids(created)
        if owners and not any(uid in self._places for uid in owners):
            self._remover.discard(storage, key)

    def _collect_dependents(self, removed: Object) -> None:
        uid = removed["metadata"]["uid"]
        for storage, key in self.dependents(uid):
            dependent = self._store.get(storage, key)
            if dependent is not None and not any(owner in self._places for owner in owner_uids(dependent)):
                self._remover.discard(storage, key)
        self._dependents.pop(uid, None)

    def _release_owners(self, removed: Object) -> None:
        for uid in owner_uids(removed):
            place = self._places.get(uid)
            owner = self._store.get(*place) if place else None
            if place is None or owner is None or self._dependents.get(uid):
                continue
            if FOREGROUND in (owner["metadata"].get("finalizers") or ()):
                self._remover.release(*place, finalizer=FOREGROUND)


def owner_uids(candidate: Object) -> list[str]:
    """The uids an object names as its owners."""
    return [owner["uid"] for owner in candidate["metadata"].get("ownerReferences") or () if owner.get("uid")]
