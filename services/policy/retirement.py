"""What is published but not wanted any more, and when it may be taken away.

A node may still go by a set, class or key until it has realised a commit that does not need it. So
something retired at a commit is released when every node has realised that commit and ``settle`` seconds
have passed, which gathers clean-ups; or after ``grace`` seconds, so that a dead node holds up nothing.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple


@dataclass(frozen=True, kw_only=True)
class Patience:
    """Seconds between retirement and release."""

    settle: float = 1.0
    grace: float = 60.0


class _Retired(NamedTuple):
    revision: int
    since: float


class Retirement:
    """Retired things by name. Times are of one monotonic clock, in seconds."""

    def __init__(self, patience: Patience) -> None:
        self._patience = patience
        self._retired: dict[str, _Retired] = {}

    def __len__(self) -> int:
        return len(self._retired)

    def update(self, names: Iterable[str], *, revision: int, now: float) -> None:
        """These, and no others, are retired; the new ones at ``revision``."""
        fresh = _Retired(revision, now)
        self._retired = {name: self._retired.get(name, fresh) for name in names}

    def released(self, name: str, *, realised: float, now: float) -> bool:
        """Whether it may be taken away, when every node has realised revision ``realised``."""
        retired = self._retired.get(name)
        return retired is not None and self._due(retired, realised=realised) <= now

    def any_released(self, *, realised: float, now: float) -> bool:
        """Whether there is something that may be taken away."""
        return any(self._due(item, realised=realised) <= now for item in self._retired.values())

    def next_due(self, *, realised: float, now: float) -> float | None:
        """When the next thing is released if no node realises more; None when all are, or none is retired."""
        due = (self._due(item, realised=realised) for item in self._retired.values())
        return min((time for time in due if time > now), default=None)

    def _due(self, retired: _Retired, *, realised: float) -> float:
        if realised >= retired.revision:
            return retired.since + self._patience.settle
        return retired.since + self._patience.grace
