"""A JetStream key-value bucket with typed values.

A bucket is the stream ``KV_<bucket>`` with the subjects ``$KV.<bucket>.>``, one message kept per key; a
revision is the stream's sequence number. Deletion leaves a marker, so that a reader that was away learns
of it; :meth:`BucketStore.compact` removes markers that every reader has had the time to see.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import re
from collections import deque
from collections.abc import AsyncGenerator, Iterable, Mapping
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Generic, cast

import msgspec
from nats.aio.msg import Msg

from shared.bus.compact import compact
from shared.bus.errors import (
    BadKey,
    BucketMissing,
    BusError,
    BusUnavailable,
    JetStreamError,
    KeyExists,
    RevisionConflict,
)
from shared.bus.follow import follow
from shared.bus.records import DELETED, MARKERS_KEPT_SECONDS, OPERATION, Batch, Entry, StreamInfo
from shared.bus.session import ApiError, Session, refusal
from shared.bus.survey import survey
from shared.contract.base import ContractError, M, Message, decode, encode
from shared.contract.names import Bucket

if TYPE_CHECKING:
    from shared.bus.connection import Bus

log = logging.getLogger(__name__)

_KEY = re.compile(r"[-/_=a-zA-Z0-9]+(\.[-/_=a-zA-Z0-9]+)*")
_EXPECTED = "Nats-Expected-Last-Subject-Sequence"
_EXPECTED_LAST = "Nats-Expected-Last-Sequence"
_WRONG_SEQUENCE = 10071
_NO_MESSAGE = 10037
_NAME_IN_USE = 10058
_WINDOW = 2048
"""Puts of :meth:`BucketStore.put_many` that may be under way at once."""


class _Stored(msgspec.Struct, frozen=True):
    subject: str
    seq: int
    data: str = ""
    hdrs: str = ""


class _Got(msgspec.Struct, frozen=True):
    message: _Stored


class _Configured(msgspec.Struct, frozen=True):
    config: dict[str, Any]


class _Ack(msgspec.Struct, frozen=True):
    seq: int = 0
    error: ApiError | None = None


_ack_decoder = msgspec.json.Decoder(_Ack)


class BucketStore(Generic[M]):
    """One bucket, read and written as messages of type ``M``."""

    def __init__(
        self, bus: Bus, bucket: Bucket, *, as_type: type[M] | Mapping[str, type[Message]], owner: bool
    ) -> None:
        self.bus = bus
        self.name = bucket.of(bus.cluster)
        self.stream = f"KV_{self.name}"
        self.subjects = f"$KV.{self.name}."
        self.owner = owner
        self._as_type = as_type

    async def ensure(self) -> None:
        """Create the bucket; one that exists with other settings is given these."""
        session = await self._session()
        wanted: dict[str, Any] = {
            "name": self.stream,
            "subjects": [f"{self.subjects}>"],
            "retention": "limits",
            "discard": "new",
            "storage": "file",
            "max_msgs_per_subject": 1,
            "max_consumers": -1,
            "max_msgs": -1,
            "max_bytes": -1,
            "max_age": 0,
            "max_msg_size": -1,
            "num_replicas": 1,
            # With it, whoever may write one key may purge all others by a header.
            "allow_rollup_hdrs": False,
            # Clients take to it where they see it, and nobody is permitted to (deploy/nats/permissions.py).
            "allow_direct": False,
        }
        try:
            await session.api(f"STREAM.CREATE.{self.stream}", wanted, as_type=StreamInfo)
        except JetStreamError as error:
            if error.code != _NAME_IN_USE:
                raise
            await self._update_settings(session, wanted)

    async def put(self, key: str, message: M) -> int:
        """Store the value; returns its revision."""
        return await self._write(key, encode(message))

    async def delete(self, key: str, *, revision: int | None = None) -> int:
        """Delete the key, which may have no value; returns the marker's revision.

        With ``revision`` only if that is the key's revision still, else raises :class:`RevisionConflict`.
        """
        headers = {OPERATION: "DEL"}
        if revision is not None:
            headers[_EXPECTED] = str(revision)
        return await self._write(key, b"", headers=headers)

    async def create(self, key: str, message: M) -> int:
        """Store the value of a key that has none; raises :class:`KeyExists` otherwise."""
        try:
            return await self._write(key, encode(message), headers={_EXPECTED: "0"})
        except RevisionConflict:
            stored = await self._stored(key)
        if stored is not None and not _is_deleted(stored):
            raise KeyExists(f"{self.name} {key}: has a value since revision {stored.seq}")
        try:
            return await self.update(key, message, revision=stored.seq if stored else 0)
        except RevisionConflict as error:
            raise KeyExists(f"{self.name} {key}: was created by another writer meanwhile") from error

    async def update(self, key: str, message: M, *, revision: int) -> int:
        """Store the value if the key's revision is still this one, else raise :class:`RevisionConflict`."""
        return await self._write(key, encode(message), headers={_EXPECTED: str(revision)})

    async def put_many(self, items: Iterable[tuple[str, M | None]], *, after: int | None = None) -> int:
        """Store (or with None delete) many keys, in order and pipelined; returns the last revision.

        The last item is sent only when all others are stored, so that it can close a publication. Raises the
        first failure, naming its key; items before and some after it may be stored: put all of them again.

        With ``after`` the last item is stored only if the items have the revisions that follow it without a
        gap: when anybody else has stored anything, or the bucket is not the one that had that revision,
        :class:`RevisionConflict` or :class:`BucketMissing` is raised. So what the last item closes is exactly
        the bucket as it was at ``after``, with these items. If the other's write came before the first item
        nothing is stored; if it came between two, items behind it may be, as they were under way.
        """
        wanted = list(items)
        if not wanted:
            return await self.last_revision()
        try:
            return await self._put_in_order(wanted, after=after)
        except BucketMissing:
            if not self.owner or after is not None:
                raise
        await self.ensure()
        return await self._put_in_order(wanted, after=None)

    async def get(self, key: str) -> Entry[M] | None:
        """The key's value as stored now, None without one; raises ContractError when it cannot be read."""
        stored = await self._stored(key)
        if stored is None or _is_deleted(stored):
            return None
        return Entry(key=key, value=self.decode(key, base64.b64decode(stored.data)), revision=stored.seq)

    async def keys(self) -> dict[str, int]:
        """The revision of each key that has a value now; costs less than reading the values."""
        async with aclosing(survey(self)) as held:
            return {each.key: each.revision async for each in held if not each.is_marker}

    async def last_revision(self) -> int:
        """Sequence number of the last change of any key."""
        return (await self.info(await self._session())).state.last_seq

    def follow(self, *, prefix: str = ">") -> AsyncGenerator[Batch[M], None]:
        """One snapshot of the keys that match ``prefix`` (such as ``node-1.>``), then changes, for ever.

        Waits for the bucket when it does not exist. Survives any loss of NATS; see :mod:`shared.bus.follow`.
        Raises only :class:`NotPermitted`.
        """
        return follow(self, prefix=prefix)

    async def compact(self, *, older_than_seconds: float = MARKERS_KEPT_SECONDS) -> int:
        """Remove deletion markers older than this; for the bucket's owner, now and then; returns how many."""
        return await compact(self, older_than_seconds=older_than_seconds)

    async def info(self, session: Session) -> StreamInfo:
        """The stream behind the bucket; raises :class:`BucketMissing`."""
        return await session.api(f"STREAM.INFO.{self.stream}", {}, as_type=StreamInfo)

    def decode(self, key: str, data: bytes) -> M:
        """The value of a key; raises ContractError naming the field."""
        wanted = self._as_type
        if isinstance(wanted, Mapping):
            first = key.partition(".")[0]
            found = wanted.get(first)
            if found is None:
                raise ContractError(f"{key}: no message type is known for keys that begin with {first!r}")
            # The mapping's author promises that its types are M.
            return cast(M, decode(data, as_type=found))
        return decode(data, as_type=wanted)

    async def _update_settings(self, session: Session, wanted: dict[str, Any]) -> None:
        found = (await session.api(f"STREAM.INFO.{self.stream}", {}, as_type=_Configured)).config
        # Those who run the servers choose how many copies there are.
        updated = {**found, **wanted, "num_replicas": found["num_replicas"]}
        changes = {name: value for name, value in updated.items() if found.get(name) != value}
        if changes:
            await session.api(f"STREAM.UPDATE.{self.stream}", updated, as_type=StreamInfo)
            log.warning("bucket %s had other settings; these were changed: %s", self.name, changes)

    async def _session(self) -> Session:
        return await self.bus.session(seconds=self.bus.settings.request_seconds)

    def _subject(self, key: str) -> str:
        if not _KEY.fullmatch(key):
            raise BadKey(f"{self.name} {key!r}: a key may hold letters, digits, - / _ = and single dots")
        return self.subjects + key

    async def _write(self, key: str, data: bytes, *, headers: dict[str, str] | None = None) -> int:
        subject = self._subject(key)
        for attempt in (1, 2):
            session = await self._session()
            try:
                return _acknowledged(
                    await session.request(subject, data, headers=headers), f"{self.name} {key}"
                )
            except BucketMissing:
                if attempt == 2 or not self.owner:
                    raise BucketMissing(
                        f"{self.name} {key}: the bucket does not exist (yet); its owner creates it"
                    ) from None
                await self.ensure()
        raise AssertionError

    async def _put_in_order(self, items: list[tuple[str, M | None]], *, after: int | None) -> int:
        session = await self._session()
        waiting: deque[tuple[str, asyncio.Future[Msg]]] = deque()
        last = len(items) - 1
        try:
            for number, item in enumerate(items):
                # After a refused first item one behind it could just fit the revision of another writer's.
                if number == last or (number == 1 and after is not None):
                    while waiting:
                        await self._next_acknowledged(waiting)
                await self._send(session, item, waiting, after=None if after is None else after + number)
            return await self._next_acknowledged(waiting)
        finally:
            for _, future in waiting:
                future.cancel()

    async def _send(
        self,
        session: Session,
        item: tuple[str, M | None],
        waiting: deque[tuple[str, asyncio.Future[Msg]]],
        *,
        after: int | None,
    ) -> None:
        if len(waiting) >= _WINDOW:
            await self._next_acknowledged(waiting)
        key, message = item
        subject = self._subject(key)
        headers = {} if message is not None else {OPERATION: "DEL"}
        if after is not None:
            headers[_EXPECTED_LAST] = str(after)
        data = b"" if message is None else encode(message)
        waiting.append((key, await session.start(subject, data, headers=headers or None)))

    async def _next_acknowledged(self, waiting: deque[tuple[str, asyncio.Future[Msg]]]) -> int:
        key, future = waiting[0]
        try:
            if not future.done():
                async with asyncio.timeout(self.bus.settings.request_seconds):
                    await asyncio.wait([future])
            revision = _acknowledged(future.result(), f"{self.name} {key}")
        except TimeoutError as error:
            raise BusUnavailable(f"{self.name} {key}: the put was not acknowledged in time") from error
        except BusError as error:
            raise type(error)(f"{self.name} {key}: {error}") from error
        finally:
            if future.done():
                waiting.popleft()
        return revision

    async def _stored(self, key: str) -> _Stored | None:
        session = await self._session()
        body = {"last_by_subj": self._subject(key)}
        try:
            return (await session.api(f"STREAM.MSG.GET.{self.stream}", body, as_type=_Got)).message
        except JetStreamError as error:
            if error.code == _NO_MESSAGE:
                return None
            raise


def _is_deleted(stored: _Stored) -> bool:
    headers = base64.b64decode(stored.hdrs).decode(errors="replace")
    return any(f"{OPERATION}: {operation}" in headers for operation in DELETED)


def _acknowledged(reply: Msg, what: str) -> int:
    try:
        ack = _ack_decoder.decode(reply.data)
    except msgspec.DecodeError as error:
        raise JetStreamError(f"{what}: NATS answered with what is not an acknowledgement: {error}") from error
    if ack.error is None:
        return ack.seq
    if ack.error.err_code == _WRONG_SEQUENCE:
        raise RevisionConflict(f"{what}: {ack.error.description}")
    raise refusal(ack.error, what=what)
