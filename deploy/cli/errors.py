"""Why a command ends without success. Each text is one sentence that names the object and the remedy.

CliError
├── Unmet           exit code 1: what was asked for was tried, and failed or is not so
└── UnfitError      exit code 2: wrong usage, or something around the command is missing
"""

from __future__ import annotations

FAILED = 1
UNFIT = 2
INTERRUPTED = 130
"""128 + SIGINT, as shells report it."""


EXIT_CODES = (
    "Exit codes: 0 all is well or done; 1 it failed, or what was asked for is not so; "
    "2 wrong usage, or something around the command is missing; 130 interrupted."
)


class CliError(Exception):
    """Ends the command; ``main`` prints the text on standard error."""

    exit_code = FAILED


class Unmet(CliError):
    """The command was understood and carried out, and the outcome is not what was asked for."""


class UnfitError(CliError):
    """The command cannot be carried out as given: an argument, the environment, a server that is away."""

    exit_code = UNFIT
