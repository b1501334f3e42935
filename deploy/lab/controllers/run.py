"""All controllers as one task: shared caches below, one worker per controller above."""

from __future__ import annotations

import asyncio
from pathlib import Path

from .accounts import AccountController
from .cache import Cache
from .client import (
    DEPLOYMENTS,
    ENDPOINT_SLICES,
    NAMESPACES,
    NODES,
    PODS,
    REPLICA_SETS,
    SERVICE_ACCOUNTS,
    SERVICES,
    Client,
    connect,
)
from .deployments import DeploymentController, sets_by_controller
from .endpointslices import EndpointSliceController, by_namespace, slices_by_service
from .orphans import OrphanedPods
from .replicasets import ReplicaSetController, pods_by_controller
from .scheduler import Scheduler, pending_index


class Controllers:
    """The control plane that a kubelet needs: Deployments, ReplicaSets, scheduling, EndpointSlices, accounts.

    They act through the API alone and hold nothing that it does not, so they may stop and start at any time.
    One set of controllers runs against an API server: there is no leader election.
    """

    def __init__(self, *, kubeconfig: Path) -> None:
        self._kubeconfig = kubeconfig
        self.ready = asyncio.Event()

    async def run(self) -> None:
        """Work until cancelled. ``ready`` is set once every cache has been filled for the first time."""
        async with connect(self._kubeconfig) as client:
            await self._run(client)

    async def _run(self, client: Client) -> None:
        namespaces = Cache(client, NAMESPACES)
        nodes = Cache(client, NODES)
        accounts = Cache(client, SERVICE_ACCOUNTS)
        deployments = Cache(client, DEPLOYMENTS)
        services = Cache(client, SERVICES, indexes={"namespace": by_namespace})
        replica_sets = Cache(client, REPLICA_SETS, indexes={"controller": sets_by_controller})
        slices = Cache(client, ENDPOINT_SLICES, indexes={"service": slices_by_service})
        pods = Cache(
            client,
            PODS,
            indexes={
                "namespace": by_namespace,
                "controller": pods_by_controller,
                "pending": pending_index,
            },
        )
        caches = (namespaces, nodes, accounts, deployments, services, replica_sets, slices, pods)
        workers = [
            AccountController(client, namespaces=namespaces, accounts=accounts).worker,
            DeploymentController(client, deployments=deployments, replica_sets=replica_sets).worker,
            ReplicaSetController(client, replica_sets=replica_sets, pods=pods).worker,
            Scheduler(client, pods=pods, nodes=nodes).worker,
            EndpointSliceController(client, services=services, pods=pods, slices=slices, nodes=nodes).worker,
            OrphanedPods(client, pods=pods, nodes=nodes).worker,
        ]
        async with asyncio.TaskGroup() as tasks:
            for cache in caches:
                tasks.create_task(cache.run(), name=f"cache {cache.name}")
            for cache in caches:
                await cache.synced.wait()
            for worker in workers:
                tasks.create_task(worker.run(), name=f"controller {worker.name}")
            self.ready.set()
