"""One pass over all that a bucket's stream holds, without the values."""

from __future__ import annotations

from collections.abc import AsyncGenerator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from shared.bus.errors import BusUnavailable
from shared.bus.feed import Lost, open_feed
from shared.bus.records import is_marker
from shared.contract.base import M

if TYPE_CHECKING:
    from shared.bus.bucket import BucketStore


@dataclass(frozen=True, slots=True)
class Held:
    """A message of the stream: a value or a deletion marker."""

    key: str
    revision: int
    is_marker: bool
    age_seconds: float
    """Since it was stored, when the pass began, both by the server's clock."""


async def survey(store: BucketStore[M]) -> AsyncGenerator[Held, None]:
    """Every message once, in order; raises :class:`BusUnavailable` or :class:`BucketMissing`."""
    settings = store.bus.settings
    session = await store.bus.session(seconds=settings.request_seconds)
    try:
        async with open_feed(
            session,
            stream=store.stream,
            subjects=f"{store.subjects}>",
            start=1,
            heartbeat_seconds=settings.idle_heartbeat_seconds,
            headers_only=True,
        ) as feed:
            complete = feed.empty
            while not complete:
                deliveries, complete = await feed.next()
                for delivery in deliveries:
                    yield Held(
                        key=delivery.message.subject[len(store.subjects) :],
                        revision=delivery.sequence,
                        is_marker=is_marker(delivery.message.headers),
                        age_seconds=feed.created.timestamp() - int(delivery.timestamp) / 1e9,
                    )
                    complete = delivery.pending == 0
    except Lost as error:
        raise BusUnavailable(f"bucket {store.name}: {error}") from error
