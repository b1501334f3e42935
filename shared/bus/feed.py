"""One ordered consumer of one bucket on one connection.

Pushed, without acknowledgements, with flow control and idle heartbeats. Deliveries come in stream order
without gaps or :class:`Lost` is raised: when the connection ends, a consumer sequence is missing, or
the server is silent for two and a half heartbeats (which also is how the deletion of the stream shows). The
server forgets the consumer by itself soon after its subscriber has gone.
"""

from __future__ import annotations

import asyncio
import time
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import msgspec
from nats.aio.msg import Msg

from shared.bus.errors import JetStreamError, NotPermitted
from shared.bus.session import Session

_SILENT_HEARTBEATS = 2.5
_INACTIVE_SECONDS = 10


def boot_time() -> float:
    """Seconds since the machine was started, those included in which it was suspended."""
    return time.clock_gettime(time.CLOCK_BOOTTIME)


class Lost(Exception):
    """The feed cannot go on; a new one has to take over."""


@dataclass(frozen=True, slots=True)
class Delivery:
    """A message of the stream."""

    message: Msg
    sequence: int
    timestamp: str
    """When the server stored it, nanoseconds since 1970 in decimal."""
    pending: int
    """Messages that the server had yet to deliver after this one."""


class _Delivered(msgspec.Struct, frozen=True):
    consumer_seq: int = 0


class _ConsumerInfo(msgspec.Struct, frozen=True):
    created: datetime
    num_pending: int = 0
    delivered: _Delivered = _Delivered()


class Feed:
    """Made by :func:`open_feed`; read with :meth:`next`."""

    def __init__(self, session: Session, *, heartbeat_seconds: float) -> None:
        self.session = session
        self.created = datetime.min.replace(tzinfo=UTC)
        """When the feed began, by the server's clock."""
        self.empty = False
        """There was nothing to deliver when the feed began."""
        self._heard = asyncio.get_running_loop().time()
        self._suspended = boot_time() - self._heard
        self._silence = heartbeat_seconds * _SILENT_HEARTBEATS
        self._queue: deque[Msg] = deque()
        self._wake = asyncio.Event()
        self._consumer_sequence = 0
        self._refused: NotPermitted | None = None

    @property
    def heard(self) -> float:
        """Boot time at which the server certainly spoke.

        A suspension of the machine counts as silence: what was received behind it may have come before it.
        """
        return self._heard + self._suspended

    async def next(self) -> tuple[list[Delivery], bool]:
        """Everything that has come, at least one delivery or word that the server has nothing more (True)."""
        while True:
            while not self._queue:
                await self._wait()
            deliveries: list[Delivery] = []
            idle = False
            while self._queue:
                message = self._queue.popleft()
                if message.headers and "Status" in message.headers:
                    idle = await self._control(message)
                else:
                    deliveries.append(self._delivery(message))
                    idle = False
            if deliveries or idle:
                return deliveries, idle

    async def receive(self, message: Msg) -> None:
        """Called for each message to the feed's inbox."""
        self._heard = asyncio.get_running_loop().time()
        self._queue.append(message)
        self._wake.set()

    def refuse(self, error: NotPermitted) -> None:
        """Called when the server refuses the inbox."""
        self._refused = error
        self._wake.set()

    def wake(self) -> None:
        """Called when the session ends."""
        self._wake.set()

    async def _wait(self) -> None:
        if self._refused is not None:
            raise self._refused
        if self.session.ended.is_set():
            raise Lost("the connection ended")
        self._wake.clear()
        try:
            async with asyncio.timeout_at(self._heard + self._silence):
                await self._wake.wait()
        except TimeoutError:
            if asyncio.get_running_loop().time() >= self._heard + self._silence:
                raise Lost(f"NATS was silent for {self._silence:g} s") from None

    def _delivery(self, message: Msg) -> Delivery:
        # $JS.ACK.<stream>.<consumer>.<delivered>.<stream sequence>.<consumer sequence>.<time>.<pending>
        fields = message.reply.split(".")
        if len(fields) != 9:
            raise JetStreamError(f"{message.subject}: unknown form of delivery {message.reply!r}")
        if int(fields[6]) != self._consumer_sequence + 1:
            raise Lost(f"delivery {self._consumer_sequence + 1} is missing")
        self._consumer_sequence += 1
        return Delivery(message, int(fields[5]), fields[7], int(fields[8]))

    async def _control(self, message: Msg) -> bool:
        headers = message.headers or {}
        if headers["Status"] != "100":
            raise Lost(f"the server ended the consumer: {headers}")
        if message.reply:
            await self.session.publish(message.reply, b"")
            return False
        if stalled := headers.get("Nats-Consumer-Stalled"):
            await self.session.publish(stalled, b"")
            return False
        if int(headers.get("Nats-Last-Consumer", "0")) > self._consumer_sequence:
            raise Lost(f"deliveries after {self._consumer_sequence} are missing")
        return True


@asynccontextmanager
async def open_feed(
    session: Session,
    *,
    stream: str,
    subjects: str,
    start: int,
    heartbeat_seconds: float,
    headers_only: bool = False,
) -> AsyncIterator[Feed]:
    """A feed of the messages whose subject matches, from stream sequence ``start`` (at least 1) on."""
    feed = Feed(session, heartbeat_seconds=heartbeat_seconds)
    session.on_end(feed.wake)
    stop: Callable[[], Awaitable[None]] | None = None
    try:
        inbox = session.new_inbox()
        stop = await session.subscribe(inbox, feed.receive, refused=feed.refuse)
        config: dict[str, Any] = {
            "deliver_subject": inbox,
            "deliver_policy": "by_start_sequence",
            "opt_start_seq": start,
            "ack_policy": "none",
            "max_deliver": 1,
            "filter_subject": subjects,
            "replay_policy": "instant",
            "flow_control": True,
            "idle_heartbeat": int(heartbeat_seconds * 1e9),
            "inactive_threshold": int(_INACTIVE_SECONDS * 1e9),
            "mem_storage": True,
            "num_replicas": 1,
            "headers_only": headers_only,
        }
        made = await session.api(
            f"CONSUMER.CREATE.{stream}", {"stream_name": stream, "config": config}, as_type=_ConsumerInfo
        )
        feed.created = made.created
        feed.empty = made.num_pending == 0 and made.delivered.consumer_seq == 0
        yield feed
    finally:
        session.forget(feed.wake)
        if stop is not None:
            await stop()
