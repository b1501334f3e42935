"""A running API server per test, and the ways to talk to it."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from deploy.lab.apiserver import ApiServer
from tests.deploy.lab.apiserver.cluster import Http, Kubectl, running


@pytest.fixture
def server() -> ApiServer:
    return ApiServer()


@pytest.fixture
async def http(server: ApiServer) -> AsyncIterator[Http]:
    async with running(server) as access:
        yield access


@pytest.fixture
def kubectl(server: ApiServer, http: Http, tmp_path: Path) -> Kubectl:
    path = tmp_path / "kubeconfig"
    path.write_text(server.kubeconfig())
    return Kubectl(kubeconfig=path)
