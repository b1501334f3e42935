"""The contract's limit on a row against the room that the kernel's layout has."""

from __future__ import annotations

from services.datapath.desired import ROW_CAPACITY
from shared.contract.policy import MOST_RANGES


def test_a_row_of_the_contract_fits_into_a_row_of_the_kernel() -> None:
    assert MOST_RANGES == ROW_CAPACITY
