"""The service as a process between a real NATS server and a real (embedded) API server."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from deploy.lab.apiserver import ApiServer
from services.identity.ledger import LabelsAllocation, NumberHold
from shared.bus import BucketStore, Bus, BusError
from shared.contract.identity import Claim, EndpointRecord, IdentityRecord, IpEntry, NodeRecord
from shared.contract.names import Bucket, event_subject, ip_key, pod_key
from shared.contract.node import Event
from shared.contract.policy import POLICY_TYPES
from shared.kubernetes import NAMESPACES, NODES, PODS, Kubernetes, Resource
from tests.api_gateway import gateway_to
from tests.buckets import Followed, following, lose, revisions, unwritten
from tests.nats_server import NatsServer
from tests.service_process import Launch
from tests.services.identity.samples import node_object, pod_object
from tests.services.reasons import cannot_publish, waits_only_for
from tests.waiting import eventually

OWN = (Bucket.IDENTITIES, Bucket.IPCACHE, Bucket.ENDPOINTS, Bucket.NODES, Bucket.ALLOCATIONS)
LEDGER = {"labels": LabelsAllocation, "number": NumberHold}


@pytest.fixture
def start(launch: Launch) -> Launch:
    return partial(launch, "identity")


@pytest.fixture
async def endpoints(bus: Bus) -> AsyncIterator[Followed]:
    async with following(bus, Bucket.ENDPOINTS, as_type=EndpointRecord) as followed:
        yield followed


@pytest.fixture
async def ipcache(bus: Bus) -> AsyncIterator[Followed]:
    async with following(bus, Bucket.IPCACHE, as_type=IpEntry) as followed:
        yield followed


@pytest.fixture
async def identities(bus: Bus) -> AsyncIterator[Followed]:
    async with following(bus, Bucket.IDENTITIES, as_type=IdentityRecord) as followed:
        yield followed


@pytest.fixture
async def ledger(bus: Bus) -> AsyncIterator[Followed]:
    async with following(bus, Bucket.ALLOCATIONS, as_type=LEDGER) as followed:
        yield followed


async def add_node(kubernetes: Kubernetes, name: str = "node-1", *, cidr: str = "10.0.1.0/24") -> None:
    body = node_object(name, cidrs=(cidr,), addresses=("192.168.0.1",))
    await kubernetes.create(NODES, body)
    await kubernetes.patch_status(NODES, body["status"], name=name)


async def add_pod(kubernetes: Kubernetes, name: str, **fields: Any) -> None:
    body = pod_object(name, **fields)
    await kubernetes.create(PODS, body, namespace="default")
    await kubernetes.patch_status(PODS, body["status"], name=name, namespace="default")


async def remove_pod(kubernetes: Kubernetes, name: str) -> None:
    path = PODS.path(namespace="default", name=name)
    await kubernetes.request("DELETE", path, body={"gracePeriodSeconds": 0})


async def relabel(kubernetes: Kubernetes, name: str, **labels: str) -> None:
    await kubernetes.patch(PODS, {"metadata": {"labels": labels}}, name=name, namespace="default")


async def claim(bus: Bus, name: str, *ips: str, node: str = "node-1") -> None:
    store = await bus.bucket(Bucket.CLAIMS, as_type=Claim)
    made = Claim(node=node, namespace="default", pod=name, uid="", container_id="c", ips=ips)
    await store.put(pod_key(node=node, namespace="default", pod=name), made)


async def test_from_pod_to_publication_and_back(
    kubernetes: Kubernetes, bus: Bus, start: Launch, endpoints: Followed, ipcache: Followed
) -> None:
    await add_node(kubernetes)
    process = await start()
    async with following(bus, Bucket.NODES, as_type=NodeRecord) as nodes:
        await eventually(lambda: "node-1" in nodes.values)
    await eventually(lambda: ipcache.values.get("192-168-0-1"))
    assert ipcache.values["192-168-0-1"].identity == 6

    await add_pod(kubernetes, "web-1")
    await eventually(lambda: "node-1.default.web-1" in endpoints.values)
    assert endpoints.values["node-1.default.web-1"].ips == ()
    await claim(bus, "web-1", "10.0.1.5")
    entry = await eventually(lambda: ipcache.values.get("10-0-1-5"))
    assert (entry.pod, entry.identity) == ("web-1", endpoints.values["node-1.default.web-1"].identity)

    await relabel(kubernetes, "web-1", app="db")
    await eventually(lambda: ipcache.values["10-0-1-5"].identity != entry.identity)
    assert len([key for key, _ in ipcache.history if key == "10-0-1-5"]) == 2
    moved = ipcache.values["10-0-1-5"].identity
    await kubernetes.patch(NAMESPACES, {"metadata": {"labels": {"team": "red"}}}, name="default")
    await eventually(lambda: ipcache.values["10-0-1-5"].identity != moved)

    await remove_pod(kubernetes, "web-1")
    await eventually(lambda: "10-0-1-5" not in ipcache.values)
    await eventually(lambda: not endpoints.values)
    status, metrics = await process.page("metrics")
    assert status == 200
    assert 'stentor_identity_writes_total{bucket="ipcache",operation="delete"} 1.0' in metrics
    assert await process.stop() == 0


async def test_identity_records_come_before_what_refers_to_them(
    kubernetes: Kubernetes, bus: Bus, start: Launch
) -> None:
    await start()
    store = await bus.bucket(Bucket.IDENTITIES, as_type=IdentityRecord)
    endpoints = await bus.bucket(Bucket.ENDPOINTS, as_type=EndpointRecord)

    async def check() -> int:
        seen = 0
        async for batch in endpoints.follow():
            for entry in batch.entries:
                if entry.value is not None:
                    # Asked after the endpoint was seen: a record put later would mostly be missing here.
                    assert await store.get(str(entry.value.identity)) is not None
                    seen += 1
            if seen >= 20:
                return seen
        return seen

    async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
        checking = tasks.create_task(check())
        for number in range(20):
            tasks.create_task(add_pod(kubernetes, f"p-{number}", labels={"app": f"a-{number}"}))
    assert checking.result() >= 20


async def test_a_restart_writes_nothing_and_catches_up_with_what_it_missed(
    kubernetes: Kubernetes, bus: Bus, start: Launch, endpoints: Followed, ipcache: Followed
) -> None:
    await add_node(kubernetes)
    for number in range(5):
        await add_pod(kubernetes, f"p-{number}", labels={"app": f"a-{number}"}, ips=(f"10.0.1.{number + 1}",))
    first = await start()
    await eventually(lambda: len(ipcache.values) == 6)
    before = await unwritten(bus, OWN, seconds=0.5)
    numbers = {key: record.identity for key, record in endpoints.values.items()}
    await first.kill()
    second = await start()
    assert await unwritten(bus, OWN, seconds=0.5) == before
    await second.kill()

    await remove_pod(kubernetes, "p-0")
    await add_pod(kubernetes, "late", labels={"app": "a-1"}, ips=("10.0.1.77",))
    await start()
    await eventually(lambda: "10-0-1-77" in ipcache.values and "10-0-1-1" not in ipcache.values)
    assert ipcache.values["10-0-1-77"].identity == numbers["node-1.default.p-1"]
    kept = {key: record.identity for key, record in endpoints.values.items() if key in numbers}
    assert kept == {key: number for key, number in numbers.items() if "p-0" not in key}


async def test_nats_killed_and_started_again(
    kubernetes: Kubernetes, nats: NatsServer, bus: Bus, start: Launch, endpoints: Followed
) -> None:
    process = await start()
    await add_pod(kubernetes, "before")
    await eventually(lambda: "node-1.default.before" in endpoints.values)
    number = endpoints.values["node-1.default.before"].identity
    await nats.kill()
    await add_pod(kubernetes, "meanwhile")
    await relabel(kubernetes, "before", app="moved")
    await eventually(lambda: cannot_publish(process))
    await nats.start()
    await eventually(lambda: "node-1.default.meanwhile" in endpoints.values)
    assert endpoints.values["node-1.default.meanwhile"].identity == number
    await eventually(lambda: endpoints.values["node-1.default.before"].identity != number)
    await process.wait_ready()


async def test_lost_streams_are_published_again_with_the_same_numbers(
    kubernetes: Kubernetes, bus: Bus, start: Launch, endpoints: Followed, identities: Followed
) -> None:
    await start()
    for number in range(4):
        await add_pod(kubernetes, f"p-{number}", labels={"app": f"a-{number}"})
    await eventually(lambda: len(endpoints.values) == 4)
    before = dict(endpoints.values)
    await lose(bus, *OWN)

    async def restored() -> bool:
        fresh = await revisions(bus, [Bucket.ENDPOINTS, Bucket.ALLOCATIONS, Bucket.IDENTITIES])
        return min(fresh.values()) > 0 and endpoints.values == before

    await eventually(restored, seconds=40)
    numbers = {str(record.identity) for record in before.values()}
    await eventually(lambda: numbers <= identities.values.keys())
    async with following(bus, Bucket.ALLOCATIONS, as_type=LEDGER) as ledger:
        await eventually(
            lambda: numbers == {key[7:] for key, value in ledger.values.items() if key.startswith("number.")}
        )


async def test_a_key_that_somebody_else_changed_is_mended(
    kubernetes: Kubernetes, bus: Bus, start: Launch, endpoints: Followed
) -> None:
    await start()
    await add_pod(kubernetes, "p")
    good = await eventually(lambda: endpoints.values.get("node-1.default.p"))
    store = await bus.bucket(Bucket.ENDPOINTS, as_type=EndpointRecord)
    await store.delete("node-1.default.p")
    await store.put("node-1.default.ghost", good)
    await eventually(lambda: endpoints.values == {"node-1.default.p": good})


async def test_two_replicas_agree_while_labels_change(
    kubernetes: Kubernetes, bus: Bus, start: Launch, endpoints: Followed, identities: Followed
) -> None:
    processes = await asyncio.gather(start(), start())
    names = [f"p-{number}" for number in range(12)]
    await asyncio.gather(*(add_pod(kubernetes, name, labels={"app": name}) for name in names))
    for turn in range(5):
        await asyncio.gather(*(relabel(kubernetes, name, app=f"{name}-{turn}") for name in names))
    await processes[0].kill()
    await asyncio.gather(*(relabel(kubernetes, name, app=f"{name}-last") for name in names))

    def settled() -> bool:
        records = [identities.values.get(str(endpoint.identity)) for endpoint in endpoints.values.values()]
        apps = {record.pod_labels["app"] for record in records if record}
        return len(records) == len(names) and apps == {f"{name}-last" for name in names}

    await eventually(settled)
    async with following(bus, Bucket.ALLOCATIONS, as_type=LEDGER) as ledger:
        await eventually(lambda: ledger.values)
        labels = {key[7:]: value.id for key, value in ledger.values.items() if key.startswith("labels.")}
        assert len(set(labels.values())) == len(labels)
        for label_hash, number in labels.items():
            assert ledger.values[f"number.{number}"].labels == label_hash
    by_number: dict[str, Any] = {}
    for key, record in identities.history:
        if record is not None:
            assert by_number.setdefault(key, record) == record


def unused_since(ledger: Followed, number: str) -> str:
    """Since when the ledger has a number's labels as unused; empty while they are not."""
    hold = ledger.values.get(f"number.{number}")
    allocation = ledger.values.get(f"labels.{hold.labels}") if hold else None
    return allocation.unused_since if allocation else ""


async def test_an_unused_number_is_released_after_its_grace_time_only(
    kubernetes: Kubernetes,
    start: Launch,
    endpoints: Followed,
    identities: Followed,
    ledger: Followed,
    bus: Bus,
) -> None:
    await bus.bucket(Bucket.POLICY, as_type=POLICY_TYPES, create=True)
    process = await start("--release-after=2")
    for name in ("p", "later"):
        await add_pod(kubernetes, name, labels={"app": name})
    await eventually(lambda: len(endpoints.values) == len(identities.values) == 2 and len(ledger.values) == 4)
    number, later = (str(endpoints.values[f"node-1.default.{name}"].identity) for name in ("p", "later"))
    labels = f"labels.{ledger.values[f'number.{number}'].labels}"
    await remove_pod(kubernetes, "p")
    first = await eventually(lambda: unused_since(ledger, number))
    await add_pod(kubernetes, "p", labels={"app": "p"})
    await eventually(lambda: not unused_since(ledger, number))
    # A number that goes out of use later is released, so this one would have been too.
    await remove_pod(kubernetes, "later")
    await eventually(lambda: later not in identities.values)
    await remove_pod(kubernetes, "p")
    second = await eventually(lambda: unused_since(ledger, number))
    assert (number, None) not in identities.history
    # The grace time goes on while no replica runs.
    await process.kill()
    await start("--release-after=2")
    await eventually(lambda: not identities.values and not ledger.values)
    allocations = [value for key, value in ledger.history if key == labels]
    noted = {value.unused_since for value in allocations if isinstance(value, LabelsAllocation)}
    assert noted == {"", first, second}


async def test_an_invalid_claim_and_a_bad_object_are_told_by_name(
    kubernetes: Kubernetes, bus: Bus, start: Launch, ipcache: Followed
) -> None:
    await add_node(kubernetes)
    await start()
    await add_pod(kubernetes, "victim")
    subject = event_subject(cluster=bus.cluster, service="identity", kind="*")
    async with bus.subscribe(subject, as_type=Event) as events:
        await claim(bus, "victim", "10.0.1.9", node="node-2")
        async with asyncio.timeout(10):
            _, event = await anext(events)
        assert (event.kind, event.object) == ("claim-invalid", "Pod default/victim")
        assert "node-2" in event.message
    assert "10-0-1-9" not in ipcache.values


@pytest.mark.parametrize("late", [NODES, PODS, NAMESPACES], ids=str)
async def test_nothing_is_withdrawn_before_every_kind_of_object_was_read(
    kubernetes: Kubernetes,
    bus: Bus,
    start: Launch,
    ipcache: Followed,
    server: ApiServer,
    kubeconfig: Path,
    late: Resource,
) -> None:
    await add_node(kubernetes)
    await add_pod(kubernetes, "web-1")
    first = await start()
    await claim(bus, "web-1", "10.0.1.5")
    await eventually(lambda: ipcache.values.keys() == {"192-168-0-1", "10-0-1-5"})
    before = await unwritten(bus, OWN, seconds=0.5)
    await first.kill()
    async with gateway_to(kubeconfig, upstream=server.address.url) as (gateway, behind):
        gateway.hold(late.path())
        second = await start(via=behind, ready=False)
        await eventually(lambda: waits_only_for(second, str(late)))
        assert await unwritten(bus, OWN, seconds=1.0) == before
        gateway.release(late.path())
        await second.wait_ready()
        assert await unwritten(bus, OWN, seconds=0.5) == before
        await second.kill()


@pytest.mark.parametrize(
    "answer",
    [(404, "404 page not found"), (200, '{"kind": "Status", "metadata": {}}'), (200, "<html></html>")],
)
async def test_a_proxy_that_answers_in_place_of_the_api_server_withdraws_nothing(
    kubernetes: Kubernetes,
    bus: Bus,
    start: Launch,
    ipcache: Followed,
    server: ApiServer,
    kubeconfig: Path,
    answer: tuple[int, str],
) -> None:
    await add_node(kubernetes)
    await add_pod(kubernetes, "web-1", ips=("10.0.1.5",))
    async with gateway_to(kubeconfig, upstream=server.address.url) as (gateway, behind):
        process = await start(via=behind)
        await eventually(lambda: ipcache.values.keys() == {"192-168-0-1", "10-0-1-5"})
        before = await unwritten(bus, OWN, seconds=0.5)
        for resource in (NODES, PODS, NAMESPACES):
            gateway.answers[resource.path()] = answer
        gateway.cut()
        await eventually(process.reasons)
        assert await unwritten(bus, OWN, seconds=1.0) == before
        gateway.answers.clear()
        await process.wait_ready()
        await remove_pod(kubernetes, "web-1")
        await eventually(lambda: "10-0-1-5" not in ipcache.values)
        await process.kill()


async def test_lost_claims_withdraw_no_address_while_they_come_again(
    kubernetes: Kubernetes, bus: Bus, start: Launch, ipcache: Followed
) -> None:
    await add_node(kubernetes)
    for name in ("web-1", "other"):
        await add_pod(kubernetes, name)
    await start()
    await claim(bus, "web-1", "10.0.1.5")
    await eventually(lambda: "10-0-1-5" in ipcache.values)
    await lose(bus, Bucket.CLAIMS)
    claims = await bus.bucket(Bucket.CLAIMS, as_type=Claim)
    await eventually(lambda: _exists(claims))
    # A publication withdraws last: the second comes after all that reading the new bucket has led to.
    for ip in ("10.0.1.7", "10.0.1.8"):
        await claim(bus, "other", ip)
        await eventually(partial(ipcache.values.__contains__, ip_key(ip)))
    assert ("10-0-1-5", None) not in ipcache.history
    await claim(bus, "web-1", "10.0.1.6")
    await eventually(lambda: ipcache.values.keys() == {"192-168-0-1", "10-0-1-6", "10-0-1-8"})


async def _exists(store: BucketStore[Claim]) -> bool:
    try:
        await store.last_revision()
    except BusError:
        return False
    return True
