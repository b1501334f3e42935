"""What one entry for each allowed identity and block of ports would come to."""

from __future__ import annotations

import pytest

from bench.rows import entries_of, port_blocks
from shared.contract.base import Protocol
from shared.contract.policy import Action, PortRange, Row


@pytest.mark.parametrize(
    ("first", "last", "blocks"),
    [
        (80, 80, 1),
        (0, 65_535, 1),
        (1, 65_535, 16),
        (8000, 9000, 7),
        (1024, 2047, 1),
        (1023, 2048, 3),
        (65_535, 65_535, 1),
    ],
)
def test_a_range_takes_as_many_entries_as_aligned_blocks_make_it(first: int, last: int, blocks: int) -> None:
    assert port_blocks(first, last) == blocks


def test_each_way_of_covering_a_range_is_exact() -> None:
    for first in range(0, 70):
        for last in range(first, 70):
            assert port_blocks(first, last) == fewest(first, last)


def fewest(first: int, last: int) -> int:
    """The blocks that lie inside and in no larger one that does."""
    inside = [
        (size * place, size * (place + 1) - 1)
        for size in (1, 2, 4, 8, 16, 32, 64, 128)
        for place in range(128 // size)
        if first <= size * place and size * (place + 1) - 1 <= last
    ]
    return sum(
        not any(a <= start and end <= b and (a, b) != (start, end) for a, b in inside)
        for start, end in inside
    )


def test_only_what_is_allowed_needs_entries() -> None:
    ranges = (
        PortRange(protocol=Protocol.TCP, first=80, last=81, action=Action.ALLOW),
        PortRange(protocol=Protocol.TCP, first=82, last=82, action=Action.DENY),
    )
    assert entries_of(Row()) == 0
    assert entries_of(Row(ranges=ranges)) == 1
    assert entries_of(Row(action=Action.ALLOW, ranges=ranges)) == 1
