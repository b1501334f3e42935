"""What every owner of buckets does so that they go on holding what it wants, though no input changes.

All is compared at first, now and then, and when the service has become current again; never while it is not
current. The buckets are read anew for that: no follower hears of a message that was deleted from the stream
itself.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from contextlib import aclosing

from shared.bus import Batch, BucketStore, Bus, BusUnavailable, Mirror, RevisionConflict
from shared.contract.base import M, Message, encode
from shared.contract.identity import EndpointRecord, IpEntry
from shared.contract.policy import PolicySet, PolicyStatus
from shared.contract.service import ServiceRecord
from shared.runtime.notices import Notices

log = logging.getLogger(__name__)

_READ_SECONDS = 60.0
_CONFLICTS = 10
_CONFLICT_SECONDS = 0.5
_HEADER_BYTES = 1024
"""NATS counts headers, too; ours are shorter."""

TOO_LARGE = "record-too-large"
"""Kind of the notice of a record that is beyond the server's ``max_payload``."""


class Upkeep:
    """When to compare everything; ``every`` in seconds."""

    def __init__(self, *, every: float) -> None:
        self._every = every
        self._at = 0.0

    def due(self, *, current: bool) -> bool:
        """Whether to do it now; if so, it is next due after ``every`` seconds."""
        if not current:
            self._at = 0.0
            return False
        now = asyncio.get_running_loop().time()
        if now < self._at:
            return False
        # A little less, so that a run which comes every so many seconds does it each time.
        self._at = now + self._every * 0.8
        return True


async def read_now(store: BucketStore[M]) -> Batch[M]:
    """A snapshot of the bucket."""
    try:
        async with asyncio.timeout(_READ_SECONDS), aclosing(store.follow()) as batches:
            return await anext(batches)
    except TimeoutError as error:
        raise BusUnavailable(f"bucket {store.name} could not be read in {_READ_SECONDS:g} s") from error


async def read_if_unlike(store: BucketStore[M], mirror: Mirror[M]) -> Batch[M] | None:
    """A snapshot of the bucket if it is not what the mirror says, though both have come equally far."""
    if (await store.keys()).keys() == mirror.live_keys():
        # Whatever has another value was heard of.
        return None
    batch = await read_now(store)
    if batch.revision != mirror.revision:
        return None
    if {entry.key: entry.value for entry in batch.entries} == dict(mirror.items()):
        return None
    log.warning("bucket %s does not hold what was published; it is put right", store.name)
    return batch


class Forestalled:
    """Publications in a row that other writers forestalled: among replicas some are, many are a failure."""

    def __init__(self) -> None:
        self._conflicts = 0

    def count(self, conflict: RevisionConflict) -> float:
        """One more; returns when to try again, on the loop's clock, or raises it when there were too many."""
        self._conflicts += 1
        if self._conflicts > _CONFLICTS:
            raise conflict
        log.info("reading first what somebody else has published: %s", conflict)
        return asyncio.get_running_loop().time() + _CONFLICT_SECONDS

    def over(self) -> None:
        """A publication was stored, or nothing was to be published."""
        self._conflicts = 0


class Room:
    """Whether NATS takes a record. One that it does not take is told of, and stays as it is published."""

    def __init__(self, bus: Bus, notices: Notices) -> None:
        self._bus = bus
        self._notices = notices
        self._large: set[str] = set()

    def fits(self, key: str, message: Message | None) -> bool:
        """False when the record is not to be put."""
        largest = self._bus.max_payload - _HEADER_BYTES
        size = 0 if message is None else len(encode(message))
        if message is None or largest <= 0 or size <= largest:
            self._forget({key})
            return True
        self._large.add(key)
        record = f"{type(message).__name__} {key}"
        object = _object(message) or record
        self._notices.report(
            TOO_LARGE,
            about=key,
            object=object,
            message=f"{object}: {record} stays as it is published, it would be larger than the {largest} "
            "bytes that NATS takes; make the object smaller, or raise max_payload of nats-server",
        )
        return False

    def only(self, exists: Callable[[str], bool]) -> None:
        """Other records are not there any more."""
        self._forget({key for key in self._large if not exists(key)})

    def _forget(self, keys: set[str]) -> None:
        for key in keys & self._large:
            self._large.discard(key)
            self._notices.clear(TOO_LARGE, about=key)


def _object(message: Message | None) -> str:
    """Whose the record is."""
    match message:
        case PolicySet():
            return ", ".join(f"{each.kind} {each.namespace}/{each.name}" for each in message.policies)
        case PolicyStatus():
            return f"{message.policy.kind} {message.policy.namespace}/{message.policy.name}"
        case ServiceRecord():
            return f"Service {message.namespace}/{message.name}"
        case EndpointRecord():
            return f"Pod {message.namespace}/{message.name}"
        case IpEntry():
            return f"Pod {message.namespace}/{message.pod}"
        case _:
            return ""
