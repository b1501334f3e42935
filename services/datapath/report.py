"""Publishes what this node's kernel holds: after every change, and every few seconds as a sign of life."""

from __future__ import annotations

import asyncio

import msgspec

from services.datapath.realise import Realiser
from shared.bus import BucketStore
from shared.contract.names import token
from shared.contract.node import Realised
from shared.reconcile import Reconciler

_SIGN_OF_LIFE_SECONDS = 10.0
_INTERVAL_SECONDS = 0.01


class Reporter:
    """Writes this node's record in the bucket ``realised``. A failed write is tried again."""

    def __init__(self, realiser: Realiser, store: BucketStore[Realised], *, node: str) -> None:
        self._realiser = realiser
        self._store = store
        self._key = token(node)
        self._last: Realised | None = None
        self._spoke = 0.0
        self._reconciler = Reconciler(
            "realised record", self._publish, interval=_INTERVAL_SECONDS, resync=_SIGN_OF_LIFE_SECONDS
        )

    async def run(self) -> None:
        """Publishes for ever."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._reconciler.run(), name="publish realised record")
            tasks.create_task(self._listen(), name="listen for applications")

    async def _listen(self) -> None:
        while True:
            await self._realiser.changed()
            self._reconciler.trigger()

    async def _publish(self) -> None:
        now = asyncio.get_running_loop().time()
        record = self._realiser.report()
        quiet = self._last is not None and msgspec.structs.replace(self._last, time=record.time) == record
        if quiet and now - self._spoke < _SIGN_OF_LIFE_SECONDS / 2:
            return
        await self._store.put(self._key, record)
        self._last = record
        self._spoke = now
