"""Tells the person at the terminal what the set-up does, on standard error.

On a terminal a running step rewrites its line; anywhere else (CI, a pipe, a log) every step is one plain
line.
"""

import shutil
import sys
from typing import TextIO


class Progress:
    """Numbered steps, each with details that replace each other while it runs."""

    def __init__(self, *, steps: int, stream: TextIO = sys.stderr) -> None:
        self._stream = stream
        self._steps = steps
        self._number = 0
        self._line_open = False

    def say(self, text: str) -> None:
        """One line of its own."""
        self._close_line()
        print(text, file=self._stream, flush=True)

    def begin(self, title: str) -> None:
        """Start the next step."""
        self._number += 1
        self.say(f"[{self._number}/{self._steps}] {title}")

    def detail(self, text: str) -> None:
        """What the step is at; seen on terminals only."""
        if not self._stream.isatty():
            return
        width = shutil.get_terminal_size().columns - 1
        self._stream.write(f"\r\033[K      {text}"[: width + len("\r\033[K")])
        self._stream.flush()
        self._line_open = True

    def _close_line(self) -> None:
        if self._line_open:
            self._stream.write("\r\033[K")
            self._line_open = False
