"""The objects, one revision counter, and the bounded log of changes that watches read.

Ordering: every write takes the next revision and reaches every subscription of its resource before the write
returns, so a subscription sees each change of its resource once and in revision order. Writers never wait for
readers: a subscription that falls too far behind is broken off, and its client resumes from the last revision
it saw.

An object handed in or out belongs to the store from then on and is never changed in place: a write makes a
new one.

Revisions start at the clock's milliseconds, so that a client of an earlier server that asks this one to
resume is told ``410 Gone`` rather than being given silence.
"""

from __future__ import annotations

import time
from asyncio import Event as Signal
from bisect import bisect_right
from collections import deque
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any, Literal, TypeAlias

import msgspec

from .errors import Expired, VersionTooLarge

Object: TypeAlias = dict[str, Any]
Key: TypeAlias = tuple[str, str]
"""Namespace (empty for cluster-scoped objects) and name."""


class Event(msgspec.Struct, frozen=True, kw_only=True, eq=False):
    """One change of one object. ``object`` is the new state, for DELETED the last one with a new revision."""

    type: Literal["ADDED", "MODIFIED", "DELETED"]
    revision: int
    storage: str
    key: Key
    object: Object
    previous: Object | None


Observer: TypeAlias = Callable[[Event], None]


class Subscription:
    """One watch's unread changes. Iterate with ``read``; ``end`` says why it is over."""

    def __init__(self, *, limit: int, on_break: Callable[[], None]) -> None:
        self._unread: deque[Event] = deque()
        self._limit = limit
        self._on_break = on_break
        self._signal = Signal()
        self.ended = False

    def offer(self, event: Event) -> None:
        """Queue ``event``, or break the subscription off when its reader is ``limit`` events behind."""
        if self.ended:
            return
        if len(self._unread) >= self._limit:
            self.end(abrupt=True)
            return
        self._unread.append(event)
        self._signal.set()

    def end(self, *, abrupt: bool = False) -> None:
        """End the stream after what is queued, or, if ``abrupt``, cut the connection at once."""
        self.ended = True
        self._signal.set()
        if abrupt:
            self._unread.clear()
            self._on_break()

    @property
    def unread(self) -> int:
        """How many changes wait to be read."""
        return len(self._unread)

    async def read(self) -> list[Event]:
        """Everything unread, waiting for at least one event; empty when the subscription has ended."""
        while not self._unread and not self.ended:
            self._signal.clear()
            await self._signal.wait()
        batch = list(self._unread)
        self._unread.clear()
        return batch


class _Log:
    """The recent events of one resource. Nothing at or before ``floor`` can be replayed."""

    def __init__(self, *, size: int, floor: int) -> None:
        self._events: deque[Event] = deque()
        self._size = size
        self.floor = floor

    def append(self, event: Event) -> None:
        self._events.append(event)
        while len(self._events) > self._size:
            self.floor = self._events.popleft().revision

    def forget(self, revision: int) -> None:
        self._events.clear()
        self.floor = revision

    def since(self, revision: int) -> Iterator[Event]:
        start = bisect_right(self._events, revision, key=lambda event: event.revision)
        return islice(self._events, start, None)


class Store:
    """Objects by resource and key; see the module's description for ordering and ownership."""

    def __init__(self, *, log_size: int = 4096, queue_size: int = 16384) -> None:
        self.revision = time.time_ns() // 1_000_000
        self._first = self.revision
        self._log_size = log_size
        self._queue_size = queue_size
        self._objects: dict[str, dict[Key, Object]] = {}
        self._logs: dict[str, _Log] = {}
        self._subscriptions: dict[str, set[Subscription]] = {}
        self._observers: list[Observer] = []

    def observe(self, observer: Observer) -> None:
        """Call ``observer`` on every change, in order, after it is committed and before the write returns."""
        self._observers.append(observer)

    def get(self, storage: str, key: Key) -> Object | None:
        """The object, or None."""
        return self._objects.get(storage, {}).get(key)

    def listed(self, storage: str, *, namespace: str = "") -> list[tuple[Key, Object]]:
        """The objects of a resource, of one namespace if given, sorted by namespace and name."""
        table = self._objects.get(storage, {})
        return [(key, table[key]) for key in sorted(table) if not namespace or key[0] == namespace]

    def storages(self) -> tuple[str, ...]:
        """The storage keys that hold, or once held, objects."""
        return tuple(self._objects)

    def put(self, storage: str, key: Key, new: Object) -> Object:
        """Create or replace an object; returns it with its new ``resourceVersion``."""
        table = self._objects.setdefault(storage, {})
        previous = table.get(key)
        stored = self._stamp(new)
        table[key] = stored
        self._publish("MODIFIED" if previous is not None else "ADDED", storage, key, stored, previous)
        return stored

    def remove(self, storage: str, key: Key, *, last: Object | None = None) -> Object:
        """Remove an object that exists; returns its last state (``last``, if it changed) with a new
        revision."""
        previous = self._objects[storage].pop(key)
        stored = self._stamp(previous if last is None else last)
        self._publish("DELETED", storage, key, stored, previous)
        return stored

    def subscribe(self, storage: str, *, since: int | None, on_break: Callable[[], None]) -> Subscription:
        """Every change after revision ``since``, or from now on if None.

        Raises ``Expired`` if the log no longer reaches back to ``since``, ``VersionTooLarge`` if it is from
        the future. Give the subscription back with ``unsubscribe``.
        """
        subscription = Subscription(limit=self._queue_size, on_break=on_break)
        if since is not None:
            for event in self.replay(storage, since=since):
                subscription.offer(event)
        self._subscriptions.setdefault(storage, set()).add(subscription)
        return subscription

    def unsubscribe(self, storage: str, subscription: Subscription) -> None:
        """Forget a subscription whose reader is gone."""
        self._subscriptions.get(storage, set()).discard(subscription)

    def replay(self, storage: str, *, since: int) -> list[Event]:
        """The logged events after ``since``; raises as ``subscribe`` does."""
        self.check_reached(since)
        log = self._log(storage)
        if since < log.floor:
            raise Expired(f"too old resource version: {since} ({log.floor})")
        return list(log.since(since))

    def check_reached(self, revision: int) -> None:
        """Raise ``VersionTooLarge`` unless this server has reached ``revision``."""
        if revision > self.revision:
            raise VersionTooLarge.of(revision, self.revision)

    def compact(self) -> None:
        """Forget the log: no earlier revision than the current one can be resumed from."""
        self._first = self.revision
        for log in self._logs.values():
            log.forget(self.revision)

    def compacted(self, storage: str) -> int:
        """The oldest revision from which a watch of ``storage`` can still be resumed."""
        return self._log(storage).floor

    def end_subscriptions(self, *, abrupt: bool) -> int:
        """End every open subscription; returns how many there were."""
        ended = 0
        for open_now in list(self._subscriptions.values()):
            for subscription in tuple(open_now):
                subscription.end(abrupt=abrupt)
                ended += 1
        return ended

    def _log(self, storage: str) -> _Log:
        return self._logs.setdefault(storage, _Log(size=self._log_size, floor=self._first))

    def _stamp(self, new: Object) -> Object:
        self.revision += 1
        return new | {"metadata": new["metadata"] | {"resourceVersion": str(self.revision)}}

    def _publish(
        self,
        kind: Literal["ADDED", "MODIFIED", "DELETED"],
        storage: str,
        key: Key,
        stored: Object,
        previous: Object | None,
    ) -> None:
        event = Event(
            type=kind, revision=self.revision, storage=storage, key=key, object=stored, previous=previous
        )
        self._log(storage).append(event)
        for subscription in tuple(self._subscriptions.get(storage, ())):
            subscription.offer(event)
        for observer in self._observers:
            observer(event)
