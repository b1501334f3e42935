"""Removing old deletion markers, which otherwise pile up for every pod that ever was.

Each is removed by its sequence number, so a key that gets a value meanwhile is not touched. The last message
of the stream stays whatever it is: it keeps the stream's sequence across restarts of the server.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NoReturn

import msgspec

from shared.bus.errors import BusError, BusUnavailable, JetStreamError
from shared.bus.feed import Lost, open_feed
from shared.bus.records import is_marker
from shared.contract.base import M

if TYPE_CHECKING:
    from shared.bus.bucket import BucketStore

log = logging.getLogger(__name__)

_EVERY_SECONDS = 1800.0


class _Deleted(msgspec.Struct, frozen=True):
    success: bool = False


async def compact(store: BucketStore[M], *, older_than_seconds: float) -> int:
    """See :meth:`BucketStore.compact`."""
    settings = store.bus.settings
    session = await store.bus.session(seconds=settings.request_seconds)
    last = (await store.info(session)).state.last_seq
    before = (time.time() - older_than_seconds) * 1e9
    markers: list[int] = []
    try:
        async with open_feed(
            session,
            stream=store.stream,
            subjects=f"{store.subjects}>",
            start=1,
            heartbeat_seconds=settings.idle_heartbeat_seconds,
            headers_only=True,
        ) as feed:
            caught_up = feed.empty
            while not caught_up:
                deliveries, caught_up = await feed.next()
                for delivery in deliveries:
                    old = delivery.sequence < last and int(delivery.timestamp) <= before
                    if old and is_marker(delivery.message.headers):
                        markers.append(delivery.sequence)
                    caught_up = delivery.pending == 0
    except Lost as error:
        raise BusUnavailable(f"bucket {store.name}: {error}") from error
    removed = 0
    for sequence in markers:
        body = {"seq": sequence, "no_erase": True}
        try:
            await session.api(f"STREAM.MSG.DELETE.{store.stream}", body, as_type=_Deleted)
            removed += 1
        except JetStreamError:
            # Its key got a value since, so the marker has gone by itself.
            continue
    return removed


async def keep_compact(stores: Sequence[BucketStore[Any]]) -> NoReturn:
    """Compact buckets now and then, for ever: a task of the service that keeps them."""
    while True:
        await asyncio.sleep(_EVERY_SECONDS)
        for store in stores:
            try:
                await store.compact()
            except BusError as error:
                log.warning("deletion markers are kept for now: %s", error)
