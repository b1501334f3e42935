"""The bus: one user's lasting connection to NATS.

It owns one task that makes a :class:`Session`, waits for its end, and makes the next, for ever, with bounded
jittered backoff. Flows and events published while there is no connection, or while the broker does not keep
up, are dropped and counted in ``dropped``: they are worth nothing late. Puts and requests wait for a
connection for at most ``request_seconds`` and then raise :class:`BusUnavailable`.
"""

from __future__ import annotations

import asyncio
import logging
import random
import secrets
from collections.abc import Callable, Mapping

from nats.aio.msg import Msg

from shared.bus.bucket import BucketStore
from shared.bus.errors import BusUnavailable
from shared.bus.session import Session
from shared.bus.settings import BusSettings
from shared.bus.subscription import Attachment, Responder, Subscription
from shared.contract.base import ContractError, M, Message, decode, encode
from shared.contract.names import Bucket

log = logging.getLogger(__name__)

_BACKOFF_SECONDS = (0.05, 2.0)


def answers_subject(*, cluster: str, question: str) -> str:
    """Where answers to a question go: not an inbox, so that all services can be allowed to publish there."""
    return f"stentor.{cluster}.answer.{question}"


class Bus:
    """NATS as this process uses it. Made by :meth:`connect`, ended by :meth:`close`."""

    def __init__(self, settings: BusSettings, *, name: str) -> None:
        self.settings = settings
        self.cluster = settings.cluster
        self.name = name
        self.dropped = 0
        """Messages on plain subjects that were not sent because the broker was away or too slow."""
        self._session: Session | None = None
        self._up = asyncio.Event()
        self._renewed = asyncio.Event()
        """Set when the session after the present one begins, and then replaced."""
        self._attachments: list[Attachment] = []
        self._task: asyncio.Task[None] | None = None

    @classmethod
    async def connect(cls, settings: BusSettings, *, name: str) -> Bus:
        """Connect, trying until it works; ``name`` is shown in NATS's monitoring."""
        bus = cls(settings, name=name)
        bus._task = asyncio.create_task(bus._keep_connected(), name=f"nats connection {name}")
        try:
            await bus.session()
        except BaseException:
            await bus.close()
            raise
        return bus

    @property
    def connected(self) -> bool:
        """There is a connection at this moment."""
        return self._session is not None and not self._session.ended.is_set()

    @property
    def max_payload(self) -> int:
        """Bytes that a message may have, headers included; 0 while that is not known."""
        return self._session.max_payload if self._session is not None else 0

    async def close(self) -> None:
        """End the connection. Iterators of this bus wait for ever then: cancel their tasks first."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.wait([self._task])
        session, self._session = self._session, None
        self._up.clear()
        if session is not None:
            await session.close()

    async def watch(self) -> None:
        """Return when the bus was closed; raise if the task that keeps it connected failed."""
        if self._task is not None:
            await asyncio.wait([self._task])
            if not self._task.cancelled() and (error := self._task.exception()):
                raise error

    async def session(self, *, seconds: float | None = None) -> Session:
        """The live session; waits for one, at most ``seconds``, then raises :class:`BusUnavailable`."""
        try:
            async with asyncio.timeout(seconds):
                while True:
                    await self._up.wait()
                    if self._session is not None:
                        return self._session
        except TimeoutError as error:
            raise BusUnavailable(f"no connection to NATS at {self.settings.url} in {seconds:g} s") from error

    async def reconnected(self) -> None:
        """Return when the present connection was lost and another one made."""
        await self.session()
        await self._renewed.wait()

    async def publish(self, subject: str, message: Message) -> None:
        """Send to whoever listens, without acknowledgement; never waits for the broker, drops and counts."""
        session = self._session
        if session is None or session.congested:
            self.dropped += 1
            return
        try:
            await session.publish(subject, encode(message))
        except BusUnavailable:
            self.dropped += 1

    def subscribe(self, subject: str, *, as_type: type[M] | Mapping[str, type[Message]]) -> Subscription[M]:
        """Messages of a subject; a Mapping gives the type by the subject's last token, ``*`` for others."""
        return Subscription(subject, as_type=as_type, attachments=self)

    async def ask(self, subject: str, *, as_type: type[M], seconds: float) -> list[M]:
        """Ask everybody on ``subject`` and gather the readable answers that come within ``seconds``."""
        session = await self.session(seconds=self.settings.request_seconds)
        gathered: list[M] = []

        async def receive(message: Msg) -> None:
            if message.headers and "Status" in message.headers:
                return
            try:
                gathered.append(decode(message.data, as_type=as_type))
            except ContractError as error:
                log.warning("unreadable answer on %s: %s", subject, error)

        inbox = answers_subject(cluster=self.cluster, question=secrets.token_hex(12))
        stop = await session.subscribe(inbox, receive)
        await session.flush()
        try:
            await session.publish(subject, b"", reply=inbox)
            await asyncio.sleep(seconds)
        finally:
            await stop()
        return gathered

    async def answer(self, subject: str, reply: Callable[[], Message]) -> None:
        """Answer each request on ``subject`` for the life of the bus."""
        await self.add(Responder(subject, reply))

    async def bucket(
        self, name: Bucket, *, as_type: type[M] | Mapping[str, type[Message]], create: bool = False
    ) -> BucketStore[M]:
        """A bucket. Its owner creates it (``create``), now and whenever it has vanished; others wait for it.

        With a Mapping the first token of a key gives the type of its value.
        """
        store: BucketStore[M] = BucketStore(self, name, as_type=as_type, owner=create)
        if create:
            await store.ensure()
        return store

    async def add(self, attachment: Attachment) -> None:
        """Set up on the present connection, if any, and on each later one."""
        self._attachments.append(attachment)
        if self._session is not None:
            try:
                await attachment.attach(self._session)
            except BusUnavailable as error:
                log.info("will subscribe when connected again: %s", error)

    def remove(self, attachment: Attachment) -> None:
        """Set up no longer."""
        if attachment in self._attachments:
            self._attachments.remove(attachment)

    async def _keep_connected(self) -> None:
        least, greatest = _BACKOFF_SECONDS
        delay = least
        complaint = ""
        loop = asyncio.get_running_loop()
        while True:
            began = loop.time()
            try:
                session = await Session.open(self.settings, name=self.name)
            except BusUnavailable as error:
                if str(error) != complaint:
                    complaint = str(error)
                    log.warning("cannot connect to NATS at %s: %s", self.settings.url, complaint)
            else:
                complaint = ""
                try:
                    for attachment in list(self._attachments):
                        await attachment.attach(session)
                    self._session = session
                    renewed, self._renewed = self._renewed, asyncio.Event()
                    self._up.set()
                    renewed.set()
                    log.info("connected to NATS at %s", self.settings.url)
                    await session.ended.wait()
                    log.warning(
                        "lost the connection to NATS: %s", session.last_error or "closed by the server"
                    )
                except BusUnavailable as error:
                    log.warning("lost the connection to NATS while subscribing: %s", error)
                finally:
                    self._session = None
                    self._up.clear()
                    await session.close()
            delay = least if loop.time() - began > greatest else min(delay * 2, greatest)
            await asyncio.sleep(delay * random.uniform(0.5, 1))  # noqa: S311 - jitter needs no cryptography
