"""How commands speak: tables and lines on standard output, progress and complaints on standard error.

Colours appear on terminals only, and not with NO_COLOR. JSON is written as it is, never styled, so that
`-o json` can be piped and redirected alike. Control characters in names that came from elsewhere are
replaced: a cluster's contents cannot steer the reader's terminal.
"""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from enum import StrEnum
from functools import cache
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console
    from rich.text import Text

PATIENCE_SECONDS = 2.0
"""Work that ends sooner is not reported on."""

_CONTROL = {code: "?" for code in (*range(0x20), *range(0x7F, 0xA0)) if code != 0x0A}


class Format(StrEnum):
    """Of a listing."""

    TABLE = "table"
    JSON = "json"


class FlowFormat(StrEnum):
    """Of flows."""

    COMPACT = "compact"
    JSON = "json"


@cache
def console(*, stderr: bool = False) -> Console:
    """A console that adds nothing of its own: no markup, no highlighting, no emoji."""
    from rich.console import Console

    class PipeConsole(Console):
        """Lets a reader that has gone away end the program, instead of doing so itself."""

        def on_broken_pipe(self) -> None:
            raise BrokenPipeError

    return PipeConsole(stderr=stderr, markup=False, highlight=False, emoji=False, soft_wrap=True)


def styled(text: str, style: str = "") -> Text:
    """A piece of a line or table, with control characters replaced."""
    from rich.text import Text

    return Text(text.translate(_CONTROL), style=style, no_wrap=True)


def say(text: str | Text = "", *, style: str = "", stderr: bool = False) -> None:
    """One line."""
    console(stderr=stderr).print(styled(text, style) if isinstance(text, str) else text)


def complain(text: str) -> None:
    """One line on standard error that begins with the program's name."""
    line = styled("stentor: ", "bold red")
    line.append(styled(text))
    say(line, stderr=True)


def warn(text: str) -> None:
    """One line on standard error about something that does not end the command."""
    line = styled("warning: ", "yellow")
    line.append(styled(text))
    say(line, stderr=True)


def counted(number: int, one: str, many: str) -> str:
    """``1 policy``, ``2 policies``."""
    return f"{number} {one if number == 1 else many}"


def say_json(value: Any) -> None:
    """The value (builtins and msgspec Structs) as indented JSON."""
    import msgspec

    sys.stdout.write(msgspec.json.format(msgspec.json.encode(value), indent=2).decode() + "\n")


def table_lines(columns: Sequence[str], rows: Sequence[Sequence[str | Text]]) -> list[Text]:
    """Columns aligned by blanks, as kubectl prints them; nothing is cut, whatever the terminal's width."""
    lines = [[styled(column, "bold") for column in columns]]
    lines += [[styled(cell) if isinstance(cell, str) else cell for cell in row] for row in rows]
    widths = [max(line[index].cell_len for line in lines) for index in range(len(columns))]
    made = []
    for line in lines:
        text = styled("")
        for index, cell in enumerate(line):
            text.append(cell)
            if index < len(columns) - 1:
                text.append(" " * (widths[index] - cell.cell_len + 3))
        text.rstrip()
        made.append(text)
    return made


def say_table(columns: Sequence[str], rows: Sequence[Sequence[str | Text]], *, empty: str) -> None:
    """A table, or the sentence ``empty`` on standard error when it has no row."""
    if not rows:
        say(empty, stderr=True)
        return
    for line in table_lines(columns, rows):
        say(line)


class Progress:
    """What is being waited for; see :func:`progress`. Used by one thread."""

    def __init__(self, *, patience: float, only_terminals: bool) -> None:
        self._only_terminals = only_terminals
        self._console = console(stderr=True)
        self._status = self._console.status("") if self._console.is_terminal else None
        self._lock = threading.Lock()
        self._text = self._said = ""
        self._patient = patience > 0
        self._shown = False
        # A wait that changes nothing calls nobody, so a timer ends the patience.
        self._timer = threading.Timer(patience, self._lose_patience)
        self._timer.daemon = True
        self._timer.start()

    def update(self, text: str) -> None:
        """Tell what is being waited for now; call it as often as you like."""
        with self._lock:
            self._text = text
            self._say()

    def clear(self) -> None:
        """Take the spinner off the terminal before something else is printed."""
        with self._lock:
            self._text = self._said = ""
            if self._status is not None and self._shown:
                self._shown = False
                self._status.stop()

    def close(self) -> None:
        """Say nothing more."""
        self._timer.cancel()
        self.clear()

    def _lose_patience(self) -> None:
        with self._lock:
            self._patient = False
            self._say()

    def _say(self) -> None:
        if self._patient or self._text == self._said:
            return
        self._said = self._text
        if self._status is None:
            if not self._only_terminals:
                say(self._text, stderr=True)
            return
        self._status.update(styled(self._text))
        if not self._shown:
            self._shown = True
            self._status.start()


@contextmanager
def progress(*, patience: float = PATIENCE_SECONDS, only_terminals: bool = False) -> Iterator[Progress]:
    """A spinner on a terminal, a plain line for each change elsewhere; nothing before ``patience`` s."""
    shown = Progress(patience=patience, only_terminals=only_terminals)
    try:
        yield shown
    finally:
        shown.close()
