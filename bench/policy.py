"""`stentor bench policy`: scale, and what many policies cost a connection."""

from __future__ import annotations

from dataclasses import dataclass

from bench.manypolicies import measure_many
from bench.report import Record
from bench.scale import Scale, measure_scale
from bench.shown import Shown


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """What is measured."""

    scale: Scale
    rounds: int
    """0: nothing of connections."""
    seconds: float
    patience: float


async def measure_policy(wanted: Wanted, record: Record, *, shown: Shown) -> None:
    """Measure all that is wanted, into ``record``."""
    if wanted.scale.starts:
        await measure_scale(wanted.scale, record, shown=shown)
    if wanted.rounds:
        await measure_many(
            record, rounds=wanted.rounds, seconds=wanted.seconds, patience=wanted.patience, shown=shown
        )
