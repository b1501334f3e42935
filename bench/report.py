"""What a benchmark prints: the machine, how busy it was, and figures by the command that measures them."""

from __future__ import annotations

import os
import platform
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from itertools import groupby
from pathlib import Path

import msgspec

from bench.figures import Figure, Spread
from bench.load import QUIET_CORES, Span, Usage, since, usage
from deploy.cli.output import Format, say, say_json, say_table, warn


class ProcessUse(msgspec.Struct, frozen=True, kw_only=True):
    """What one process of the lab holds and has used."""

    name: str
    resident_mib: float
    proportional_mib: float
    """Pages shared with other processes are split between them (PSS)."""
    cpu_seconds: float
    command: str


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """What was measured on, and what else it did meanwhile."""

    kernel: str
    processor: str
    processors: int
    python: str
    began: str
    seconds: float
    load_average: tuple[float, float]
    """Of the last minute, at the beginning and at the end."""
    cores_of_others: float
    """Processors used in the mean by processes that had no part in the measurement."""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """All of one run; what `-o json` prints."""

    machine: Machine
    figures: tuple[Figure, ...] = ()
    processes: tuple[ProcessUse, ...] = ()
    notes: tuple[str, ...] = ()


class Record:
    """Gathers a report while a benchmark runs."""

    def __init__(self) -> None:
        self.figures: list[Figure] = []
        self.processes: list[ProcessUse] = []
        self.notes: list[str] = []
        self._began = datetime.now(UTC).isoformat(timespec="seconds")
        self._load = os.getloadavg()[0]
        self._usage: Usage = usage()

    def add(self, figures: Iterable[Figure | None]) -> None:
        """Figures that were measured."""
        self.figures += [figure for figure in figures if figure is not None]

    def report(self) -> Report:
        """All of it, until now."""
        return Report(
            machine=_machine(self._began, self._load, since(self._usage)),
            figures=tuple(self.figures),
            processes=tuple(self.processes),
            notes=tuple(self.notes),
        )


def _machine(began: str, load: float, span: Span) -> Machine:
    models = (
        line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")
    )
    return Machine(
        kernel=platform.release(),
        processor=next(models, platform.machine()).partition(":")[2].strip() or platform.machine(),
        processors=len(os.sched_getaffinity(0)),
        python=platform.python_version(),
        began=began,
        seconds=round(span.seconds, 1),
        load_average=(round(load, 2), round(os.getloadavg()[0], 2)),
        cores_of_others=round(span.cores_of_others, 3),
    )


def print_report(report: Report, *, output: Format) -> None:
    """On standard output."""
    if output is Format.JSON:
        say_json(report)
        return
    machine = report.machine
    say(f"{machine.processors} x {machine.processor}, Linux {machine.kernel}, Python {machine.python}")
    say(
        f"{machine.seconds:.0f} s; load average {machine.load_average[0]} to {machine.load_average[1]}; "
        f"others used {machine.cores_of_others:.2f} processors in the mean"
    )
    for command, figures in groupby(report.figures, key=lambda figure: figure.command):
        say()
        say(command, style="bold cyan")
        _say_figures(list(figures))
    if report.processes:
        say()
        say(report.processes[0].command, style="bold cyan")
        _say_processes(report.processes)
    say()
    for note in report.notes:
        say(note, style="dim")
    if any(figure.disturbed for figure in report.figures):
        warn(
            f"figures marked * count disturbed samples: others used more than {QUIET_CORES:.0%} of a "
            "processor nearly all the time; measure again when the machine is quiet."
        )


def _say_figures(figures: Sequence[Figure]) -> None:
    compared = any(figure.to_plain for figure in figures)
    columns = ["FIGURE", "MEDIAN", "P99", "LEAST", "GREATEST", "UNIT", "SAMPLES"]
    rows = [
        [
            figure.name + ("*" if figure.disturbed else ""),
            *_numbers(figure.spread),
            figure.unit,
            f"{figure.samples} of {figure.samples + figure.left_out}",
            *([_ratio(figure.to_plain)] if compared else []),
        ]
        for figure in figures
    ]
    say_table(
        [*columns, "TO PLAIN (LEAST-GREATEST)"] if compared else columns, rows, empty="nothing measured."
    )


def _numbers(values: Spread) -> list[str]:
    return [_number(value) for value in (values.median, values.p99, values.least, values.greatest)]


def _number(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.1f}"


def _ratio(values: Spread | None) -> str:
    return f"{values.median:.2f} ({values.least:.2f}-{values.greatest:.2f})" if values else "-"


def _say_processes(processes: Sequence[ProcessUse]) -> None:
    rows = [
        [
            process.name,
            f"{process.resident_mib:.1f}",
            f"{process.proportional_mib:.1f}",
            f"{process.cpu_seconds:.1f}",
        ]
        for process in processes
    ]
    say_table(("PROCESS", "RESIDENT MIB", "PROPORTIONAL MIB", "CPU SECONDS"), rows, empty="no process runs.")
