"""Watch streams: the changes of one resource as one JSON document per line.

A stream carries every change after the revision it was asked to start from, in order, and ends when its time
is over, when the server drops it, or, cut short, when the client reads too slowly. In each case the client
resumes from the last ``resourceVersion`` it saw. A start that the log cannot serve is one ERROR event with a
410 ``Status``.

An object that begins or ceases to match the selectors is ADDED or DELETED, as the client sees it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec
from aiohttp import web

from .errors import BadRequest, StatusError
from .requests import ListOptions, Target
from .selectors import Predicate
from .store import Event, Object, Store, Subscription

BOOKMARK_INTERVAL = 60.0
"""Seconds between bookmarks on an idle stream, so that its client can resume after others have written
much."""

_DEFAULT_TIMEOUT = 3600.0
_INITIAL_EVENTS_END = {"annotations": {"k8s.io/initial-events-end": "true"}}

Render = Callable[[Object], Any]


class WatchStream:
    """One client's watch: ``serve`` runs it to its end."""

    def __init__(
        self, *, store: Store, target: Target, options: ListOptions, predicate: Predicate, render: Render
    ) -> None:
        self._store = store
        self._target = target
        self._options = options
        self._predicate = predicate
        self._render = render

    async def serve(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer ``request`` with the stream."""
        if self._options.initial_events is not None and self._options.match != "NotOlderThan":
            raise BadRequest("sendInitialEvents needs resourceVersionMatch=NotOlderThan")
        if self._options.initial_events and not self._options.bookmarks:
            raise BadRequest("sendInitialEvents needs allowWatchBookmarks=true")
        storage = self._target.resource.storage
        response = web.StreamResponse(
            headers={"Content-Type": "application/json", "Cache-Control": "no-cache"}
        )
        response.enable_chunked_encoding()

        def cut() -> None:
            if request.transport is not None:
                request.transport.abort()

        # Snapshot and subscription are taken in one step: no change can fall between them, none comes twice.
        try:
            initial, since = self._initial()
            subscription = self._store.subscribe(storage, since=since, on_break=cut)
        except StatusError as refused:
            await response.prepare(request)
            await response.write(_line("ERROR", refused.status()))
            await response.write_eof()
            return response
        try:
            await response.prepare(request)
            if initial:
                await response.write(b"".join(initial))
            await self._follow(response, subscription)
            await response.write_eof()
        finally:
            self._store.unsubscribe(storage, subscription)
        return response

    def _initial(self) -> tuple[list[bytes], int | None]:
        """The lines that come first, and the revision to replay from (None: from now)."""
        options = self._options
        if options.revision is not None:
            self._store.check_reached(options.revision)
        if options.initial_events is False or (
            options.initial_events is None and options.revision is not None
        ):
            return [], options.revision
        storage = self._target.resource.storage
        objects = self._store.listed(storage, namespace=self._target.namespace)
        lines = [_line("ADDED", self._render(item)) for _key, item in objects if self._matches(item)]
        if options.initial_events:
            lines.append(self._bookmark(_INITIAL_EVENTS_END))
        return lines, None

    async def _follow(self, response: web.StreamResponse, subscription: Subscription) -> None:
        loop = asyncio.get_running_loop()
        deadline = loop.time() + (self._options.timeout or _DEFAULT_TIMEOUT)
        while (left := deadline - loop.time()) > 0:
            wait = min(left, BOOKMARK_INTERVAL) if self._options.bookmarks else left
            try:
                async with asyncio.timeout(wait):
                    events = await subscription.read()
            except TimeoutError:
                # A bookmark past an unread change would make the client skip that change.
                if self._options.bookmarks and not subscription.unread:
                    await response.write(self._bookmark({}))
                continue
            lines = [line for event in events if (line := self._line_of(event))]
            if lines:
                await response.write(b"".join(lines))
            if subscription.ended:
                return

    def _line_of(self, event: Event) -> bytes:
        if self._target.namespace and event.key[0] != self._target.namespace:
            return b""
        was = event.previous is not None and self._matches(event.previous)
        matches = event.type != "DELETED" and self._matches(event.object)
        if matches:
            return _line("MODIFIED" if was else "ADDED", self._render(event.object))
        return _line("DELETED", self._render(event.object)) if was else b""

    def _matches(self, item: Object) -> bool:
        if self._target.name and item["metadata"]["name"] != self._target.name:
            return False
        return self._predicate(item)

    def _bookmark(self, extra: dict[str, Any]) -> bytes:
        resource = self._target.resource
        metadata = {"resourceVersion": str(self._store.revision), "creationTimestamp": None} | extra
        bookmark = {"kind": resource.kind, "apiVersion": resource.api_version, "metadata": metadata}
        return _line("BOOKMARK", bookmark)


def _line(kind: str, item: Any) -> bytes:
    return msgspec.json.encode({"type": kind, "object": item}) + b"\n"
