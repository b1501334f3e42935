"""A machine of one's own: a layout that points into a temporary directory."""

import os
import sys
from pathlib import Path

import pytest

from deploy.bootstrap.layout import Layout


@pytest.fixture
def layout(tmp_path: Path) -> Layout:
    """Debian 12 with a kernel that has no packaged headers; an empty file system and an empty tree."""
    filesystem, tree = tmp_path / "filesystem", tmp_path / "tree"
    for directory in ("usr/src", "usr/sbin", "lib/modules", "var/log", "run"):
        (filesystem / directory).mkdir(parents=True)
    tree.mkdir()
    return Layout(
        tree=tree,
        system="debian-12",
        machine=os.uname().machine,
        release="6.18.44-cloud",
        filesystem=filesystem,
        search_path=(filesystem / "usr/sbin", Path(sys.executable).parent),
    )
