"""Why Stentor could not be set up.

BootstrapError
├── MachineUnfitError      something Stentor needs is missing on this machine; nothing was installed
├── HeadersUnusableError   kernel headers were installed, but BCC would not find them
└── StepFailedError        a step of the installation failed; its output is in the log
"""

from collections.abc import Sequence
from pathlib import Path


class BootstrapError(Exception):
    """The set-up stopped; the text says what to do."""


class MachineUnfitError(BootstrapError):
    """Raised before anything is installed, with one sentence for each missing thing."""

    def __init__(self, sentences: Sequence[str]) -> None:
        super().__init__("\n".join(sentences))


class HeadersUnusableError(BootstrapError):
    """Raised after installing, when no header tree can be put where BCC looks."""


class StepFailedError(BootstrapError):
    """A program the set-up ran has failed. `tail` is the end of its output."""

    def __init__(self, *, step: str, log: Path, tail: Sequence[str]) -> None:
        super().__init__(f"{step} failed: mend what it says above (all of it is in {log}) and start again.")
        self.tail = tuple(tail)
