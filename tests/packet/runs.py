"""One name for all that this test process makes on the machine, so that its guardian finds it."""

from __future__ import annotations

import uuid

RUN = uuid.uuid4().hex[:8]
"""In the name of every network namespace, lab, and directory of pins of this process."""


def lab_name(suffix: str) -> str:
    """The name of a lab; ``suffix`` has at most 6 lower-case letters and digits."""
    return f"t{RUN}{suffix}"


ROOM = 8
"""Entries of each map of the programs that tests of full maps use."""
