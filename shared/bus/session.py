"""One NATS connection from its beginning to its end; it never reconnects.

The :class:`~shared.bus.connection.Bus` makes a new session when one ends, so everything that lives on a
connection (reply inbox, subscriptions, ordered consumers) has exactly its lifetime and nothing that was
buffered for a dead connection is sent late. When a session ends all requests in flight fail with
:class:`BusUnavailable` and every ``on_end`` callback runs.
"""

from __future__ import annotations

import asyncio
import contextlib
import itertools
import logging
import re
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import msgspec
import nats.errors
from nats.aio.client import Client
from nats.aio.msg import Msg

from shared.bus.errors import BucketMissing, BusError, BusUnavailable, JetStreamError, NotPermitted, TooLarge
from shared.bus.settings import BusSettings

log = logging.getLogger(__name__)

R = TypeVar("R", bound=msgspec.Struct)

_CONGESTED_BYTES = 4 * 1024 * 1024
"""Bytes that may wait for the socket before publishers of flows and events are turned away."""

_KEEPALIVE_SECONDS = 2.0
_STREAM_NOT_FOUND = 10059
_NO_JETSTREAM = 10039
_API = "$JS.API."
IMPORTED_API = "$JS.CONTROL.API."
"""JetStream's API in an account that has none itself and imports that of another (``deploy/nats``)."""
_NO_RESPONDERS = "503"
_VIOLATION = re.compile(r'permissions violation for (publish|subscription) to "([^"]*)"')


class _NobodyListens(BucketMissing):
    """No stream and no service has the subject."""


class ApiError(msgspec.Struct, frozen=True):
    """The ``error`` of a JetStream response."""

    code: int
    err_code: int = 0
    description: str = ""


class _Failure(msgspec.Struct, frozen=True):
    error: ApiError | None = None


class Session:
    """A live connection. Made by :meth:`open` only."""

    def __init__(self, client: Client, settings: BusSettings) -> None:
        self._client = client
        self._settings = settings
        self._inbox = ""
        self._api = _API
        self._numbers = itertools.count()
        self._replies: dict[str, tuple[str, asyncio.Future[Msg]]] = {}
        self._listening: dict[str, Callable[[NotPermitted], None]] = {}
        self._keepalive: asyncio.Task[None] | None = None
        self._on_end: set[Callable[[], None]] = set()
        self.ended = asyncio.Event()
        self.last_error = ""

    @classmethod
    async def open(cls, settings: BusSettings, *, name: str) -> Session:
        """Connect once; raises :class:`BusUnavailable` when that fails."""
        client = Client()
        session = cls(client, settings)
        try:
            await client.connect(
                servers=settings.servers,
                name=name,
                user=settings.user or None,
                password=settings.read_password() or None,
                inbox_prefix=settings.inbox_prefix,
                allow_reconnect=False,
                max_reconnect_attempts=1,
                reconnect_time_wait=0,
                connect_timeout=2,
                ping_interval=10,
                max_outstanding_pings=2,
                # Without a limit the client never waits for the socket inside publish, where it would also
                # swallow a cancellation; ``congested`` and the window of puts in flight bound what piles up.
                pending_size=0,
                error_cb=session._on_error,
                closed_cb=session._on_closed,
            )
            session._inbox = client.new_inbox()
            await client.subscribe(f"{session._inbox}.*", cb=session._on_reply)
            await client.flush(2)
        except (OSError, nats.errors.Error, TimeoutError, ValueError) as error:
            await session.close()
            raise BusUnavailable(session.last_error or str(error) or type(error).__name__) from error
        session._keepalive = asyncio.create_task(session._watch(), name=f"nats keepalive {name}")
        return session

    async def close(self) -> None:
        """End the session; returns soon whatever the state of the network."""
        self._end()
        if self._keepalive is not None and self._keepalive is not asyncio.current_task():
            self._keepalive.cancel()
        with contextlib.suppress(OSError, nats.errors.Error, TimeoutError):
            async with asyncio.timeout(1):
                await self._client.close()

    def on_end(self, callback: Callable[[], None]) -> None:
        """Call back once when the session ends."""
        if self.ended.is_set():
            callback()
        else:
            self._on_end.add(callback)

    def forget(self, callback: Callable[[], None]) -> None:
        """Take back an :meth:`on_end`."""
        self._on_end.discard(callback)

    @property
    def congested(self) -> bool:
        """So much waits for the socket that a publisher would have to wait for the broker."""
        return self._client.pending_data_size > _CONGESTED_BYTES

    @property
    def max_payload(self) -> int:
        """Bytes that the server takes in one message."""
        return self._client.max_payload

    def new_inbox(self) -> str:
        """A fresh subject for replies to this user."""
        return self._client.new_inbox()

    async def publish(self, subject: str, data: bytes, *, reply: str = "") -> None:
        """Hand a message to the connection; no acknowledgement."""
        if self.ended.is_set():
            raise BusUnavailable("the connection to NATS has ended")
        try:
            await self._client.publish(subject, data, reply)
        except nats.errors.MaxPayloadError as error:
            raise self._too_large(subject, data) from error
        except (OSError, nats.errors.Error) as error:
            raise BusUnavailable(f"{subject}: {error}") from error

    async def subscribe(
        self,
        subject: str,
        callback: Callable[[Msg], Awaitable[None]],
        *,
        refused: Callable[[NotPermitted], None] | None = None,
    ) -> Callable[[], Awaitable[None]]:
        """Listen until the session ends or the returned coroutine function is called."""
        if refused is not None:
            self._listening[subject.lower()] = refused
        try:
            subscription = await self._client.subscribe(subject, cb=callback)
        except (OSError, nats.errors.Error) as error:
            raise BusUnavailable(f"{subject}: {error}") from error

        async def stop() -> None:
            if self._listening.get(subject.lower()) is refused:
                self._listening.pop(subject.lower(), None)
            if not self.ended.is_set():
                with contextlib.suppress(OSError, nats.errors.Error):
                    await subscription.unsubscribe()

        return stop

    async def flush(self) -> None:
        """Wait until the server has seen everything sent so far."""
        # Client.flush would not do: its PING overtakes what waits in the client's own buffer. A message to
        # ourselves does not, and a refusal of it is just as good an answer.
        number = str(next(self._numbers))
        future = self._expect(number, f"{self._inbox}.{number}")
        await self.publish(f"{self._inbox}.{number}", b"")
        with contextlib.suppress(NotPermitted):
            await self._within_time(future, "flush")

    async def start(
        self, subject: str, data: bytes, *, headers: dict[str, str] | None = None
    ) -> asyncio.Future[Msg]:
        """Send a request, in the order of calls; the future has the reply, or a :class:`BusError`."""
        if self.ended.is_set():
            raise BusUnavailable("the connection to NATS has ended")
        number = str(next(self._numbers))
        future = self._expect(number, subject)
        try:
            await self._client.publish(subject, data, f"{self._inbox}.{number}", headers)
        except nats.errors.MaxPayloadError as error:
            future.cancel()
            raise self._too_large(subject, data) from error
        except (OSError, nats.errors.Error) as error:
            future.cancel()
            raise BusUnavailable(f"{subject}: {error}") from error
        return future

    async def request(self, subject: str, data: bytes, *, headers: dict[str, str] | None = None) -> Msg:
        """One request and its reply."""
        return await self._within_time(await self.start(subject, data, headers=headers), subject)

    async def api(self, call: str, body: dict[str, Any], *, as_type: type[R]) -> R:
        """One JetStream API request, such as ``STREAM.INFO.<stream>``."""
        data = msgspec.json.encode(body) if body else b""
        try:
            return decode_response(await self.request(self._api + call, data), as_type=as_type, what=call)
        except (JetStreamError, _NobodyListens) as error:
            absent = isinstance(error, _NobodyListens) or error.code == _NO_JETSTREAM
            if not absent or self._api != _API:
                raise
            refused = error
        try:
            reply = await self.request(IMPORTED_API + call, data)
        except (_NobodyListens, NotPermitted):
            raise refused from None
        self._api = IMPORTED_API
        return decode_response(reply, as_type=as_type, what=call)

    def _too_large(self, subject: str, data: bytes) -> TooLarge:
        return TooLarge(f"{subject}: {len(data)} bytes, NATS takes at most {self._client.max_payload}")

    def _expect(self, number: str, subject: str) -> asyncio.Future[Msg]:
        future: asyncio.Future[Msg] = asyncio.get_running_loop().create_future()
        self._replies[number] = (subject, future)
        future.add_done_callback(lambda _: self._replies.pop(number, None))
        return future

    async def _within_time(self, future: asyncio.Future[Msg], what: str) -> Msg:
        seconds = self._settings.request_seconds
        try:
            async with asyncio.timeout(seconds):
                return await future
        except TimeoutError as error:
            raise BusUnavailable(f"{what}: no answer from NATS in {seconds:g} s") from error

    async def _on_reply(self, message: Msg) -> None:
        waiting = self._replies.get(message.subject.rpartition(".")[2])
        if waiting is None or waiting[1].done():
            return
        if message.headers and message.headers.get("Status") == _NO_RESPONDERS:
            waiting[1].set_exception(_NobodyListens(f"{waiting[0]}: nobody listens there"))
        else:
            waiting[1].set_result(message)

    async def _on_error(self, error: Exception) -> None:
        self.last_error = str(error) or type(error).__name__
        violation = _VIOLATION.search(self.last_error.lower())
        if violation is None:
            if not isinstance(error, OSError | TimeoutError | nats.errors.Error):
                log.error("a message could not be handled", exc_info=error)
            if isinstance(error, OSError | nats.errors.UnexpectedEOF | nats.errors.StaleConnectionError):
                self._end()
            return
        log.error("NATS refused: %s", self.last_error)
        # nats-py gives the server's text in lower case, so subjects can only be compared that way.
        if violation[1] == "subscription":
            if refused := self._listening.get(violation[2]):
                refused(NotPermitted(f"{violation[2]}: this NATS user may not subscribe to it"))
            return
        for subject, future in list(self._replies.values()):
            if subject.lower() == violation[2] and not future.done():
                future.set_exception(NotPermitted(f"{subject}: this NATS user may not publish to it"))

    async def _on_closed(self) -> None:
        self._end()

    async def _watch(self) -> None:
        # nats-py does not call back in every case when its read loop dies, so ask.
        while not self.ended.is_set():
            await asyncio.sleep(_KEEPALIVE_SECONDS)
            if self._client.is_closed:
                self._end()
            else:
                try:
                    await self._client.flush(int(_KEEPALIVE_SECONDS * 2))
                except (OSError, nats.errors.Error) as error:
                    self.last_error = str(error) or type(error).__name__
                    self._end()

    def _end(self) -> None:
        if self.ended.is_set():
            return
        self.ended.set()
        for subject, future in list(self._replies.values()):
            if not future.done():
                future.set_exception(BusUnavailable(f"{subject}: the connection to NATS ended"))
        callbacks, self._on_end = self._on_end, set()
        for callback in callbacks:
            callback()


def decode_response(message: Msg, *, as_type: type[R], what: str) -> R:
    """The reply of JetStream; raises :class:`BucketMissing` or :class:`JetStreamError` with its text."""
    try:
        failure = msgspec.json.decode(message.data, type=_Failure)
        if failure.error is None:
            return msgspec.json.decode(message.data, type=as_type)
    except msgspec.DecodeError as error:
        raise JetStreamError(f"{what}: NATS answered with what is not JetStream's: {error}") from error
    raise refusal(failure.error, what=what)


def refusal(error: ApiError, *, what: str) -> BusError:
    """The exception for an error that JetStream answered."""
    if error.err_code == _STREAM_NOT_FOUND:
        return BucketMissing(f"{what}: {error.description}")
    return JetStreamError(f"{what}: {error.description} ({error.err_code})", code=error.err_code)
