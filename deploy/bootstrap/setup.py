"""The set-up: check everything, then install what is missing, one installation at a time per machine."""

import contextlib
import fcntl
import os
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from deploy.bootstrap import environment, headers, stamps
from deploy.bootstrap.apt import Apt
from deploy.bootstrap.errors import BootstrapError, MachineUnfitError, StepFailedError
from deploy.bootstrap.layout import Layout
from deploy.bootstrap.machine import shortage_of_space, shortcomings
from deploy.bootstrap.packages import headers_present, missing_packages
from deploy.bootstrap.progress import Progress

REFUSED = 2
INTERRUPTED = 130


def set_up_or_explain(layout: Layout, *, development: bool) -> int:
    """Set up; 0, or the exit code after saying on standard error why not."""
    # what this writes must be readable to users without root, whatever root's own habit
    umask = os.umask(0o022)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        _set_up(layout, development=development)
    except StepFailedError as error:
        print(*(f"  | {line}" for line in error.tail), sep="\n", file=sys.stderr)
        print(f"stentor: {error}", file=sys.stderr)
        return REFUSED
    except BootstrapError as error:
        for sentence in str(error).splitlines():
            print(f"stentor: {sentence}", file=sys.stderr)
        return REFUSED
    except KeyboardInterrupt:
        print("\nstentor: interrupted; start again to go on.", file=sys.stderr)
        return INTERRUPTED
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.umask(umask)
    return 0


def _set_up(layout: Layout, *, development: bool) -> None:
    if os.geteuid() != 0:
        raise MachineUnfitError(
            [
                "Stentor is not set up yet and setting it up installs system packages: "
                "run it once as root (sudo ./stentor setup)."
            ]
        )
    started = time.monotonic()
    progress = Progress(steps=4)
    with _alone(layout.filesystem / "run/stentor-setup.lock", progress=progress):
        # whoever held the lock may have done all of it
        packages = missing_packages(layout)
        needs_headers = not headers_present(layout)
        locks = [layout.runtime_lock]
        if development or stamps.was_installed(layout, layout.development_lock):
            locks.append(layout.development_lock)
        outdated = not all(stamps.is_current(layout, lock) for lock in locks)
        if not (packages or needs_headers or outdated):
            return

        progress.say("Stentor sets itself up; this happens once.")
        progress.begin("checking this machine")
        if missing := [*shortcomings(layout), *shortage_of_space(layout)]:
            raise MachineUnfitError(missing)
        layout.log.parent.mkdir(parents=True, exist_ok=True)
        layout.log.write_text("")

        _install_packages(layout, needs_headers=needs_headers, progress=progress)
        progress.begin("Python packages" if outdated else "Python packages: all there")
        if outdated:
            names = {name for lock in locks for name in environment.locked_names(lock)}
            progress.say(
                f"      {len(names)} packages into .venv, each checked against its hash: NATS, Kubernetes, "
                f"netlink, HTTP, the command line{', tests and checks' if development else ''} "
                "(docs/dependencies.md says what each is for)"
            )
            environment.build(layout, locks=locks, progress=progress)
        progress.say(f"Set up in {time.monotonic() - started:.0f} s. (What was done: {layout.log})")


def _install_packages(layout: Layout, *, needs_headers: bool, progress: Progress) -> None:
    apt = Apt(layout, progress=progress)
    packages = missing_packages(layout)
    if not packages and not needs_headers:
        progress.begin("system packages: all there")
        progress.begin("kernel headers: all there")
        return

    progress.begin("fetching the package lists")
    apt.refresh()
    names = {package.name: package.purpose for package in packages}
    if needs_headers:
        names[headers.choose_package(layout, offers=apt.offers)] = (
            "kernel headers, for compiling eBPF programs"
        )
    if unknown := [name for name in names if not apt.offers(name)]:
        component = " (with universe)" if layout.system.startswith("ubuntu") else ""
        raise MachineUnfitError(
            [
                f"apt offers no package {', '.join(unknown)}: "
                f"enable the distribution's own package sources{component} and start again."
            ]
        )
    progress.begin("system packages")
    for name, purpose in names.items():
        progress.say(f"      {name:<28} {purpose}")
    apt.install(list(names))
    if not headers_present(layout):
        tree = headers.link_substitute(layout)
        progress.say(
            f"      no package has headers for the running kernel ({layout.release}); "
            f"linked {layout.modules}/build to {tree}, which serves as well"
        )


@contextlib.contextmanager
def _alone(lock_path: Path, *, progress: Progress) -> Iterator[None]:
    with lock_path.open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            progress.say("Stentor: waiting for another set-up to finish")
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield
