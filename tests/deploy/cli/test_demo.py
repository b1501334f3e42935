"""The parts of the demo that decide when it may begin and what counts as an explanation."""

from __future__ import annotations

import msgspec
import pytest

from deploy.cli.cluster import read_cluster
from deploy.cli.demo import MANIFESTS, POLICY, POLICY_FILE, WORKLOADS, names_policy, not_served
from shared.contract.flow import FlowPolicy
from shared.contract.names import COMMIT_KEY, Bucket, service_key
from shared.contract.service import ServicesSynced
from tests.deploy.cli.world import SERVICE, TIME, World, dropped


async def serve_all(world: World) -> None:
    """Both backends are ready, and every node has realised it."""
    port = SERVICE.ports[0]
    backends = tuple(msgspec.structs.replace(backend, ready=True) for backend in port.backends)
    ports = (msgspec.structs.replace(port, backends=backends),)
    world.services_revision = await world.put(
        Bucket.SERVICES,
        [
            (service_key(namespace="default", name="backend"), msgspec.structs.replace(SERVICE, ports=ports)),
            (COMMIT_KEY, ServicesSynced(time=TIME, services=1, backends=2)),
        ],
    )


async def test_begins_only_when_every_node_serves_every_backend(world: World) -> None:
    assert not_served(await read_cluster(world.bus)) == "Service default/backend has 1 of 2 backends"
    before = world.services_revision
    await serve_all(world)
    late = f"has realised services revision {before}, the latest is {world.services_revision}"
    assert not_served(await read_cluster(world.bus)) == f"node node-1 {late}"
    await world.realise("node-1")
    assert not_served(await read_cluster(world.bus)) == f"node node-2 {late}"
    await world.realise("node-2")
    assert not_served(await read_cluster(world.bus)) is None


async def test_does_not_begin_before_every_pod_is_enforced(world: World) -> None:
    await serve_all(world)
    await world.realise("node-1", ready=False)
    await world.realise("node-2")
    reason = not_served(await read_cluster(world.bus))
    assert reason is not None
    assert reason.endswith("is not ready on its node node-1")


def test_a_drop_explains_itself_only_by_naming_the_policy() -> None:
    assert names_policy(dropped())
    assert not names_policy(msgspec.structs.replace(dropped(), policy=None))
    assert not names_policy(msgspec.structs.replace(dropped(), policy=FlowPolicy(policies=())))


@pytest.mark.parametrize("name", [*WORKLOADS, POLICY_FILE])
def test_manifests_are_there(name: str) -> None:
    assert (MANIFESTS / name).is_file()


def test_the_policy_waited_for_is_the_one_applied() -> None:
    text = (MANIFESTS / POLICY_FILE).read_text()
    assert f"  name: {POLICY[1]}\n  namespace: {POLICY[0]} " in text
