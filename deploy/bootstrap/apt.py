"""Installs system packages with apt, without letting any of them start or enable a service.

Debian's nats-server package enables and starts a NATS daemon on the well-known port. Stentor starts its own
servers, so services are held back by `policy-rc.d` (the interface between maintainer scripts and the
administrator, Debian Policy 9.3.3.2) while installing, and the unit is disabled afterwards, unless it was on
the machine before.
"""

import contextlib
import fcntl
import os
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from deploy.bootstrap.layout import Layout
from deploy.bootstrap.progress import Progress
from deploy.bootstrap.run import STATUS_DESCRIPTOR, run_logged

NATS_UNIT = "nats-server.service"

POLICY = """\
#!/bin/sh
# made by Stentor's set-up while it installs packages, and removed by it: start no services
exit 101
"""

ENVIRONMENT = {
    "DEBIAN_FRONTEND": "noninteractive",
    # Ubuntu's needrestart would restart unrelated services, or ask
    "NEEDRESTART_SUSPEND": "1",
}


class Apt:
    """apt-get with its output in the log and its progress on the terminal."""

    def __init__(self, layout: Layout, *, progress: Progress) -> None:
        self._layout = layout
        self._progress = progress

    def refresh(self) -> None:
        """Fetch the package lists. Waits for whoever else is at it: fresh cloud machines do this at boot."""
        lock = self._layout.filesystem / "var/lib/apt/lists/lock"
        if lock.exists():
            with lock.open("r+b") as lists:
                try:
                    fcntl.lockf(lists, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except OSError:
                    self._progress.say("      waiting for another apt to finish")
                    fcntl.lockf(lists, fcntl.LOCK_EX)
        self._run(["update"], step="apt-get update")

    def offers(self, package: str) -> bool:
        """Whether the package lists have an installable version."""
        answer = subprocess.run(
            ["apt-cache", "policy", package],
            capture_output=True,
            text=True,
            check=True,
            stdin=subprocess.DEVNULL,
            env={**os.environ, "LC_ALL": "C"},
        ).stdout
        return "Candidate:" in answer and "Candidate: (none)" not in answer

    def install(self, packages: Sequence[str]) -> None:
        """Install, or raise `StepFailedError` with apt's reasons."""
        unit_there_before = self._unit.exists()
        try:
            with services_held_back(self._layout.filesystem / "usr/sbin/policy-rc.d"):
                self._run(["install", "--yes", "--no-install-recommends", *packages], step="apt-get install")
        finally:
            if self._unit.exists() and not unit_there_before:
                self._disable_unit()

    @property
    def _unit(self) -> Path:
        return self._layout.filesystem / "lib/systemd/system" / NATS_UNIT

    def _disable_unit(self) -> None:
        if (self._layout.filesystem / "run/systemd/system").is_dir():
            run_logged(
                ["systemctl", "disable", "--now", NATS_UNIT],
                step=f"disabling {NATS_UNIT}",
                log=self._layout.log,
            )
        # where systemd is not running, the links that enable a unit are all there is of it
        for link in (self._layout.filesystem / "etc/systemd/system").glob(f"*.wants/{NATS_UNIT}"):
            link.unlink()

    def _run(self, arguments: Sequence[str], *, step: str) -> None:
        run_logged(
            [
                "apt-get",
                "-o",
                "DPkg::Lock::Timeout=600",
                "-o",
                f"APT::Status-Fd={STATUS_DESCRIPTOR}",
                *arguments,
            ],
            step=step,
            log=self._layout.log,
            environment=ENVIRONMENT,
            follow=_status_reader(self._progress.detail),
        )


def _status_reader(show: Callable[[str], None]) -> Callable[[str], bool]:
    """Follow apt's status lines: `pmstatus:<package>:<percent>:<text>`, `dlstatus:<n>:<percent>:<text>`."""

    def follow(line: str) -> bool:
        kind, *fields = line.split(":", 3)
        if kind not in ("pmstatus", "dlstatus") or len(fields) != 3:
            return False
        show(f"{float(fields[1]):3.0f} %  {fields[2]}")
        return True

    return follow


@contextlib.contextmanager
def services_held_back(policy: Path) -> Iterator[None]:
    """Have maintainer scripts start nothing. An administrator's own `policy-rc.d` is left alone."""
    ours = not policy.exists() or policy.read_text() == POLICY
    if ours:
        policy.write_text(POLICY)
        policy.chmod(0o755)
    try:
        yield
    finally:
        if ours:
            policy.unlink()
