"""Following a bucket: a snapshot, then every change, across any loss of NATS.

Each connection (and each silence of the server) needs a new :class:`~shared.bus.feed.Feed`. It continues
after the last change seen, so that nothing is lost or seen twice, where that is safe:

* the stream is the same (by its time of creation) and has not gone back behind what was known;
* on another connection, where the server may have restarted and lost its last writes, the last change seen is
  still there as it was: the feed begins with that change, and its time of storage must be equal;
* the reader was not away for so long that deletion markers may have been compacted.

Otherwise the reader gets a new snapshot batch. Batches hold all that has come since the last one, in order
and without delay.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Generic

from shared.bus.errors import BucketMissing, BusUnavailable, EntryError, JetStreamError
from shared.bus.feed import Delivery, Feed, Lost, boot_time, open_feed
from shared.bus.records import MARKERS_KEPT_SECONDS, Batch, Entry, StreamInfo, is_marker
from shared.bus.session import Session
from shared.contract.base import ContractError, M

if TYPE_CHECKING:
    from shared.bus.bucket import BucketStore

log = logging.getLogger(__name__)

_RESUME_SECONDS = MARKERS_KEPT_SECONDS / 2
_WAIT_SECONDS = (0.05, 1.0)


@dataclass(slots=True)
class _Position:
    """How far the reader has come: the last change delivered, and the revision up to which all is known."""

    created: str
    session: Session
    seen_at: float
    """Boot time."""
    sequence: int = 0
    timestamp: str = ""
    revision: int = 0
    caught_up: bool = True


class _Unsure(Exception):
    """It is not certain that the stream still holds what the reader has seen."""


class _Follower(Generic[M]):
    def __init__(self, store: BucketStore[M], *, prefix: str) -> None:
        self._store = store
        self._prefix = prefix
        self._position: _Position | None = None

    async def batches(self) -> AsyncGenerator[Batch[M], None]:
        least, greatest = _WAIT_SECONDS
        wait = least
        store = self._store
        while True:
            try:
                session = await store.bus.session()
                info = await store.info(session)
                position = self._resumable(info)
                async with open_feed(
                    session,
                    stream=store.stream,
                    subjects=store.subjects + self._prefix,
                    start=max(position.sequence, 1) if position else 1,
                    heartbeat_seconds=store.bus.settings.idle_heartbeat_seconds,
                ) as feed:
                    wait = least
                    if position is None:
                        position = _Position(info.created, session, feed.heard, revision=info.state.last_seq)
                        snapshot = await self._snapshot(feed, position)
                        self._position = position
                        yield snapshot
                    elif batch := await self._resume(feed, position):
                        yield batch
                    async for batch in self._changes(feed, position):
                        yield batch
            except _Unsure:
                self._position = None
                continue
            except BucketMissing:
                if store.owner:
                    await self._create()
            except (Lost, BusUnavailable, JetStreamError) as error:
                log.info("bucket %s: reading again from %s: %s", store.name, self._where(), error)
            await asyncio.sleep(wait * random.uniform(0.5, 1))  # noqa: S311 - jitter needs no cryptography
            wait = min(wait * 2, greatest)

    async def _create(self) -> None:
        try:
            await self._store.ensure()
        except (BusUnavailable, JetStreamError) as error:
            log.warning("bucket %s cannot be created: %s", self._store.name, error)

    def _where(self) -> str:
        return f"revision {self._position.sequence}" if self._position else "the beginning"

    def _resumable(self, info: StreamInfo) -> _Position | None:
        position = self._position
        if position is None:
            return None
        away = boot_time() - position.seen_at
        same = position.created == info.created and info.state.last_seq >= position.revision
        return position if same and away < _RESUME_SECONDS else None

    async def _snapshot(self, feed: Feed, position: _Position) -> Batch[M]:
        entries: dict[str, Entry[M]] = {}
        errors: dict[str, EntryError] = {}
        caught_up = feed.empty
        while not caught_up:
            deliveries, idle = await feed.next()
            for delivery in deliveries:
                self._advance(position, delivery)
                key, read = self._read(delivery)
                entries.pop(key, None)
                errors.pop(key, None)
                if isinstance(read, EntryError):
                    errors[key] = read
                elif read.value is not None:
                    entries[key] = read
            caught_up = idle or (bool(deliveries) and deliveries[-1].pending == 0)
        position.seen_at = feed.heard
        return Batch(
            snapshot=True,
            entries=tuple(entries.values()),
            revision=position.revision,
            caught_up=True,
            errors=tuple(errors.values()),
        )

    async def _resume(self, feed: Feed, position: _Position) -> Batch[M] | None:
        """Check the ground on a new connection; returns what the first deliveries hold beyond it."""
        batch: Batch[M] | None = None
        if position.session is not feed.session and position.sequence > 0:
            deliveries: list[Delivery] = []
            if not feed.empty:
                deliveries, _ = await feed.next()
            seen = (position.sequence, position.timestamp)
            if not deliveries or (deliveries[0].sequence, deliveries[0].timestamp) != seen:
                raise _Unsure
            batch = self._batch(position, deliveries, idle=False)
        position.session = feed.session
        return batch

    async def _changes(self, feed: Feed, position: _Position) -> AsyncGenerator[Batch[M], None]:
        try:
            while True:
                deliveries, idle = await feed.next()
                if batch := self._batch(position, deliveries, idle=idle):
                    yield batch
        finally:
            position.seen_at = feed.heard

    def _batch(self, position: _Position, deliveries: list[Delivery], *, idle: bool) -> Batch[M] | None:
        entries: list[Entry[M]] = []
        errors: list[EntryError] = []
        caught_up = deliveries[-1].pending == 0 if deliveries else idle
        for delivery in deliveries:
            if delivery.sequence <= position.sequence:
                continue
            self._advance(position, delivery)
            _, read = self._read(delivery)
            if isinstance(read, EntryError):
                errors.append(read)
            else:
                entries.append(read)
        if not entries and not errors and caught_up == position.caught_up:
            return None
        position.caught_up = caught_up
        return Batch(
            snapshot=False,
            entries=tuple(entries),
            revision=position.revision,
            caught_up=caught_up,
            errors=tuple(errors),
        )

    @staticmethod
    def _advance(position: _Position, delivery: Delivery) -> None:
        position.sequence = delivery.sequence
        position.timestamp = delivery.timestamp
        position.revision = max(position.revision, delivery.sequence)

    def _read(self, delivery: Delivery) -> tuple[str, Entry[M] | EntryError]:
        message = delivery.message
        key = message.subject[len(self._store.subjects) :]
        if is_marker(message.headers):
            return key, Entry(key, None, delivery.sequence)
        try:
            return key, Entry(key, self._store.decode(key, message.data), delivery.sequence)
        except ContractError as error:
            return key, EntryError(str(error), key=key, revision=delivery.sequence)


def follow(store: BucketStore[M], *, prefix: str) -> AsyncGenerator[Batch[M], None]:
    """See :meth:`BucketStore.follow`."""
    return _Follower(store, prefix=prefix).batches()
