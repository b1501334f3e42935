"""Runs a program of the set-up: its output goes, line by line, to the log and to whoever shows progress."""

import os
import subprocess
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from deploy.bootstrap.errors import StepFailedError

TAIL_LINES = 20
STATUS_DESCRIPTOR = "{status}"
"""Stands in an argument for the number of a descriptor on which the program may report its status."""


def run_logged(
    arguments: Sequence[str],
    *,
    step: str,
    log: Path,
    environment: Mapping[str, str] | None = None,
    follow: Callable[[str], bool] = lambda line: False,
) -> None:
    """Run to the end.

    `follow` sees every line, of output and of status, and returns true for those that are for it alone and
    not for the log. When the set-up is interrupted the program is waited for, not killed: half a package
    installation is worse than a late exit (apt and pip see the terminal's interrupt themselves).

    Raises `StepFailedError`, named after `step`, when the program's exit status is not 0.
    """
    tail: deque[str] = deque(maxlen=TAIL_LINES)
    reading, writing = os.pipe()
    # a descriptor of its own: dpkg closes it in maintainer scripts, and those need their output
    status_writing = os.dup(writing)
    with log.open("a", encoding="utf-8") as record:
        print("$", *arguments, file=record, flush=True)
        try:
            process = subprocess.Popen(
                [argument.replace(STATUS_DESCRIPTOR, str(status_writing)) for argument in arguments],
                stdin=subprocess.DEVNULL,
                stdout=writing,
                stderr=writing,
                pass_fds=[status_writing],
                env={**os.environ, "LC_ALL": "C.UTF-8", **(environment or {})},
            )
        finally:
            os.close(writing)
            os.close(status_writing)
        with os.fdopen(reading, encoding="utf-8", errors="replace") as output:
            try:
                for line in output:
                    if not follow(line.rstrip("\n")):
                        tail.append(line.rstrip("\n"))
                        record.write(line)
            except BaseException:
                # without a reader the program would be stopped at its next word
                record.writelines(output)
                raise
            finally:
                status = process.wait()
    if status != 0:
        raise StepFailedError(step=step, log=log, tail=tail)
