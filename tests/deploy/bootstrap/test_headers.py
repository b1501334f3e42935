"""Kernel headers: which package is asked for, and what BCC finds afterwards."""

import pytest

from deploy.bootstrap.errors import HeadersUnusableError
from deploy.bootstrap.headers import DEBIAN_ARCHITECTURES, choose_package, link_substitute
from deploy.bootstrap.layout import Layout
from deploy.bootstrap.packages import headers_present


def install_debian_tree(layout: Layout, version: str, *, flavour: str) -> None:
    """What linux-headers-<version>-<flavour> puts on the disk: a tree split in two."""
    build = layout.filesystem / f"usr/src/linux-headers-{version}-{flavour}"
    build.mkdir()
    (build / "Makefile").touch()
    header = layout.filesystem / f"usr/src/linux-headers-{version}-common/include/linux/types.h"
    header.parent.mkdir(parents=True, exist_ok=True)
    header.touch()


@pytest.fixture
def flavour(layout: Layout) -> str:
    return DEBIAN_ARCHITECTURES[layout.machine]


def test_headers_of_the_running_kernel_are_preferred(layout: Layout) -> None:
    assert choose_package(layout, offers=lambda name: True) == "linux-headers-6.18.44-cloud"


def test_without_them_the_distribution_s_own_are_taken(layout: Layout, flavour: str) -> None:
    assert choose_package(layout, offers=lambda name: False) == f"linux-headers-{flavour}"
    ubuntu = layout._replace(system="ubuntu-24.04")
    assert choose_package(ubuntu, offers=lambda name: False) == "linux-headers-generic"


def test_newest_tree_by_number_is_linked_where_bcc_looks(layout: Layout, flavour: str) -> None:
    for version in ("6.1.0-9", "6.1.0-56", "6.1.0-13"):
        install_debian_tree(layout, version, flavour=flavour)
    install_debian_tree(layout, "6.1.0-99", flavour=f"rt-{flavour}")
    assert not headers_present(layout)

    assert link_substitute(layout).name == f"linux-headers-6.1.0-56-{flavour}"

    assert headers_present(layout)
    assert (layout.modules / "source").resolve().name == "linux-headers-6.1.0-56-common"


def test_links_to_a_removed_tree_are_replaced(layout: Layout, flavour: str) -> None:
    layout.modules.mkdir()
    (layout.modules / "build").symlink_to(layout.filesystem / "usr/src/removed")
    install_debian_tree(layout, "6.1.0-56", flavour=flavour)

    link_substitute(layout)

    assert headers_present(layout)


def test_ubuntu_s_tree_is_whole(layout: Layout) -> None:
    ubuntu = layout._replace(system="ubuntu-24.04")
    build = layout.filesystem / "usr/src/linux-headers-6.8.0-31-generic"
    (build / "include/linux").mkdir(parents=True)
    (build / "include/linux/types.h").touch()
    (build / "Makefile").touch()

    link_substitute(ubuntu)

    assert headers_present(ubuntu)
    assert not (ubuntu.modules / "source").exists()


def test_a_directory_in_the_way_is_not_removed(layout: Layout, flavour: str) -> None:
    (layout.modules / "build").mkdir(parents=True)
    install_debian_tree(layout, "6.1.0-56", flavour=flavour)
    with pytest.raises(HeadersUnusableError, match="build is a directory"):
        link_substitute(layout)


def test_no_tree_at_all_is_said(layout: Layout) -> None:
    with pytest.raises(HeadersUnusableError, match="install linux-headers-"):
        link_substitute(layout)
