"""List and watch one resource, for ever.

The first batch, and each one after the server has forgotten where we were (410 Gone), is a snapshot: the
list, read page by page. Then the events of the watch follow in order, coalesced per network read, each once:
it continues from the last ``resourceVersion`` (bookmarks included), and an event that has been delivered
already is skipped. Any other failure is retried with jittered exponential backoff, from where it was.

An empty snapshot withdraws everything, so nothing but a list of the resource's own kind is taken for one. A
404 may come from anything on the way to the API server, and leaves what is known as it is.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncGenerator, Callable
from dataclasses import dataclass
from typing import TypeVar

import aiohttp
import msgspec

from shared.kubernetes.api import Kubernetes, Object
from shared.kubernetes.errors import ApiError, Gone, Unreachable, api_error
from shared.kubernetes.resources import Resource

log = logging.getLogger(__name__)

T = TypeVar("T")

PAGE = 500
"""Objects per request of a list."""

_BACKOFF_SECONDS = (0.1, 10.0)
_WATCH_SECONDS = (240, 300)
_SILENCE_SECONDS = 90.0
"""API servers send a bookmark about every minute; a connection silent for longer is taken for dead."""


@dataclass(frozen=True, slots=True)
class ObjectChange:
    """What became of an object; ``object`` is None when it was deleted."""

    namespace: str
    name: str
    object: Object | None
    resource_version: str


@dataclass(frozen=True, slots=True)
class ObjectBatch:
    """What a watch yields. With ``snapshot`` the objects are all there are: forget the others."""

    snapshot: bool
    objects: tuple[ObjectChange, ...]


class _Metadata(msgspec.Struct, frozen=True):
    name: str
    namespace: str = ""
    resource_version: str = msgspec.field(default="", name="resourceVersion")


class _ListMetadata(msgspec.Struct, frozen=True):
    resource_version: str = msgspec.field(default="", name="resourceVersion")
    next_page: str = msgspec.field(default="", name="continue")


class _Page(msgspec.Struct, frozen=True):
    kind: str
    metadata: _ListMetadata
    items: list[Object] | None = None


class _Event(msgspec.Struct, frozen=True):
    type: str
    object: Object


_page_decoder = msgspec.json.Decoder(_Page)
_event_decoder = msgspec.json.Decoder(_Event)


def watch(
    api: Kubernetes,
    resource: Resource,
    *,
    namespace: str = "",
    label_selector: str = "",
    field_selector: str = "",
    on_problem: Callable[[str], None] | None = None,
) -> AsyncGenerator[ObjectBatch, None]:
    """All objects of a resource (of a namespace), then every change.

    ``on_problem`` hears a sentence when the watch cannot go on at present, and "" when it does again.
    """
    selectors = {"labelSelector": label_selector, "fieldSelector": field_selector}
    watcher = _Watch(api, resource, resource.path(namespace=namespace), selectors, on_problem)
    return watcher.batches()


class _Watch:
    def __init__(
        self,
        api: Kubernetes,
        resource: Resource,
        path: str,
        selectors: dict[str, str],
        on_problem: Callable[[str], None] | None,
    ) -> None:
        self._api = api
        self._resource = resource
        self._path = path
        self._selectors = {name: value for name, value in selectors.items() if value}
        self._on_problem = on_problem
        self._problem: str | None = None
        self._version = ""
        self._known: dict[tuple[str, str], int] = {}

    async def batches(self) -> AsyncGenerator[ObjectBatch, None]:
        least, greatest = _BACKOFF_SECONDS
        delay = least
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            try:
                if not self._version:
                    snapshot = await self._list()
                    self._tell("")
                    yield snapshot
                async for batch in self._events():
                    self._tell("")
                    yield batch
            except Gone as error:
                log.info("%s: listing again: %s", self._resource, error)
                self._version = ""
            except (ApiError, Unreachable) as error:
                self._tell(str(error))
            if loop.time() - began > max(delay, 1.0):
                delay = least
            await asyncio.sleep(delay * random.uniform(0.5, 1))  # noqa: S311 - jitter needs no cryptography
            delay = min(delay * 2, greatest)

    def _tell(self, problem: str) -> None:
        if problem == self._problem:
            return
        if problem:
            log.warning("%s: %s", self._resource, problem)
        elif self._problem:
            log.info("%s: watching again", self._resource)
        self._problem = problem
        if self._on_problem is not None:
            self._on_problem(problem)

    async def _list(self) -> ObjectBatch:
        items: list[Object] = []
        query = {**self._selectors, "limit": str(PAGE)}
        timeout = aiohttp.ClientTimeout(total=60)
        while True:
            async with self._api.open("GET", self._path, query=query, timeout=timeout) as response:
                page = self._decode_page(await response.read())
            items += page.items or ()
            if not page.metadata.next_page:
                break
            query["continue"] = page.metadata.next_page
        self._known = {}
        changes = tuple(self._change(item) for item in items)
        for change in changes:
            self._known[change.namespace, change.name] = _number(change.resource_version)
        self._version = page.metadata.resource_version
        return ObjectBatch(snapshot=True, objects=changes)

    def _decode_page(self, data: bytes) -> _Page:
        wanted = f"{self._resource.kind}List"
        try:
            page = _page_decoder.decode(data)
        except msgspec.DecodeError as error:
            raise Unreachable(f"GET {self._path}: the answer is not a {wanted}: {error}") from error
        if page.kind != wanted or not page.metadata.resource_version:
            raise Unreachable(f"GET {self._path}: the answer is not a {wanted}, it is of kind {page.kind!r}")
        return page

    async def _events(self) -> AsyncGenerator[ObjectBatch, None]:
        query = {
            **self._selectors,
            "watch": "true",
            "allowWatchBookmarks": "true",
            "resourceVersion": self._version,
            # Spread over time, so that many watches do not all begin anew at once.
            "timeoutSeconds": str(random.randint(*_WATCH_SECONDS)),  # noqa: S311 - jitter
        }
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=_SILENCE_SECONDS)
        async with self._api.open("GET", self._path, query=query, timeout=timeout) as response:
            self._tell("")
            rest = b""
            while chunk := await response.content.readany():
                *lines, rest = (rest + chunk).split(b"\n")
                changes: list[ObjectChange] = []
                failure: ApiError | Unreachable | None = None
                for line in filter(None, lines):
                    try:
                        change = self._event(line)
                    except (ApiError, Unreachable) as error:
                        failure = error
                        break
                    if change is not None:
                        changes.append(change)
                # What came before a bad line has been noted as delivered, so it must be delivered.
                if changes:
                    yield ObjectBatch(snapshot=False, objects=tuple(changes))
                if failure is not None:
                    raise failure

    def _event(self, line: bytes) -> ObjectChange | None:
        """The change in one line of the watch; None for a bookmark and for what was delivered before."""
        try:
            event = _event_decoder.decode(line)
        except msgspec.DecodeError as error:
            raise Unreachable(f"GET {self._path}: a line of the watch is not an event: {error}") from error
        if event.type == "ERROR":
            status = event.object
            raise api_error(
                f"watch {self._path}: {status.get('message', '')}",
                status=int(status.get("code") or 500),
                reason=str(status.get("reason", "")),
            )
        if event.type == "BOOKMARK":
            self._version = self._metadata(event.object, _ListMetadata).resource_version or self._version
            return None
        change = self._change(event.object)
        key = (change.namespace, change.name)
        number, reached = _number(change.resource_version), _number(self._version)
        if event.type == "DELETED":
            if self._known.pop(key, None) is None:
                return None
            change = ObjectChange(change.namespace, change.name, None, change.resource_version)
        else:
            if number and number <= self._known.get(key, reached):
                return None
            self._known[key] = number
        if number >= reached:
            self._version = change.resource_version
        return change

    def _change(self, item: Object) -> ObjectChange:
        metadata = self._metadata(item, _Metadata)
        return ObjectChange(metadata.namespace, metadata.name, item, metadata.resource_version)

    def _metadata(self, item: Object, as_type: type[T]) -> T:
        try:
            return msgspec.convert(item.get("metadata"), as_type)
        except msgspec.ValidationError as error:
            raise Unreachable(f"GET {self._path}: an object's metadata cannot be read: {error}") from error


def _number(version: str) -> int:
    """A resourceVersion as a number; 0 for one that is none, which is never taken for old."""
    return int(version) if version.isdigit() else 0
