"""A runtime, and the datapath that its plugin finds."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from tests.deploy.cni.runtime import Runtime
from tests.deploy.lab.fake_datapath import FakeDatapath


@pytest.fixture
def folder() -> Iterator[Path]:
    # Not tmp_path: the path of a unix socket has at most 107 bytes.
    made = Path(tempfile.mkdtemp(prefix="stl-cni-"))
    yield made
    shutil.rmtree(made)


@pytest.fixture
def runtime(folder: Path) -> Runtime:
    return Runtime(folder)


@pytest.fixture
async def datapath(runtime: Runtime) -> AsyncIterator[FakeDatapath]:
    async with FakeDatapath(runtime.socket) as server:
        yield server
