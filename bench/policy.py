"""`stentor bench policy`: scale, and what many policies cost a connection."""

from __future__ import annotations

from bench.scale import Wanted, measure_scale

__all__ = ["Wanted", "measure_scale"]
