"""What a figure counts, and what it leaves out."""

from __future__ import annotations

from bench.figures import Samples, spread


def test_ranks_are_samples() -> None:
    found = spread(float(number) for number in range(100, 0, -1))
    assert (found.median, found.p99, found.least, found.greatest) == (50, 99, 1, 100)


def test_disturbed_samples_are_left_out() -> None:
    samples = Samples("pods", "ms")
    for value, quiet in ((1, True), (2, True), (900, False)):
        samples.add(value, quiet=quiet)
    figure = samples.figure(command="stentor bench lab")
    assert figure is not None
    assert (figure.samples, figure.left_out, figure.disturbed) == (2, 1, False)
    assert figure.spread.greatest == 2


def test_a_figure_of_disturbed_samples_says_so() -> None:
    samples = Samples("pods", "ms")
    for value in range(9):
        samples.add(value, quiet=value == 0)
    figure = samples.figure(command="stentor bench lab")
    assert figure is not None
    assert (figure.samples, figure.left_out, figure.disturbed) == (9, 0, True)


def test_nothing_measured_is_no_figure() -> None:
    assert Samples("pods", "ms").figure(command="stentor bench lab") is None
