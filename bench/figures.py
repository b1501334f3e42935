"""Samples and what is told of them: median, 99th percentile, least and greatest, by nearest rank.

A sample that was taken while others used the machine is left out, unless so few are left that they would say
less than all of them; then the figure counts all and says that it is disturbed.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import msgspec

_ENOUGH = 0.25
"""Share of the samples that must be quiet for the others to be left out."""


class Spread(msgspec.Struct, frozen=True, kw_only=True):
    """Of the samples that count."""

    median: float
    p99: float
    least: float
    greatest: float


class Figure(msgspec.Struct, frozen=True, kw_only=True):
    """One thing that was measured."""

    name: str
    unit: str
    command: str
    """Measures it again."""
    samples: int
    """That count."""
    left_out: int
    """Taken while others used the machine."""
    disturbed: bool
    """Too few samples were quiet, so all of them count."""
    spread: Spread
    to_plain: Spread | None = None
    """Ratio to plain routing in the same round."""


@dataclass
class Samples:
    """Of one figure, while it is being measured."""

    name: str
    unit: str
    values: list[tuple[float, bool]] = field(default_factory=list)

    def add(self, value: float, *, quiet: bool) -> None:
        """One more."""
        self.values.append((value, quiet))

    @property
    def quiet(self) -> int:
        """How many were taken while the machine was quiet."""
        return sum(quiet for _, quiet in self.values)

    def figure(self, *, command: str) -> Figure | None:
        """What is told; None without a sample."""
        if not self.values:
            return None
        counted, disturbed = counting(self.values)
        return Figure(
            name=self.name,
            unit=self.unit,
            command=command,
            samples=len(counted),
            left_out=len(self.values) - len(counted),
            disturbed=disturbed,
            spread=spread(counted),
        )


def counting(values: Sequence[tuple[float, bool]]) -> tuple[list[float], bool]:
    """The values that count, and whether they are disturbed ones too."""
    calm = [value for value, quiet in values if quiet]
    if len(calm) >= max(1.0, _ENOUGH * len(values)):
        return calm, False
    return [value for value, _ in values], True


def spread(values: Iterable[float]) -> Spread:
    """Of at least one value."""
    ordered = sorted(values)
    return Spread(
        median=_rank(ordered, 0.5), p99=_rank(ordered, 0.99), least=ordered[0], greatest=ordered[-1]
    )


def _rank(ordered: Sequence[float], share: float) -> float:
    return ordered[max(math.ceil(share * len(ordered)), 1) - 1]
