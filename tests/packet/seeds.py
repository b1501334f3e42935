"""Seeds for tests that try many; a failure names the one to try again."""

from __future__ import annotations

import os

SEEDS_PER_TEST = 100


def seeds(variable: str, count: int) -> list[range]:
    """Those to try, a test for each range.

    An environment variable may say how many from 0 on, instead of ``count``, or ``7-8`` for the one seed 7.
    """
    first, _, end = os.environ.get(variable, str(count)).rpartition("-")
    return [
        range(start, min(start + SEEDS_PER_TEST, int(end)))
        for start in range(int(first or 0), int(end), SEEDS_PER_TEST)
    ]
