"""Removing old deletion markers, which otherwise pile up for every pod that ever was.

Each is removed by its sequence number, so a key that gets a value meanwhile is not touched. The last message
of the stream stays whatever it is: it keeps the stream's sequence across restarts of the server.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, NoReturn

import msgspec

from shared.bus.errors import BusError, JetStreamError
from shared.bus.survey import survey
from shared.contract.base import M

if TYPE_CHECKING:
    from shared.bus.bucket import BucketStore

log = logging.getLogger(__name__)

_EVERY_SECONDS = 1800.0


class _Deleted(msgspec.Struct, frozen=True):
    success: bool = False


async def compact(store: BucketStore[M], *, older_than_seconds: float) -> int:
    """See :meth:`BucketStore.compact`."""
    session = await store.bus.session(seconds=store.bus.settings.request_seconds)
    last = (await store.info(session)).state.last_seq
    async with aclosing(survey(store)) as held:
        markers = [
            each.revision
            async for each in held
            if each.is_marker and each.revision < last and each.age_seconds >= older_than_seconds
        ]
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
