"""Durations that the lab's container runtime and the datapaths write into their logs."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from deploy.lab.names import LabNames

_PLUGIN = re.compile(r"CNI (\w+) of (\S+) ended with 0 after ([\d.]+) ms")
_DATAPATH = re.compile(r"served a CNI request\" operation=(\w+) pod=(\S+) milliseconds=([\d.]+)")


@dataclass(frozen=True, slots=True)
class Served:
    """One CNI operation that succeeded."""

    operation: str
    """``add`` or ``del``."""
    pod: str
    """``namespace/name``."""
    milliseconds: float


class _Log:
    """Reads what has been added to a log."""

    def __init__(self, path: Path, line: re.Pattern[str]) -> None:
        self._path = path
        self._line = line
        self._offset = path.stat().st_size

    def read(self) -> Iterator[Served]:
        """Since the last reading."""
        with self._path.open("rb") as file:
            file.seek(self._offset)
            data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        self._offset += len(whole)
        for operation, pod, milliseconds in self._line.findall(whole.decode(errors="replace")):
            yield Served(operation=operation.lower(), pod=pod, milliseconds=float(milliseconds))


class CniLogs:
    """What was served, as the runtime saw it and as the datapaths did."""

    def __init__(self, lab: str) -> None:
        logs = LabNames(lab).logs
        self._plugin = _Log(logs / "daemon.log", _PLUGIN)
        self._datapaths = [_Log(path, _DATAPATH) for path in sorted(logs.glob("datapath-*.log"))]

    def by_plugin(self, operation: str, *, pod: str) -> float | None:
        """Milliseconds of the pod's last operation from the plugin's start to its end; None when not told."""
        return _last(self._plugin.read(), operation, pod=pod)

    def by_datapath(self, operation: str, *, pod: str) -> float | None:
        """The same from the datapath's reading of the request to its answer."""
        found = [_last(log.read(), operation, pod=pod) for log in self._datapaths]
        return next((milliseconds for milliseconds in found if milliseconds is not None), None)


def _last(served: Iterator[Served], operation: str, *, pod: str) -> float | None:
    times = [each.milliseconds for each in served if (each.operation, each.pod) == (operation, pod)]
    return times[-1] if times else None
