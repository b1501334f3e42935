"""Deletes what departed nodes have left in the buckets that only nodes write: claims and realised records.

A node has departed when the API server has not had its Node for some minutes, in which nothing that the node
wrote has changed either. A datapath that runs renews its record every few seconds; it would not notice that
its claims are gone, and they are of use again when its Node comes back.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence, Set
from typing import Any, NoReturn

from shared.bus import BucketMissing, BucketStore, Bus, BusError, RevisionConflict
from shared.contract.identity import Claim
from shared.contract.names import Bucket
from shared.contract.node import Realised

log = logging.getLogger(__name__)

DEPARTED_SECONDS = 300.0
_EVERY_SECONDS = 60.0

_Written = dict[tuple[int, str], int]
"""Revisions by the store's number and key."""


class Departures:
    """What is known of nodes that have no Node; times in seconds of any one clock."""

    def __init__(self, stores: Sequence[BucketStore[Any]], *, after: float = DEPARTED_SECONDS) -> None:
        self._stores = stores
        self._after = after
        self._quiet: dict[str, tuple[float, _Written]] = {}
        """By the node's key: since when it has written nothing, and what it wrote."""

    async def sweep(self, nodes: Set[str], *, now: float) -> None:
        """Look once; ``nodes`` are the keys of those that the API server has."""
        written = await self._written(without=nodes)
        quiet = {}
        for node, found in written.items():
            since, last = self._quiet.get(node, (now, found))
            quiet[node] = (since if last == found else now, found)
        self._quiet = quiet
        for node, (since, found) in quiet.items():
            if now - since >= self._after:
                await self._clear(node, found)

    async def _written(self, *, without: Set[str]) -> dict[str, _Written]:
        written: dict[str, _Written] = {}
        for number, store in enumerate(self._stores):
            try:
                keys = await store.keys()
            except BucketMissing:
                continue
            for key, revision in keys.items():
                node = key.partition(".")[0]
                if node not in without:
                    written.setdefault(node, {})[number, key] = revision
        return written

    async def _clear(self, node: str, found: _Written) -> None:
        log.info("deleting what the departed node %s has left: %d keys", node, len(found))
        for (number, key), revision in found.items():
            try:
                await self._stores[number].delete(key, revision=revision)
            except RevisionConflict:
                # Another replica was faster, or the node is back: then the next sweep finds it changed.
                continue


async def clear_departed(bus: Bus, *, nodes: Callable[[], Set[str] | None]) -> NoReturn:
    """Sweep for ever; ``nodes`` gives the keys of those that exist, None while that is not known."""
    departures = Departures(
        (await bus.bucket(Bucket.CLAIMS, as_type=Claim), await bus.bucket(Bucket.REALISED, as_type=Realised))
    )
    loop = asyncio.get_running_loop()
    while True:
        await asyncio.sleep(_EVERY_SECONDS)
        present = nodes()
        if present is None:
            continue
        try:
            await departures.sweep(present, now=loop.time())
        except BusError as error:
            log.warning("what departed nodes have left stays for now: %s", error)
