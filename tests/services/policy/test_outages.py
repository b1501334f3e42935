"""What is lost, late, wrong or twice around the service, and never shows in what is committed."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path

import pytest
from nats.aio.msg import Msg

from deploy.lab.apiserver import ApiServer
from shared.bus import BucketStore, Bus, BusUnavailable
from shared.contract.base import Identity
from shared.contract.identity import IdentityRecord, IpEntry, NodeRecord
from shared.contract.names import COMMIT_KEY, Bucket
from shared.contract.policy import IdentityPolicy
from shared.kubernetes import NETWORK_POLICIES, Kubernetes
from tests.api_gateway import gateway_to
from tests.buckets import Followed, lose, unwritten
from tests.nats_server import NatsServer
from tests.service_process import Launch, ServiceProcess
from tests.services.policy.cluster import (
    DB,
    OWN,
    WEB,
    Node,
    apply,
    change,
    committed,
    committed_states,
    guard,
    guarded,
    let_in,
    protects,
    record,
    set_of,
    web_to_db,
)
from tests.services.reasons import waits_only_for
from tests.waiting import PATIENCE_SECONDS, eventually

Identities = BucketStore[IdentityRecord]


async def test_what_changed_while_nobody_looked_is_taken_up_at_once(
    identities: Identities,
    kubernetes: Kubernetes,
    start: Launch,
    published: Followed,
    statuses: Followed,
) -> None:
    await apply(kubernetes, "changed", **web_to_db())
    await apply(kubernetes, "deleted", podSelector={"matchLabels": {"app": "web"}})
    await apply(kubernetes, "deleted-refused", **web_to_db("HTTP"))
    first = await start()
    await eventually(lambda: guarded(published) and len(statuses.values) == 3)
    await first.kill()

    await change(kubernetes, port=81, name="changed")
    for name in ("deleted", "deleted-refused"):
        await kubernetes.delete(NETWORK_POLICIES, name=name, namespace="default")
    await apply(kubernetes, "new", podSelector={}, policyTypes=["Egress"])
    await start()
    await eventually(lambda: guarded(published, 81))
    await eventually(lambda: set_of(published, WEB) is None)
    egress = await eventually(lambda: published.values[f"identity.{WEB}"].egress)
    assert [ref.name for ref in published.values[f"set.{egress}"].policies] == ["new"]
    await eventually(lambda: {each.policy.name for each in statuses.values.values()} == {"changed", "new"})


async def test_a_policy_that_is_deleted_leaves_no_status_refused_or_not(
    identities: Identities, kubernetes: Kubernetes, start: Launch, statuses: Followed
) -> None:
    await start()
    await apply(kubernetes, "good", **web_to_db())
    await apply(kubernetes, "bad", **web_to_db("HTTP"))
    await eventually(lambda: len(statuses.values) == 2)
    for name in ("good", "bad"):
        await kubernetes.delete(NETWORK_POLICIES, name=name, namespace="default")
    await eventually(lambda: not statuses.values)


@pytest.mark.parametrize("lost", [(Bucket.IDENTITIES, Bucket.IPCACHE, Bucket.NODES), tuple(Bucket)])
async def test_lost_buckets_of_the_identity_service_withdraw_nothing(
    identities: Identities,
    bus: Bus,
    kubernetes: Kubernetes,
    start: Launch,
    published: Followed,
    lost: tuple[Bucket, ...],
) -> None:
    process = await start()
    await guard(kubernetes, published)
    await unwritten(bus, OWN, seconds=1.5)
    first_of_new_stream = len(published.history) if Bucket.POLICY in lost else 0
    await lose(bus, *lost)
    # The identity service makes its buckets anew and has filled in but one record of some.
    for bucket, kind in ((Bucket.IDENTITIES, IdentityRecord), (Bucket.IPCACHE, IpEntry)):
        await bus.bucket(bucket, as_type=kind, create=True)
    nodes = await bus.bucket(Bucket.NODES, as_type=NodeRecord, create=True)
    await nodes.put("node-1", NodeRecord(name="node-1"))
    late = Identity(300)
    await identities.put(str(late), record(late, "db"))
    await eventually(lambda: let_in(published, subject=late, peer=WEB) == [(80, 80)])
    for bucket in (Bucket.IDENTITIES, Bucket.IPCACHE, Bucket.NODES):
        await eventually(partial(_has_said, process, f"{bucket.of(bus.cluster)}: reading again"))
    await change(kubernetes, port=81)
    await eventually(lambda: guarded(published, 81))
    # What is refused in each of the new buckets tells when the service has read so far.
    ipcache = await bus.bucket(Bucket.IPCACHE, as_type=IpEntry)
    await ipcache.put("refused", IpEntry(ip="none", identity=WEB, node="node-1"))
    await nodes.put("refused", NodeRecord(name="refused", pod_cidrs=("none",)))
    for said in ("ipcache refused: ignored", "nodes refused: pod CIDRs none ignored"):
        await eventually(partial(_has_said, process, said))
    await change(kubernetes, port=82)
    await eventually(lambda: guarded(published, 82) and committed(published))
    states = list(committed_states(published))
    assert all(protects(state) for state in states[states.index(next(filter(protects, states))) :])
    if first_of_new_stream:
        tail = Followed()
        tail.history = published.history[first_of_new_stream:]
        assert all(protects(state) for state in committed_states(tail))
    await process.wait_ready()


def _has_said(process: ServiceProcess, text: str) -> bool:
    return text in process.log()


async def test_nats_that_comes_back_empty_is_filled_before_anything_is_committed(
    identities: Identities,
    nats: NatsServer,
    bus: Bus,
    kubernetes: Kubernetes,
    start: Launch,
    published: Followed,
) -> None:
    process = await start()
    await guard(kubernetes, published)
    await nats.kill()
    nats.wipe()
    await change(kubernetes, port=81)
    before = len(published.history)
    await nats.start()
    await eventually(lambda: len(published.history) > before and guarded(published, 81))
    fresh = Followed()
    fresh.history = published.history[before:]
    await eventually(lambda: any(key == COMMIT_KEY for key, _ in fresh.history) or committed(published))
    fresh.history = published.history[before:]
    assert list(committed_states(fresh))
    assert all(protects(state) for state in committed_states(fresh))
    await bus.bucket(Bucket.IDENTITIES, as_type=IdentityRecord, create=True)
    await bus.bucket(Bucket.IPCACHE, as_type=IpEntry, create=True)
    await bus.bucket(Bucket.NODES, as_type=NodeRecord, create=True)
    await process.wait_ready()


async def test_a_lost_bucket_is_never_committed_in_part_while_policies_change(
    identities: Identities, bus: Bus, kubernetes: Kubernetes, start: Launch, published: Followed
) -> None:
    process = await start()
    await guard(kubernetes, published)
    everybody = tuple(Identity(number) for number in range(400, 460))
    for number in everybody:
        await identities.put(str(number), record(number, f"app-{number}"))
    await eventually(lambda: f"identity.{everybody[-1]}" in published.values and committed(published))
    before = len(published.history)
    await lose(bus, Bucket.POLICY)

    def committed_anew() -> bool:
        return any(key == COMMIT_KEY for key, _ in published.history[before:])

    def tried_since(attempts: int) -> bool:
        return committed_anew() or _attempts(process) > attempts

    port = 1000
    while not committed_anew():
        attempts, port = _attempts(process), port + 1
        await change(kubernetes, port=port)
        await eventually(partial(tried_since, attempts))
    await change(kubernetes, port=port + 1)
    await eventually(lambda: guarded(published, port + 1) and committed(published))
    fresh = Followed()
    fresh.history = published.history[before:]
    states = list(committed_states(fresh))
    assert states
    assert all(protects(state, identities=(WEB, DB, *everybody)) for state in states)
    assert port > 1001, "policies did not change while the bucket was lost"


def _attempts(process: ServiceProcess) -> int:
    """How many publications have failed, or were put off because somebody else had written."""
    log = process.log()
    return log.count("publish policy: attempt") + log.count("reading first what somebody else has published")


async def test_publications_that_nats_cuts_short_are_completed(
    identities: Identities,
    nats: NatsServer,
    bus: Bus,
    kubernetes: Kubernetes,
    start: Launch,
    published: Followed,
) -> None:
    process = await start()
    await guard(kubernetes, published)
    numbers: list[Identity] = []
    for turn in range(4):
        # A thousand more, and the others change: whatever was published before, there are as many records.
        numbers += [Identity(1000 * (turn + 1) + number) for number in range(1000)]
        apps = {number: "db" if (number + turn) % 2 else "web" for number in numbers}
        back = asyncio.create_task(bus.reconnected())
        async with _kill_within_publications(nats, bus, record=1 + 250 * turn):
            # The service publishes while these still come: they may be cut short as well.
            with suppress(BusUnavailable):
                await identities.put_many((str(number), record(number, app)) for number, app in apps.items())
        await nats.start()
        await back
    assert _attempts(process) > 0, "no publication was cut short"
    assert "publishing failed" not in process.log()
    apps = {number: "db" if number % 3 else "web" for number in numbers}
    await identities.put_many((str(number), record(number, app)) for number, app in apps.items())
    expected = {number: [(80, 80)] if app == "db" else None for number, app in apps.items()}

    def converged() -> bool:
        return committed(published) and all(
            f"identity.{number}" in published.values and let_in(published, subject=number, peer=WEB) == wanted
            for number, wanted in expected.items()
        )

    await eventually(converged, seconds=60)
    for state in committed_states(published):
        for each in state.values():
            if isinstance(each, IdentityPolicy):
                assert all(f"set.{id}" in state for id in (each.ingress, each.egress) if id is not None)


@asynccontextmanager
async def _kill_within_publications(nats: NatsServer, bus: Bus, *, record: int) -> AsyncIterator[None]:
    """Kill NATS with the record of this number that is put into the policy bucket from now on."""
    left = record
    killed = asyncio.Event()

    async def count(_: Msg) -> None:
        nonlocal left
        left -= 1
        if left == 0:
            nats.end()
            killed.set()

    session = await bus.session()
    await session.subscribe(f"$KV.{Bucket.POLICY.of(bus.cluster)}.>", count)
    await session.flush()
    yield
    async with asyncio.timeout(PATIENCE_SECONDS):
        await killed.wait()


async def test_replicas_that_begin_together_commit_nothing_half(
    identities: Identities, bus: Bus, kubernetes: Kubernetes, start: Launch, published: Followed
) -> None:
    everybody = tuple(Identity(number) for number in range(400, 700))
    await identities.put_many((str(number), record(number, f"app-{number}")) for number in everybody)
    await apply(kubernetes, "db", **web_to_db())
    processes = await asyncio.gather(start(), start(), start())
    await eventually(lambda: guarded(published) and committed(published))
    await unwritten(bus, OWN, seconds=2.0)
    assert all(protects(state, identities=(WEB, DB, *everybody)) for state in committed_states(published))
    keys = [key for key, _ in published.history if key.startswith("identity.")]
    assert len(keys) == len(set(keys)), "nothing is written twice"
    for process in processes:
        assert "publishing failed" not in process.log()


async def test_two_replicas_tell_of_a_refused_policy_once(
    identities: Identities, bus: Bus, kubernetes: Kubernetes, start: Launch, statuses: Followed
) -> None:
    await start()
    await start()
    for number in range(5):
        await apply(kubernetes, f"bad-{number}", **web_to_db("HTTP"))
    await eventually(lambda: len(statuses.values) == 5)
    await unwritten(bus, OWN, seconds=2.0)
    keys = [key for key, _ in statuses.history]
    assert len(keys) == len(set(keys)) == 5


@pytest.mark.parametrize(
    "answer",
    [(404, "404 page not found"), (503, "no healthy upstream"), (200, '{"kind": "Status", "metadata": {}}')],
)
async def test_a_proxy_in_place_of_the_api_server_opens_nothing(
    identities: Identities,
    bus: Bus,
    kubernetes: Kubernetes,
    start: Launch,
    published: Followed,
    server: ApiServer,
    kubeconfig: Path,
    answer: tuple[int, str],
) -> None:
    async with gateway_to(kubeconfig, upstream=server.address.url) as (gateway, behind):
        process = await start(via=behind)
        await guard(kubernetes, published)
        before = await unwritten(bus, OWN, seconds=1.5)
        gateway.answers[NETWORK_POLICIES.path()] = answer
        gateway.cut()
        await eventually(process.reasons)
        assert await unwritten(bus, OWN, seconds=1.0) == before
        await process.kill()

        # Nor does one that meets nothing else when it starts.
        restarted = await start(via=behind, ready=False)
        await eventually(lambda: waits_only_for(restarted, "networkpolicies.networking.k8s.io"))
        assert await unwritten(bus, OWN, seconds=1.0) == before
        gateway.answers.clear()
        await restarted.wait_ready()
        assert await unwritten(bus, OWN, seconds=1.0) == before
        await restarted.kill()


@pytest.mark.parametrize("revision", [0, 1 << 40])
async def test_what_retires_goes_after_the_grace_time_when_a_node_does_not_tell(
    identities: Identities,
    node: Node,
    kubernetes: Kubernetes,
    start: Launch,
    published: Followed,
    revision: int,
) -> None:
    """The greater revision is one of a bucket that was lost: it says nothing of this one."""
    node.lags = True
    await node.report(revision)
    await start("--grace=4")
    await guard(kubernetes, published)
    old = set_of(published, DB)
    assert old is not None
    loop = asyncio.get_running_loop()
    await change(kubernetes, port=81)
    await eventually(lambda: guarded(published, 81))
    began = loop.time()
    await eventually(lambda: f"set.{old.id}" not in published.values)
    assert loop.time() - began > 3.0
