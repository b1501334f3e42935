"""Puts a lab of one node into the state in which a variant of the path is measured, and waits for it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import aclosing
from dataclasses import dataclass

from bench.load import at_rest
from deploy.cli.cluster import read_cluster
from deploy.cli.errors import Unmet
from deploy.cli.policy_wait import network_policies
from deploy.cli.status import behind, latest_revisions
from deploy.cli.waiting import wait_for_policies
from deploy.lab import client
from deploy.lab.node_object import USE_CILIUM
from shared.bus import Bus
from shared.contract.names import Bucket, service_key
from shared.contract.node import Realised
from shared.contract.service import ServiceRecord
from shared.kubernetes import NETWORK_POLICIES, NODES, Kubernetes, Object

NODE, NAMESPACE = "node-1", "default"
PATIENCE_SECONDS = 30.0


@dataclass(frozen=True, kw_only=True)
class State:
    """What the node does with packets."""

    enforcing: bool
    policy: bool = False


class Switches:
    """Of one lab that was made with ``enable_on="annotated"``."""

    def __init__(self, lab: str, *, api: Kubernetes, bus: Bus, policy: Object) -> None:
        self._lab = lab
        self._api = api
        self._bus = bus
        self._policy = policy
        self._policy_is_there = False

    async def set(self, state: State, *, patience: float) -> None:
        """Returns when the lab is in this state and, within ``patience`` seconds, at rest."""
        await self._set_policy(state.policy)
        await self._set_enforcement(state.enforcing)
        await at_rest(patience=patience)

    async def served(self, service: str) -> str:
        """Waits until a Service has a backend and the node knows all; its address."""
        key = service_key(namespace=NAMESPACE, name=service)

        async def address() -> str | None:
            cluster = await read_cluster(self._bus)
            record = cluster.services.values.get(key)
            realised = cluster.realised_by_node().get(NODE)
            if not isinstance(record, ServiceRecord) or realised is None:
                return None
            ready = any(backend.ready for port in record.ports for backend in port.backends)
            late = behind(realised, latest=latest_revisions(cluster))
            return record.cluster_ips[0] if ready and not late else None

        async for _ in self._node_records(f"Service {service} to be served"):
            found = await address()
            if found is not None:
                return found
        raise AssertionError("following a bucket does not end")

    async def _set_enforcement(self, on: bool) -> None:
        annotations = {USE_CILIUM: "true" if on else "false"}
        await self._api.patch(NODES, {"metadata": {"annotations": annotations}}, name=NODE)
        async for record in self._node_records(f"enforcement to be {'on' if on else 'off'}"):
            if record.enforcing == on:
                return

    async def _set_policy(self, on: bool) -> None:
        if on == self._policy_is_there:
            return
        name = self._policy["metadata"]["name"]
        if on:
            await self._api.create(NETWORK_POLICIES, self._policy, namespace=NAMESPACE)
        else:
            await self._api.delete(NETWORK_POLICIES, name=name, namespace=NAMESPACE)
        self._policy_is_there = on
        # A node that does not enforce would not be waited for.
        await self._set_enforcement(True)
        async with (
            asyncio.timeout(PATIENCE_SECONDS),
            network_policies(client.kubeconfig(self._lab)) as list_policies,
        ):
            await wait_for_policies(self._bus, only=None, list_policies=list_policies, tell=client.silent)

    async def _node_records(self, awaited: str) -> AsyncIterator[Realised]:
        """What the node reports, from what it reported last on."""
        store = await self._bus.bucket(Bucket.REALISED, as_type=Realised)
        try:
            async with asyncio.timeout(PATIENCE_SECONDS), aclosing(store.follow()) as batches:
                async for batch in batches:
                    for entry in batch.entries:
                        if entry.value is not None:
                            yield entry.value
        except TimeoutError:
            raise Unmet(f"waited {PATIENCE_SECONDS:g} s in vain for {awaited}.") from None
