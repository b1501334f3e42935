"""Plain subjects: messages of any sender as they come, none kept.

A subscription outlives connections: each new one subscribes again. What was published in between is lost,
as everything on plain subjects may be. A reader that is too slow loses the oldest messages, counted in
``lost``; one that cannot be decoded is counted in ``malformed`` and logged by subject.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Mapping
from typing import Generic, Protocol, Self

from nats.aio.msg import Msg

from shared.bus.errors import BusUnavailable, NotPermitted
from shared.bus.session import Session
from shared.contract.base import ContractError, M, Message, decode, encode

log = logging.getLogger(__name__)

_CAPACITY = 65_536


class Attachment(Protocol):
    """Something that has to be set up again on each connection."""

    async def attach(self, session: Session) -> None:
        """Set up on a fresh session; may raise BusUnavailable when that one has ended meanwhile."""


class Attachments(Protocol):
    """Where attachments are registered: the Bus."""

    async def add(self, attachment: Attachment) -> None:
        """Attach now if connected, and on every later connection."""

    def remove(self, attachment: Attachment) -> None:
        """Attach it no longer."""


class Subscription(Generic[M]):
    """Messages of a subject (wildcards allowed) as ``(subject, message)``.

    Iterate it directly, or enter it as a context manager first: then nothing from there on is missed.
    """

    def __init__(
        self, subject: str, *, as_type: type[M] | Mapping[str, type[Message]], attachments: Attachments
    ) -> None:
        self.subject = subject
        self.lost = 0
        self.malformed = 0
        self._as_type = as_type
        self._attachments = attachments
        self._queue: deque[Msg] = deque()
        self._wake = asyncio.Event()
        self._refused: NotPermitted | None = None
        self._stop: Callable[[], Awaitable[None]] | None = None
        self._entered = False

    async def __aenter__(self) -> Self:
        if not self._entered:
            self._entered = True
            await self._attachments.add(self)
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> tuple[str, M]:
        await self.__aenter__()
        while True:
            while self._queue:
                received = self._queue.popleft()
                try:
                    return received.subject, self._decode(received)
                except ContractError as error:
                    self.malformed += 1
                    log.warning("unreadable message on %s: %s", received.subject, error)
            if self._refused is not None:
                raise self._refused
            self._wake.clear()
            await self._wake.wait()

    async def aclose(self) -> None:
        """Stop listening."""
        self._attachments.remove(self)
        if self._stop is not None:
            await self._stop()
            self._stop = None

    async def attach(self, session: Session) -> None:
        """Subscribe on a fresh session."""
        self._stop = await session.subscribe(self.subject, self._receive, refused=self._refuse)
        await session.flush()

    async def _receive(self, message: Msg) -> None:
        if len(self._queue) >= _CAPACITY:
            self._queue.popleft()
            self.lost += 1
        self._queue.append(message)
        self._wake.set()

    def _refuse(self, error: NotPermitted) -> None:
        self._refused = error
        self._wake.set()

    def _decode(self, message: Msg) -> M:
        wanted = self._as_type
        if isinstance(wanted, Mapping):
            last = message.subject.rpartition(".")[2]
            found = wanted.get(last) or wanted.get("*")
            if found is None:
                raise ContractError(f"no message type is known for {message.subject}")
            # The mapping's author promises that its types are M.
            return decode(message.data, as_type=found)  # type: ignore[return-value]
        return decode(message.data, as_type=wanted)


class Responder:
    """Answers every request on a subject with the message that ``reply`` makes at that moment."""

    def __init__(self, subject: str, reply: Callable[[], Message]) -> None:
        self._subject = subject
        self._reply = reply
        self._session: Session | None = None

    async def attach(self, session: Session) -> None:
        """Listen for requests on a fresh session."""
        self._session = session
        await session.subscribe(self._subject, self._receive)
        await session.flush()

    async def _receive(self, message: Msg) -> None:
        if message.reply and self._session is not None:
            try:
                await self._session.publish(message.reply, encode(self._reply()))
            except BusUnavailable as error:
                log.warning("could not answer %s: %s", self._subject, error)
