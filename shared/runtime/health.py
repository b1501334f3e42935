"""Whether a service does its work, and if not, why.

A service names the parts that have to be ready (``kubernetes``, ``policy`` ...). It is ready when at least
one part was reported and none has a reason against it.
"""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from shared.contract.node import ServiceHealth

_PAGE_BYTES = os.sysconf("SC_PAGE_SIZE")


class Health:
    """The health of this process."""

    def __init__(self, service: str, *, node: str = "") -> None:
        self.service = service
        self.node = node
        self.instance = uuid.uuid4().hex[:12]
        """Differs after each start."""
        self.detail: dict[str, int] = {}
        """Counts worth showing, such as ``identities``."""
        self._started = time.monotonic()
        self._parts: dict[str, str] = {}
        self._checks: dict[str, Callable[[], str]] = {}
        self._on_ready: list[Callable[[], None]] = []

    def set_ready(self, part: str) -> None:
        """The part works."""
        self._parts[part] = ""
        if self._on_ready and self.ready:
            calls, self._on_ready = self._on_ready, []
            for call in calls:
                call()

    def on_ready(self, call: Callable[[], None]) -> None:
        """``call`` once, when a part's becoming ready makes the service so for the first time from now on."""
        self._on_ready.append(call)

    def set_not_ready(self, part: str, reason: str) -> None:
        """The part does not work; ``reason`` is a sentence for operators."""
        self._parts[part] = reason

    def add_check(self, part: str, reason: Callable[[], str]) -> None:
        """A part whose reason against being ready is asked for each time; "" when it works."""
        self._checks[part] = reason

    @property
    def reasons(self) -> tuple[str, ...]:
        """Why the service is not ready; empty when it is."""
        parts = self._parts | {part: reason() for part, reason in self._checks.items()}
        reasons = tuple(f"{part}: {reason}" for part, reason in sorted(parts.items()) if reason)
        return reasons if self._parts else ("starting", *reasons)

    @property
    def ready(self) -> bool:
        """The service does its work."""
        return not self.reasons

    def report(self) -> ServiceHealth:
        """The health as a message, now."""
        return ServiceHealth(
            service=self.service,
            instance=self.instance,
            node=self.node,
            ready=self.ready,
            reasons=self.reasons,
            uptime_seconds=round(time.monotonic() - self._started, 3),
            resident_bytes=resident_bytes(),
            detail=dict(self.detail),
        )


def resident_bytes() -> int:
    """Memory of this process that is in RAM (``/proc/self/statm``, second field, in pages)."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * _PAGE_BYTES
