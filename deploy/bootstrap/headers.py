"""Kernel headers for BCC: those of the running kernel, or the distribution's newest with links to them.

Stentor's programs use only structures that the kernel promises to keep (UAPI), so headers of another version
do. They are found through `/lib/modules/<release>/build` and `source`, which the header package of the
running kernel brings; where that package cannot be had (a kernel of the cloud provider, of a container host,
or self-built) the set-up makes the links.
"""

import re
from collections.abc import Callable
from pathlib import Path

from deploy.bootstrap.errors import HeadersUnusableError
from deploy.bootstrap.layout import Layout

DEBIAN_ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}


def choose_package(layout: Layout, *, offers: Callable[[str], bool]) -> str:
    """The package to install: the running kernel's own headers where `offers` says that they exist."""
    own = f"linux-headers-{layout.release}"
    return own if offers(own) else f"linux-headers-{_flavour(layout)}"


def link_substitute(layout: Layout) -> Path:
    """Link the newest installed header tree to where BCC looks, and return it. Replaces only links.

    Raises `HeadersUnusableError` when no header tree is installed, or something else is in the way.
    """
    sources = layout.filesystem / "usr/src"
    flavour = _flavour(layout)
    pattern = re.compile(rf"linux-headers-([0-9][0-9.-]*)-{flavour}")
    trees = [(match[1], path) for path in sources.iterdir() if (match := pattern.fullmatch(path.name))]
    if not trees:
        raise HeadersUnusableError(
            f"{sources} holds no linux-headers-<version>-{flavour}: "
            f"install linux-headers-{flavour} and start again."
        )
    version, build = max(trees, key=lambda tree: [int(number) for number in re.findall(r"[0-9]+", tree[0])])

    layout.modules.mkdir(parents=True, exist_ok=True)
    _link(layout.modules / "build", target=build)
    # Debian splits the tree; Ubuntu's is whole, through links of its own
    common = sources / f"linux-headers-{version}-common"
    if common.is_dir():
        _link(layout.modules / "source", target=common)
    return build


def _flavour(layout: Layout) -> str:
    return "generic" if layout.system.startswith("ubuntu") else DEBIAN_ARCHITECTURES[layout.machine]


def _link(link: Path, *, target: Path) -> None:
    if link.is_dir() and not link.is_symlink():
        raise HeadersUnusableError(
            f"{link} is a directory without usable kernel headers: remove it and start again."
        )
    link.unlink(missing_ok=True)
    link.symlink_to(target)
