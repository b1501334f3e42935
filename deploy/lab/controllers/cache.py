"""A local copy of one resource, kept by list and watch.

The copy is at some revision the server had, and moves forward only. A broken or ended watch resumes where it
was; one that the server cannot resume (410 Gone) lists again, and what vanished meanwhile is reported like a
deletion. Own writes can be put in at once with ``wrote``, so that the next decision is not taken on a state
before them.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TypeAlias

from .client import Client, Object, Resource
from .errors import ApiRefused, ApiUnreachable, Compacted

_log = logging.getLogger(__name__)

Key: TypeAlias = tuple[str, str]
Index: TypeAlias = Callable[[Object], Iterable[str]]
Listener: TypeAlias = Callable[[Object], None]

_FIRST_DELAY = 0.05
_LAST_DELAY = 5.0


def key_of(item: Object) -> Key:
    """Namespace (empty for cluster-scoped objects) and name."""
    return item["metadata"].get("namespace", ""), item["metadata"]["name"]


class Cache:
    """The objects of ``resource``, with named indexes from a string to the objects it yields."""

    def __init__(
        self, client: Client, resource: Resource, *, indexes: Mapping[str, Index] | None = None
    ) -> None:
        self._client = client
        self._resource = resource
        self.name = resource.plural
        self._indexes = dict(indexes or {})
        self._objects: dict[Key, Object] = {}
        self._index: dict[tuple[str, str], set[Key]] = {}
        self._listeners: list[Listener] = []
        self._revision = 0
        self.synced = asyncio.Event()

    def listen(self, listener: Listener) -> None:
        """Call ``listener`` with the old and the new state of whatever changes."""
        self._listeners.append(listener)

    def get(self, key: Key) -> Object | None:
        """The object, or None."""
        return self._objects.get(key)

    def __iter__(self) -> Iterator[Object]:
        return iter([self._objects[key] for key in sorted(self._objects)])

    def by(self, index: str, value: str) -> list[Object]:
        """The objects for which ``index`` yields ``value``, by namespace and name."""
        return [self._objects[key] for key in sorted(self._index.get((index, value), ()))]

    def wrote(self, item: Object) -> None:
        """Put in the server's answer to a write, unless the watch has passed it already."""
        revision = _revision_of(item)
        known = self._objects.get(key_of(item))
        if revision > self._revision and (known is None or revision > _revision_of(known)):
            self._set(key_of(item), item)

    def removed(self, item: Object) -> None:
        """Take out an object that the server said is gone; the watch confirms it later."""
        known = self._objects.get(key_of(item))
        if known is not None and known["metadata"]["uid"] == item["metadata"]["uid"]:
            self._set(key_of(item), None)

    async def run(self) -> None:
        """Follow the server until cancelled."""
        delay, listed = _FIRST_DELAY, False
        while True:
            try:
                if not listed:
                    await self._relist()
                    listed = True
                async for event in self._client.watch(self._resource, revision=str(self._revision)):
                    delay = _FIRST_DELAY
                    self._apply(event.type, event.object)
                _log.debug("%s: the watch ended at %d", self.name, self._revision)
            except Compacted:
                listed = False
                _log.info("%s: the server forgot revision %d; listing again", self.name, self._revision)
            except (ApiRefused, ApiUnreachable) as failed:
                # After a refusal this may be another server, with other objects: only a list tells.
                listed = listed and isinstance(failed, ApiUnreachable)
                _log.warning("%s: %s; trying again in %.2f s", self.name, failed, delay)
            await asyncio.sleep(delay)
            delay = min(2 * delay, _LAST_DELAY)

    async def _relist(self) -> None:
        items, revision = await self._client.list(self._resource)
        found = {key_of(item): item for item in items}
        for key in [key for key in self._objects if key not in found]:
            self._set(key, None)
        for key, item in found.items():
            if self._objects.get(key) != item:
                self._set(key, item)
        self._revision = int(revision)
        self.synced.set()

    def _apply(self, kind: str, item: Object) -> None:
        revision = _revision_of(item)
        if kind != "BOOKMARK":
            key = key_of(item)
            known = self._objects.get(key)
            # An own write may be ahead of the watch; what the watch says of the time before it is over.
            if known is None or revision > _revision_of(known):
                self._set(key, None if kind == "DELETED" else item)
        self._revision = max(self._revision, revision)

    def _set(self, key: Key, item: Object | None) -> None:
        old = self._objects.pop(key, None)
        for name, index in self._indexes.items():
            for value in index(old) if old is not None else ():
                self._index.get((name, value), set()).discard(key)
            for value in index(item) if item is not None else ():
                self._index.setdefault((name, value), set()).add(key)
        if item is not None:
            self._objects[key] = item
        for listener in self._listeners:
            for state in (old, item):
                if state is not None:
                    listener(state)


def _revision_of(item: Object) -> int:
    return int(item["metadata"]["resourceVersion"])
