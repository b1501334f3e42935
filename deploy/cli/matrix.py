"""Who reaches whom: the probes of the demo, what each must find, and the table of what it found.

Pure: makes probes from pods, compares results with expectations. An outcome counts only if the right pod
answered; a column without any probe is a fault too, because nothing was shown.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING, Any

from deploy.cli.output import styled

if TYPE_CHECKING:
    from rich.text import Text

    from deploy.cli.shapes import PodItem


class Outcome(StrEnum):
    """Of one probe, or of all probes of one cell."""

    OPEN = "open"
    REFUSED = "refused"
    DENIED = "denied"
    UNREACHABLE = "unreachable"
    MISROUTED = "misrouted"
    """Another pod answered than the one asked."""
    FAILED = "failed"
    """The probe program itself failed."""


LEGEND = {
    Outcome.OPEN: "a server answered",
    Outcome.REFUSED: "the packets reached the pod, nothing listens on that port",
    Outcome.DENIED: "no answer: dropped on the way",
    Outcome.UNREACHABLE: "no route",
    Outcome.MISROUTED: "the wrong pod answered",
    Outcome.FAILED: "the probe could not be run",
}
_STYLE = {Outcome.OPEN: "green", Outcome.REFUSED: "cyan", Outcome.DENIED: "red"}


class Column(StrEnum):
    """What is probed, seen from the row's pod."""

    BACKEND_80_SAME = "backend:80 same node"
    BACKEND_80_OTHER = "backend:80 other node"
    SERVICE_80 = "Service backend:80"
    BACKEND_81_SAME = "backend:81 same node"
    BACKEND_81_OTHER = "backend:81 other node"
    SERVICE_81 = "Service backend:81"
    FRONTEND_80 = "frontend:80"

    @property
    def heading(self) -> tuple[str, str]:
        """In two lines, so that the table fits an ordinary terminal."""
        return _HEADINGS[self]


_HEADINGS = {
    Column.BACKEND_80_SAME: ("backend:80", "same node"),
    Column.BACKEND_80_OTHER: ("", "other"),
    Column.SERVICE_80: ("", "Service"),
    Column.BACKEND_81_SAME: ("backend:81", "same node"),
    Column.BACKEND_81_OTHER: ("", "other"),
    Column.SERVICE_81: ("", "Service"),
    Column.FRONTEND_80: ("frontend:80", "any node"),
}


SERVED, UNSERVED = 80, 81
SERVICE_PROBES = 4
"""Connections to the Service from each pod, so that its choice meets more than one backend."""


@dataclass(frozen=True, kw_only=True)
class Probe:
    """One connection to be tried. ``answers`` are the pods that may answer."""

    id: str
    source: str
    column: Column
    ip: str
    port: int
    answers: frozenset[str]


@dataclass(frozen=True, kw_only=True)
class Pods:
    """The demo's pods by their part."""

    frontend: Sequence[PodItem]
    backend: Sequence[PodItem]
    other: Sequence[PodItem]

    @property
    def every(self) -> list[PodItem]:
        """In the order of the matrix's rows."""
        return [*self.frontend, *self.other, *self.backend]

    def part(self, pod: str) -> str:
        """``frontend``, ``backend`` or ``other``."""
        parts = (("frontend", self.frontend), ("backend", self.backend), ("other", self.other))
        return next(name for name, pods in parts if pod in {item.name for item in pods})


def plan(pods: Pods, *, service_ip: str) -> list[Probe]:
    """All probes: clients to each backend and the Service, and everybody but frontends to each frontend."""
    probes: list[Probe] = []

    def add(source: PodItem, column: Column, ip: str, port: int, answers: Sequence[PodItem]) -> None:
        names = frozenset(item.name for item in answers)
        probes.append(
            Probe(id=str(len(probes)), source=source.name, column=column, ip=ip, port=port, answers=names)
        )

    for source in (*pods.frontend, *pods.other):
        for target in pods.backend:
            same = target.node == source.node
            for ip in target.ips:
                add(source, Column.BACKEND_80_SAME if same else Column.BACKEND_80_OTHER, ip, SERVED, [target])
                add(
                    source,
                    Column.BACKEND_81_SAME if same else Column.BACKEND_81_OTHER,
                    ip,
                    UNSERVED,
                    [target],
                )
        for _ in range(SERVICE_PROBES):
            add(source, Column.SERVICE_80, service_ip, SERVED, pods.backend)
            add(source, Column.SERVICE_81, service_ip, UNSERVED, pods.backend)
    for source in (*pods.other, *pods.backend):
        for target in pods.frontend:
            for ip in target.ips:
                add(source, Column.FRONTEND_80, ip, SERVED, [target])
    return probes


def expected_before(probe: Probe) -> Outcome:
    """Without a policy everything is reached."""
    return Outcome.REFUSED if probe.port == UNSERVED else Outcome.OPEN


def expected_after(probe: Probe, *, part: str) -> Outcome:
    """With the policy backends are reached by frontends on port 80 alone; frontends as before."""
    if probe.column is Column.FRONTEND_80:
        return Outcome.OPEN
    return Outcome.OPEN if part == "frontend" and probe.port == SERVED else Outcome.DENIED


def judge(probe: Probe, result: Mapping[str, Any] | None) -> Outcome:
    """The outcome of a probe from what the probe program said."""
    if result is None:
        return Outcome.FAILED
    outcome = Outcome(result["outcome"])
    if outcome is Outcome.OPEN and (result["answer"] or {}).get("pod") not in probe.answers:
        return Outcome.MISROUTED
    return outcome


@dataclass(frozen=True, kw_only=True)
class Matrix:
    """Outcomes by probe, next to what they must be."""

    pods: Pods
    probes: Sequence[Probe]
    outcomes: Mapping[str, Outcome]
    expected: Mapping[str, Outcome]

    def faults(self) -> list[str]:
        """Each cell that is not as it must be, as a sentence."""
        faults = []
        for source, column in self._cells():
            for probe in self._probes(source.name, column):
                found, wanted = self.outcomes[probe.id], self.expected[probe.id]
                if found is not wanted:
                    faults.append(
                        f"{source.name} -> {column} ({probe.ip}:{probe.port}) must be {wanted}, is {found}"
                    )
        covered = {probe.column for probe in self.probes if self.pods.part(probe.source) != "other"}
        faults += [
            f"no pod was placed so that {column} could be tried" for column in Column if column not in covered
        ]
        return list(dict.fromkeys(faults))

    def columns(self) -> list[str]:
        """The upper line of the headings."""
        return ["TO", *(column.heading[0] for column in Column)]

    def rows(self) -> list[list[Text]]:
        """The lower line of the headings, then a row for each pod; ``-`` where nothing was tried."""
        lower = ["FROM", *(column.heading[1] for column in Column)]
        return [
            [styled(text, "bold") for text in lower],
            *(
                [styled(f"{self.pods.part(source.name)} on {source.node}")]
                + [self._cell(self._probes(source.name, column)) for column in Column]
                for source in self.pods.every
            ),
        ]

    def legend(self) -> str:
        """What the words mean that appear in the table."""
        seen = set(self.outcomes.values())
        return "; ".join(f"{outcome}: {text}" for outcome, text in LEGEND.items() if outcome in seen)

    def _cells(self) -> list[tuple[PodItem, Column]]:
        return [(source, column) for source in self.pods.every for column in Column]

    def _probes(self, source: str, column: Column) -> list[Probe]:
        return [probe for probe in self.probes if probe.source == source and probe.column is column]

    def _cell(self, probes: Sequence[Probe]) -> Text:
        if not probes:
            return styled("-", "dim")
        found = list(dict.fromkeys(self.outcomes[probe.id] for probe in probes))
        if any(self.outcomes[probe.id] is not self.expected[probe.id] for probe in probes):
            return styled("/".join(found) + " !", "bold reverse red")
        return styled("/".join(found), _STYLE.get(found[0], ""))
