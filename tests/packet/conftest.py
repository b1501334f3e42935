"""What packet tests share: they need root, and the datapath's programs compiled once for all of them."""

from __future__ import annotations

import asyncio
import os
import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from deploy.lab import kernelfs
from deploy.lab.state import EnableOn
from services.datapath.kernel.loader import Loaded, load
from services.datapath.kernel.source import Sizes
from tests.packet.guardian import PINS, Guardian
from tests.packet.labs import Lab, running_lab
from tests.packet.mininode import V6, MiniNode
from tests.packet.runs import ROOM, RUN, lab_name


@pytest.fixture(scope="session", autouse=True)
def root() -> None:
    """Packet tests make network namespaces."""
    assert os.geteuid() == 0, "packet tests need root: sudo ./stentor test"


@pytest.fixture(scope="session", autouse=True)
def guardian(root: None) -> Iterator[None]:
    """Cleans up after this run however it ends; a run that ends well must have left nothing to clean."""
    kernelfs.ensure_bpffs()
    guardian = Guardian(RUN)
    yield
    assert guardian.dismiss() == []


@pytest.fixture(scope="session")
def loaded(guardian: None) -> Iterator[Loaded]:
    """The datapath's programs and maps, pinned for this test run alone."""
    bpffs = Path(f"/sys/fs/bpf/{PINS}{RUN}")
    try:
        yield asyncio.run(load(bpffs=bpffs, sizes=Sizes(ct=4096, rows=4096, ipcache=4096)))
    finally:
        shutil.rmtree(bpffs, ignore_errors=True)


@pytest.fixture(scope="session")
def small(guardian: None) -> Iterator[Loaded]:
    """Programs whose maps have room for :data:`ROOM` entries each."""
    bpffs = Path(f"/sys/fs/bpf/{PINS}{RUN}-small")
    try:
        sizes = Sizes(**dict.fromkeys(vars(Sizes()), ROOM))
        yield asyncio.run(load(bpffs=bpffs, sizes=sizes))
    finally:
        shutil.rmtree(bpffs, ignore_errors=True)


@pytest.fixture
async def node(loaded: Loaded) -> AsyncIterator[MiniNode]:
    """A node without pods."""
    node = await MiniNode.create(loaded)
    try:
        yield node
    finally:
        await node.close()


@pytest.fixture
async def node6(loaded: Loaded) -> AsyncIterator[MiniNode]:
    """The same with IPv6 addresses."""
    node = await MiniNode.create(loaded, family=V6)
    try:
        yield node
    finally:
        await node.close()


@pytest.fixture(scope="session")
def lab(guardian: None) -> Iterator[Lab]:
    """A lab of two nodes and an outside host for all tests that leave it as they found it."""
    with running_lab(lab_name("s"), outside=1) as lab:
        yield lab


@pytest.fixture(scope="session")
def annotated_lab(guardian: None) -> Iterator[Lab]:
    """A lab that enforces on annotated nodes alone, at first on none, and looks for drift all the time."""
    with running_lab(
        lab_name("e"), enable_on=EnableOn.ANNOTATED, datapath_args=("--resync-seconds", "2")
    ) as lab:
        yield lab
