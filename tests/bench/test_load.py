"""Whose CPU time counts as a disturbance."""

from __future__ import annotations

import subprocess
import sys
import time

from bench.load import Span, since, usage

BURN = "import time; end = time.process_time() + 0.5\nwhile time.process_time() < end: pass"


def test_own_children_are_no_others() -> None:
    before = usage()
    subprocess.run([sys.executable, "-c", BURN], check=True)
    assert since(before).own >= 0.4


def test_a_process_of_somebody_else_is() -> None:
    # A shell that ends at once leaves its child to somebody else.
    before = usage()
    subprocess.run(["sh", "-c", '"$0" -c "$1" & ', sys.executable, BURN], check=True)
    until = time.monotonic() + 30
    while since(before).others < 0.4:
        assert time.monotonic() < until


def test_quiet_forgives_one_tick() -> None:
    assert Span(seconds=0.1, own=0.1, others=0.01).quiet
    assert not Span(seconds=0.1, own=0.0, others=0.02).quiet
    assert Span(seconds=2.0, own=0.0, others=0.1).quiet
    assert not Span(seconds=2.0, own=0.0, others=0.2).quiet
