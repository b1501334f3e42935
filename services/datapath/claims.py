"""This node's claims: which addresses it gave which pods, told to the identity service.

It owns the keys below this node's prefix in the bucket ``claims``. What they should be is what
:meth:`Claims.set` and :meth:`Claims.unset` say. This node's NATS user may write them but not read them (see
``deploy/nats/permissions.py``), so they are written again whenever a connection was lost. Deletions are
first, so that an address is never claimed by two pods for longer than one write. A write that fails is tried
again with the then wanted value until it succeeds: an outage of NATS delays claims and loses none. A claim
whose deletion was lost with the process is worth nothing: the identity service believes claims of pods that
exist only.

Only :meth:`Claims.published` waits, and raises :class:`NotRealised` at its deadline.
"""

from __future__ import annotations

import asyncio
import logging
import random
from collections.abc import Awaitable, Callable, Iterable
from typing import Protocol

from services.datapath.endpoints import LocalEndpoint
from services.datapath.errors import NotRealised
from shared.bus import BusError
from shared.contract.identity import Claim
from shared.contract.names import pod_key

log = logging.getLogger(__name__)

_BACKOFF_SECONDS = (0.1, 5.0)


class ClaimStore(Protocol):
    """The bucket ``claims``; :class:`shared.bus.bucket.BucketStore` is one."""

    async def put_many(self, items: Iterable[tuple[str, Claim | None]]) -> int:
        """Store or (None) delete in order; raises BusError."""
        ...


class Claims:
    """The claims of one node. :meth:`run` must be running for anything to be published."""

    def __init__(self, *, node: str, store: ClaimStore, reconnected: Callable[[], Awaitable[None]]) -> None:
        """``reconnected`` returns when the connection to NATS was lost and made again."""
        self._node = node
        self._store = store
        self._reconnected = reconnected
        self._wanted: dict[str, Claim] = {}
        self._dirty: dict[str, int] = {}
        self._changes = 0
        self._wake = asyncio.Event()
        self._settled = asyncio.Condition()
        self.last_error = ""
        """Why the last write failed; empty when it did not."""

    def set(self, endpoint: LocalEndpoint) -> None:
        """Claim the endpoint's addresses for its pod, in place of an earlier claim of that pod."""
        key = self._key(endpoint)
        claim = Claim(
            node=self._node,
            namespace=endpoint.namespace,
            pod=endpoint.pod,
            uid=endpoint.uid,
            container_id=endpoint.container_id,
            ips=endpoint.ips,
        )
        if self._wanted.get(key) != claim:
            self._wanted[key] = claim
            self._touch(key)

    def unset(self, endpoint: LocalEndpoint) -> None:
        """Withdraw the endpoint's claim, unless a newer container of the same pod has claimed since.

        Also one that an earlier process has made.
        """
        key = self._key(endpoint)
        claim = self._wanted.get(key)
        if claim is None or claim.container_id == endpoint.container_id:
            self._wanted.pop(key, None)
            self._touch(key)

    async def published(self, endpoint: LocalEndpoint, *, deadline: float) -> None:
        """Return when NATS has the endpoint's claim; ``deadline`` is a time of the event loop's clock."""
        key = self._key(endpoint)
        try:
            async with asyncio.timeout_at(deadline), self._settled:
                await self._settled.wait_for(lambda: key not in self._dirty)
        except TimeoutError as error:
            reason = f": {self.last_error}" if self.last_error else ""
            raise NotRealised(
                f"the claim of {endpoint.name} to {', '.join(endpoint.ips)} cannot be published{reason};"
                " is NATS reachable from this node?"
            ) from error

    async def run(self) -> None:
        """Publish for ever."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._renew(), name="renew own claims")
            tasks.create_task(self._write(), name="write own claims")

    def _key(self, endpoint: LocalEndpoint) -> str:
        return pod_key(node=self._node, namespace=endpoint.namespace, pod=endpoint.pod)

    def _touch(self, key: str) -> None:
        self._changes += 1
        self._dirty[key] = self._changes
        self._wake.set()

    async def _renew(self) -> None:
        while True:
            await self._reconnected()
            for key in self._wanted:
                self._touch(key)

    async def _write(self) -> None:
        least, greatest = _BACKOFF_SECONDS
        delay = least
        while True:
            await self._wake.wait()
            self._wake.clear()
            dirty = dict(self._dirty)
            items = sorted(((key, self._wanted.get(key)) for key in dirty), key=_deletions_first)
            try:
                await self._store.put_many(items)
            except BusError as error:
                self.last_error = str(error)
                log.warning("claims of %d pods are not published yet: %s", len(items), error)
                self._wake.set()
                await asyncio.sleep(delay * random.uniform(0.5, 1))  # noqa: S311 - jitter needs no cryptography
                delay = min(delay * 2, greatest)
                continue
            self.last_error = ""
            delay = least
            async with self._settled:
                self._dirty = {key: change for key, change in self._dirty.items() if dirty.get(key) != change}
                self._settled.notify_all()


def _deletions_first(item: tuple[str, Claim | None]) -> tuple[bool, str]:
    key, claim = item
    return claim is not None, key
