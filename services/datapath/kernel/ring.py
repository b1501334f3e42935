"""Reads events from the rings and decodes them.

Events of one ring come in the order in which the kernel made them. The kernel counts those that found a
ring full (map ``events_lost``); :func:`lost` reads the counts.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
from collections.abc import Callable
from typing import NamedTuple

from services.datapath.kernel import libbpf
from services.datapath.kernel.layout import EVENT, RULE_NONE, U32, U64, unpacked
from services.datapath.kernel.maps import KernelMap
from services.datapath.kernel.source import CONSTANTS

EVENT_DROP = CONSTANTS["EVENT_DROP"]
EGRESS = CONSTANTS["EVENT_EGRESS"]
INGRESS = CONSTANTS["EVENT_INGRESS"]
REPLY = CONSTANTS["EVENT_REPLY"]
SERVICE = CONSTANTS["EVENT_SERVICE"]
AUDIT_EGRESS = CONSTANTS["EVENT_AUDIT_EGRESS"]
AUDIT_INGRESS = CONSTANTS["EVENT_AUDIT_INGRESS"]
AT_INGRESS = CONSTANTS["EVENT_AT_INGRESS"]


class RawEvent(NamedTuple):
    """``struct event`` with addresses as text and rules as None where none decided."""

    time: int
    """CLOCK_MONOTONIC, ns."""
    egress_set: int
    ingress_set: int
    source: str
    destination: str
    frontend: str
    source_identity: int
    destination_identity: int
    ifindex: int
    length: int
    source_port: int
    destination_port: int
    frontend_port: int
    egress_rule: int | None
    ingress_rule: int | None
    type: int
    reason: int
    flags: int
    family: int
    protocol: int
    tcp_flags: int
    icmp_type: int
    icmp_code: int


def decode(data: bytes) -> RawEvent:
    """One event as the kernel wrote it."""
    fields = EVENT.unpack(data)
    family = fields[18]
    return RawEvent(
        *fields[:3],
        *(unpacked(address, version=family) for address in fields[3:6]),
        *fields[6:10],
        *(int.from_bytes(port, "big") for port in fields[10:13]),
        *(None if rule == RULE_NONE else rule for rule in fields[13:15]),
        *fields[15:],
    )


_BATCH = 512
"""Events of one ring that are read before other tasks get their turn: a pod may cause them faster than they
can be read, and that must not keep its next policy from the kernel."""

_ENOUGH = -1
"""What the callback returns to end a pass; the loop comes back, as the ring stays readable."""


class EventRings:
    """Delivers batches of raw event bytes to ``deliver`` on the running loop, as they come."""

    def __init__(self, descriptors: list[int], deliver: Callable[[list[bytes]], None]) -> None:
        self._deliver = deliver
        self._batch: list[bytes] = []
        self._callback = libbpf.RING_CALLBACK(self._take)
        self._rings: list[tuple[int, int]] = []
        loop = asyncio.get_running_loop()
        for descriptor in descriptors:
            ring = libbpf.library().ring_buffer__new(descriptor, self._callback, None, None)
            if not ring:
                code = ctypes.get_errno()
                raise OSError(code, "ring_buffer__new: the event ring cannot be read")
            epoll = libbpf.call("ring_buffer__epoll_fd", ring)
            self._rings.append((ring, epoll))
            loop.add_reader(epoll, self._consume, ring)

    def close(self) -> None:
        """Stops reading; events stay in the rings."""
        loop = asyncio.get_running_loop()
        for ring, epoll in self._rings:
            loop.remove_reader(epoll)
            libbpf.library().ring_buffer__free(ring)
        self._rings.clear()

    def _take(self, _context: int, data: int, size: int) -> int:
        self._batch.append(ctypes.string_at(data, size))
        return _ENOUGH if len(self._batch) >= _BATCH else 0

    def _consume(self, ring: int) -> None:
        result = libbpf.library().ring_buffer__consume(ring)
        if result < 0 and len(self._batch) < _BATCH:
            raise OSError(-result, f"ring_buffer__consume: {os.strerror(-result)}")
        batch, self._batch = self._batch, []
        if batch:
            self._deliver(batch)


def lost(counters: KernelMap) -> dict[str, int]:
    """Events since the maps were made that found their ring full, by class."""
    return {
        name: sum(U64.unpack(value)[0] for value in counters.per_cpu(U32.pack(index)))
        for index, name in enumerate(("drop", "flow"))
    }
