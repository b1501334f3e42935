"""An API server with its controllers, two nodes, and a kubelet that only says what a kubelet says."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator

import pytest

from deploy.lab.controllers import Controllers
from tests.deploy.lab.apiserver.cluster import Http, Kubectl
from tests.deploy.lab.apiserver.conftest import http, kubectl, server
from tests.deploy.lab.controllers.kubelet import Kubelet

__all__ = ["http", "kubectl", "server"]


@pytest.fixture
async def kubelet(http: Http, kubectl: Kubectl) -> AsyncIterator[Kubelet]:
    """The controllers run as long as this fixture lives; nodes ``n1`` and ``n2`` are Ready."""
    controllers = Controllers(kubeconfig=kubectl.kubeconfig)
    kubelet = Kubelet(http)
    async with asyncio.TaskGroup() as tasks:
        running_now = [
            tasks.create_task(controllers.run(), name="controllers"),
            tasks.create_task(kubelet.run(), name="kubelet"),
        ]
        await kubelet.add_node("n1")
        await kubelet.add_node("n2")
        async with asyncio.timeout(5):
            await controllers.ready.wait()
        yield kubelet
        for task in running_now:
            task.cancel()
