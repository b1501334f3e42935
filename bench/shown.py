"""Progress of a benchmark on standard error: a bar on a terminal, a line for each part elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeRemainingColumn

from deploy.cli.output import console, say


class Shown:
    """See the module; made by :func:`shown`."""

    def __init__(self, bars: Progress | None) -> None:
        self._bars = bars
        self._said = ""

    def tell(self, text: str) -> None:
        """Of work whose length is not known."""
        if self._bars is not None:
            for task in self._bars.task_ids:
                self._bars.remove_task(task)
            self._bars.add_task(text, total=None)
        elif text != self._said:
            self._said = text
            say(text, stderr=True)

    @contextmanager
    def part(self, text: str, *, total: int) -> Iterator[Advance]:
        """Work of ``total`` steps."""
        self.tell(text)
        if self._bars is None:
            yield Advance(None)
            return
        for task in self._bars.task_ids:
            self._bars.remove_task(task)
        task = self._bars.add_task(text, total=total)
        yield Advance((self._bars, task))


class Advance:
    """Tells that steps of a part are done."""

    def __init__(self, bar: tuple[Progress, TaskID] | None) -> None:
        self._bar = bar

    def __call__(self, steps: int = 1) -> None:
        if self._bar is not None:
            bars, task = self._bar
            bars.advance(task, steps)


@contextmanager
def shown() -> Iterator[Shown]:
    """For one benchmark."""
    screen = console(stderr=True)
    if not screen.is_terminal:
        yield Shown(None)
        return
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    with Progress(*columns, console=screen, transient=True) as bars:
        yield Shown(bars)
