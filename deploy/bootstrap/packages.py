"""The system packages Stentor needs, what each is for, and whether the thing it brings is there.

Presence is asked of the file system, not of dpkg: it costs microseconds at every start, and a newer
nats-server that somebody installed by hand is as good as the packaged one.
"""

from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from deploy.bootstrap.layout import Layout


class Package(NamedTuple):
    """One package of the system. Its name is the same on Debian and Ubuntu."""

    name: str
    purpose: str
    present: Callable[[Layout], bool]


def _file(relative: str) -> Callable[[Layout], bool]:
    def present(layout: Layout) -> bool:
        return (layout.filesystem / relative.format(machine=layout.machine, python=layout.python)).exists()

    return present


def _program(name: str) -> Callable[[Layout], bool]:
    def present(layout: Layout) -> bool:
        return layout.find_program(name) is not None

    return present


PACKAGES = (
    Package(
        name="python3-bpfcc",
        purpose="compiles and loads the eBPF programs on the node that runs them",
        present=_file("usr/lib/python3/dist-packages/bcc/__init__.py"),
    ),
    Package(
        name="libbpf1",
        purpose="pins, opens and iterates eBPF objects",
        present=_file("usr/lib/{machine}-linux-gnu/libbpf.so.1"),
    ),
    Package(
        name="nats-server",
        purpose="carries everything the services say to each other (its system service stays off)",
        present=_program("nats-server"),
    ),
    Package(
        name="iproute2",
        purpose="shows the lab's namespaces and links, and runs programs in them",
        present=_program("ip"),
    ),
    Package(
        name="curl",
        purpose="tries connections by hand in the lab's pods",
        present=_program("curl"),
    ),
    Package(
        name="python3-venv",
        purpose="makes the virtual environment for the Python packages",
        present=_file("usr/lib/python{python}/ensurepip/__init__.py"),
    ),
)


def missing_packages(layout: Layout) -> list[Package]:
    """Those of `PACKAGES` whose thing is not there, in their order."""
    return [package for package in PACKAGES if not package.present(layout)]


def headers_present(layout: Layout) -> bool:
    """Whether BCC finds kernel headers for the running kernel.

    BCC looks in `/lib/modules/<release>/build` and, where the distribution splits the tree, `source`.
    """
    build: Path = layout.modules / "build"
    trees = (layout.modules / "source", build)
    return (build / "Makefile").is_file() and any(
        (tree / "include/linux/types.h").is_file() for tree in trees
    )


def is_complete(layout: Layout) -> bool:
    """Whether nothing is left for the set-up to install from the system's packages."""
    return headers_present(layout) and not missing_packages(layout)
