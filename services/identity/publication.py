"""Brings the buckets of :data:`PUBLISHED` to the desired state.

Only keys whose published value differs are written. Order: settings, identity records, then what refers to
them, nodes, then deletions; identity records are never deleted here but when their number is released. So who
finds a node finds all that was known when this service first published. Keys whose write failed stay pending,
so a flush may be repeated until it succeeds; records that NATS does not take stay as they are published.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from itertools import islice

from services.identity import metrics
from services.identity.desired import Change, DesiredState
from shared.bus import BucketStore, Mirror
from shared.contract.base import Message
from shared.contract.names import Bucket
from shared.runtime.upkeep import Room

PUBLISHED = (Bucket.SETTINGS, Bucket.IDENTITIES, Bucket.ENDPOINTS, Bucket.IPCACHE, Bucket.NODES)
_PUT_TOGETHER = (
    (Bucket.SETTINGS,),
    (Bucket.IDENTITIES,),
    (Bucket.ENDPOINTS, Bucket.IPCACHE),
    (Bucket.NODES,),
)
_CHUNK = 1000


class Publication:
    """What of the desired state is still to be written."""

    def __init__(
        self,
        desired: DesiredState,
        *,
        stores: Mapping[Bucket, BucketStore[Message]],
        mirrors: Mapping[Bucket, Mirror[Message]],
        rooms: Mapping[Bucket, Room],
    ) -> None:
        self._desired = desired
        self._stores = stores
        self._mirrors = mirrors
        self._rooms = rooms
        self._pending: dict[Bucket, set[str]] = {bucket: set() for bucket in PUBLISHED}

    @property
    def idle(self) -> bool:
        """Nothing is left to compare or write."""
        return not any(self._pending.values())

    def note(self, changes: set[Change]) -> None:
        """Compare these keys at the next flush."""
        for bucket, key in changes:
            self._pending[bucket].add(key)

    def note_all(self, bucket: Bucket) -> None:
        """Compare every key that is desired or published."""
        self._pending[bucket] |= self._desired.of(bucket).keys() | self._mirrors[bucket].live_keys()

    async def flush(self) -> None:
        """Write all differences; raises a BusError (possibly in a group), and the rest stays pending."""
        for together in _PUT_TOGETHER:
            async with asyncio.TaskGroup() as tasks:
                for bucket in together:
                    tasks.create_task(self._put(bucket), name=f"put {bucket}")
        async with asyncio.TaskGroup() as tasks:
            for bucket in PUBLISHED:
                if bucket is not Bucket.IDENTITIES:
                    tasks.create_task(self._delete(bucket), name=f"delete {bucket}")

    async def _put(self, bucket: Bucket) -> None:
        desired, mirror = self._desired.of(bucket), self._mirrors[bucket]
        differing = []
        for key in sorted(self._pending[bucket]):
            value = desired.get(key)
            if value is not None and value != mirror.get(key):
                differing.append(key)
            elif value is not None or mirror.entry(key) is None or bucket is Bucket.IDENTITIES:
                self._pending[bucket].discard(key)
        await self._write(bucket, differing)

    async def _delete(self, bucket: Bucket) -> None:
        desired = self._desired.of(bucket)
        await self._write(bucket, [key for key in sorted(self._pending[bucket]) if key not in desired])

    async def _write(self, bucket: Bucket, keys: list[str]) -> None:
        desired, mirror, pending = self._desired.of(bucket), self._mirrors[bucket], self._pending[bucket]
        room, remaining = self._rooms[bucket], iter(keys)
        room.only(desired.__contains__)
        while chunk := list(islice(remaining, _CHUNK)):
            items = [(key, value) for key in chunk if room.fits(key, value := desired.get(key))]
            # Taken out first: a key that changes during the write is pending again afterwards.
            pending.difference_update(chunk)
            try:
                revision = await self._stores[bucket].put_many(items)
            except BaseException:
                pending.update(chunk)
                raise
            mirror.wrote(items, revision=revision)
            metrics.writes(bucket, items)
