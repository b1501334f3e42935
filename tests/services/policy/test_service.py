"""The service as a process between a real NATS server and a real (embedded) API server."""

from __future__ import annotations

import asyncio
from functools import partial

from deploy.lab.apiserver import ApiServer
from shared.bus import BucketStore, Bus
from shared.contract.base import Identity, Message
from shared.contract.identity import IdentityRecord
from shared.contract.names import Bucket
from shared.contract.policy import POLICY_TYPES, Commit, IdentityPolicy
from shared.kubernetes import NETWORK_POLICIES, Kubernetes
from tests.buckets import Followed, lose, unwritten
from tests.nats_server import NatsServer
from tests.service_process import Launch
from tests.services.policy.cluster import (
    DB,
    OWN,
    WEB,
    Hear,
    Node,
    apply,
    change,
    committed_states,
    fill_identities,
    fill_ipcache,
    fill_nodes,
    fill_settings,
    let_in,
    protects,
    record,
    set_of,
    status,
    web_to_db,
)
from tests.services.reasons import cannot_publish, waits_only_for
from tests.waiting import eventually


async def test_from_policy_to_publication_and_back(
    identities: BucketStore[IdentityRecord],
    kubernetes: Kubernetes,
    start: Launch,
    published: Followed,
    statuses: Followed,
) -> None:
    process = await start()
    await eventually(lambda: f"identity.{DB}" in published.values)
    assert let_in(published, subject=DB, peer=WEB) is None
    await apply(kubernetes, "db", **web_to_db())
    await eventually(lambda: let_in(published, subject=DB, peer=WEB) == [(80, 80)])
    assert let_in(published, subject=DB, peer=DB) == []
    accepted = await eventually(lambda: status(statuses, "db"))
    assert (accepted.accepted, accepted.subjects, accepted.rules) == (True, 1, 1)
    commits = [value for key, value in published.history if key == "commit"]
    assert isinstance(commits[-1], Commit)
    assert commits[-1].policies == 1

    await change(kubernetes, port=8080)
    await eventually(lambda: let_in(published, subject=DB, peer=WEB) == [(8080, 8080)])
    edited = await eventually(
        lambda: (now := status(statuses, "db")) and now.resource_version != accepted.resource_version and now
    )
    assert edited.revision > accepted.revision

    other = Identity(300)
    await identities.put(str(other), record(other, "db"))
    await eventually(lambda: let_in(published, subject=other, peer=WEB) == [(8080, 8080)])
    await eventually(lambda: (now := status(statuses, "db")) and now.subjects == 2)
    assert status(statuses, "db").revision == edited.revision  # type: ignore[union-attr]  # seen above

    await kubernetes.delete(NETWORK_POLICIES, name="db", namespace="default")
    await eventually(lambda: let_in(published, subject=DB, peer=WEB) is None)
    await eventually(lambda: status(statuses, "db") is None)
    await eventually(lambda: not any(key.startswith("set.") for key in published.values))
    code, metrics = await process.page("metrics")
    assert code == 200
    assert "stentor_policy_policies 0.0" in metrics
    assert await process.stop() == 0


def _lets_in(published: Followed, port: int) -> bool:
    return let_in(published, subject=DB, peer=WEB) == [(port, port)]


async def test_every_commit_is_complete_in_itself(
    identities: BucketStore[IdentityRecord],
    bus: Bus,
    kubernetes: Kubernetes,
    start: Launch,
    published: Followed,
) -> None:
    """Whatever is committed names only sets that are there."""
    await start()
    for number in range(10):
        await apply(kubernetes, f"p-{number}", **web_to_db(1000 + number))
        await eventually(partial(_lets_in, published, 1000 + number))
        await kubernetes.delete(NETWORK_POLICIES, name=f"p-{number}", namespace="default")
    await unwritten(bus, OWN, seconds=0.6)
    state: dict[str, Message] = {}
    commits = 0
    for key, value in published.history:
        if value is None:
            state.pop(key, None)
        else:
            state[key] = value
        if key != "commit":
            continue
        commits += 1
        for each in state.values():
            if isinstance(each, IdentityPolicy):
                assert all(f"set.{id}" in state for id in (each.ingress, each.egress) if id is not None)
    assert commits >= 10


async def test_a_refused_policy_is_told_once_and_touches_no_other(
    identities: BucketStore[IdentityRecord],
    bus: Bus,
    kubernetes: Kubernetes,
    start: Launch,
    hear: Hear,
    published: Followed,
    statuses: Followed,
) -> None:
    events = hear("policy-rejected")
    first = await start()
    await apply(kubernetes, "good", **web_to_db())
    await apply(kubernetes, "named", **web_to_db("HTTP"))
    await apply(kubernetes, "other", podSelector={"matchLabels": {"app": "web"}})
    refused = await eventually(lambda: status(statuses, "named"))
    (error,) = refused.errors
    assert (refused.accepted, refused.revision) == (False, 0)
    assert error.field == "spec.ingress[0].ports[0].port"
    assert "'HTTP'" in error.reason
    assert error.remedy
    await eventually(lambda: let_in(published, subject=DB, peer=WEB) == [(80, 80)])
    await eventually(lambda: let_in(published, subject=WEB, peer=DB) == [])
    named = set_of(published, DB)
    assert named is not None
    assert [ref.name for ref in named.policies] == ["good"]
    await eventually(lambda: events)
    assert events[0].object == "NetworkPolicy default/named"
    assert error.field in events[0].message

    await first.kill()
    await start()
    await unwritten(bus, OWN, seconds=0.6)
    assert len(events) == 1, "once for each version of the object, restarts included"
    await change(kubernetes, port=81, name="named")
    await eventually(lambda: (now := status(statuses, "named")) and now.accepted)
    # Adjacent ports of two policies stay two ranges: each names the rule that decided.
    await eventually(lambda: let_in(published, subject=DB, peer=WEB) == [(80, 80), (81, 81)])


async def test_a_restart_writes_nothing_and_then_only_what_changed(
    identities: BucketStore[IdentityRecord],
    bus: Bus,
    kubernetes: Kubernetes,
    start: Launch,
    published: Followed,
    statuses: Followed,
) -> None:
    await apply(kubernetes, "db", **web_to_db())
    await apply(kubernetes, "named", **web_to_db("HTTP"))
    first = await start()
    await eventually(lambda: let_in(published, subject=DB, peer=WEB) == [(80, 80)])
    before = await unwritten(bus, OWN, seconds=1.5)
    await first.kill()
    second = await start()
    assert await unwritten(bus, OWN, seconds=1.5) == before
    await second.kill()

    await kubernetes.delete(NETWORK_POLICIES, name="db", namespace="default")
    written = len(published.history)
    await start()
    await eventually(lambda: let_in(published, subject=DB, peer=WEB) is None)
    await eventually(lambda: status(statuses, "db") is None)
    changed = {key for key, _ in published.history[written:]}
    assert f"identity.{DB}" in changed
    assert "identity.2" not in changed


async def test_nothing_is_published_before_all_inputs_were_read(
    bus: Bus, kubernetes: Kubernetes, start: Launch, published: Followed
) -> None:
    """Without the identity service's buckets a commit would say that no pod is protected."""
    await apply(kubernetes, "db", **web_to_db())
    process = await start(ready=False)
    missing = ["bucket settings", "bucket identities", "bucket ipcache", "bucket nodes"]
    await eventually(lambda: waits_only_for(process, *missing))
    assert f"{missing[0]}: not read yet" in await process.reasons()
    # It looks whether it may publish after each part that it has read; the nodes come last.
    for fill in (fill_settings, fill_identities, fill_ipcache):
        await fill(bus)
        missing.pop(0)
        await eventually(lambda: waits_only_for(process, *missing))
    assert not published.history
    await fill_nodes(bus)
    await eventually(lambda: let_in(published, subject=DB, peer=WEB) == [(80, 80)])
    assert all(protects(state) for state in committed_states(published))


async def test_an_api_server_that_is_away_at_the_start_opens_nothing(
    identities: BucketStore[IdentityRecord],
    bus: Bus,
    server: ApiServer,
    kubernetes: Kubernetes,
    start: Launch,
    published: Followed,
) -> None:
    await apply(kubernetes, "db", **web_to_db())
    first = await start()
    await eventually(lambda: let_in(published, subject=DB, peer=WEB) == [(80, 80)])
    await first.kill()
    await server.stop()
    before = await unwritten(bus, OWN, seconds=0.6)
    process = await start(ready=False)
    await eventually(lambda: waits_only_for(process, str(NETWORK_POLICIES)))
    await identities.put("300", record(Identity(300), "new"))
    # A record that is refused behind it tells when the service has come so far.
    await identities.put("301", record(Identity(302), "refused"))
    await eventually(lambda: "identities 301: ignored" in process.log())
    assert await unwritten(bus, OWN, seconds=0.6) == before


async def test_nats_killed_and_started_again(
    identities: BucketStore[IdentityRecord],
    nats: NatsServer,
    bus: Bus,
    kubernetes: Kubernetes,
    start: Launch,
    published: Followed,
) -> None:
    process = await start()
    await apply(kubernetes, "db", **web_to_db())
    await eventually(lambda: let_in(published, subject=DB, peer=WEB) == [(80, 80)])
    await nats.kill()
    await change(kubernetes, port=8080)
    await eventually(lambda: cannot_publish(process))
    await nats.start()
    await eventually(lambda: let_in(published, subject=DB, peer=WEB) == [(8080, 8080)])
    await process.wait_ready()


async def test_a_bucket_that_was_lost_is_published_anew(
    identities: BucketStore[IdentityRecord],
    bus: Bus,
    kubernetes: Kubernetes,
    start: Launch,
    published: Followed,
    statuses: Followed,
) -> None:
    process = await start()
    await apply(kubernetes, "db", **web_to_db())
    await eventually(lambda: let_in(published, subject=DB, peer=WEB) == [(80, 80)])
    await unwritten(bus, OWN, seconds=0.6)
    expected = {key: value for key, value in published.values.items() if key != "commit"}
    before = len(published.history)
    await lose(bus, Bucket.POLICY)
    await eventually(lambda: len(published.history) >= before + len(expected))
    await eventually(
        lambda: {key: value for key, value in published.values.items() if key != "commit"} == expected
    )
    await eventually(lambda: "commit" in published.values)
    await process.wait_ready()
    store: BucketStore[Message] = await bus.bucket(Bucket.POLICY, as_type=POLICY_TYPES)
    revision = await store.last_revision()
    await eventually(lambda: (now := status(statuses, "db")) and 0 < now.revision <= revision)


async def test_what_somebody_else_writes_is_put_right(
    identities: BucketStore[IdentityRecord],
    bus: Bus,
    kubernetes: Kubernetes,
    start: Launch,
    published: Followed,
) -> None:
    await start()
    await apply(kubernetes, "db", **web_to_db())
    await eventually(lambda: let_in(published, subject=DB, peer=WEB) == [(80, 80)])
    await unwritten(bus, OWN, seconds=0.6)
    store: BucketStore[Message] = await bus.bucket(Bucket.POLICY, as_type=POLICY_TYPES)
    good = published.values[f"identity.{DB}"]
    opened = IdentityPolicy(identity=DB, peer_class=good.peer_class)
    revision = await store.put(f"identity.{DB}", opened)

    async def committed() -> bool:
        commit = await store.get("commit")
        return commit is not None and commit.revision > revision

    await eventually(committed)
    await eventually(lambda: published.values[f"identity.{DB}"] == good)


async def test_what_vanishes_without_a_word_is_published_again(
    identities: BucketStore[IdentityRecord], bus: Bus, start: Launch, published: Followed
) -> None:
    """No follower hears of a message that is deleted from the stream itself."""
    await start("--verify-every=1")
    await eventually(lambda: "commit" in published.values)
    store: BucketStore[Message] = await bus.bucket(Bucket.POLICY, as_type=POLICY_TYPES)
    entry = await store.get(f"identity.{DB}")
    assert entry is not None
    session = await bus.session()
    await session.request(f"$JS.API.STREAM.MSG.DELETE.{store.stream}", b'{"seq": %d}' % entry.revision)
    assert await store.get(f"identity.{DB}") is None

    async def is_back() -> bool:
        return await store.get(f"identity.{DB}") is not None

    await eventually(is_back)


async def test_two_replicas_publish_the_same_and_do_not_fight(
    identities: BucketStore[IdentityRecord],
    bus: Bus,
    kubernetes: Kubernetes,
    start: Launch,
    published: Followed,
) -> None:
    first = await start()
    await start()
    for number in range(10):
        await apply(kubernetes, f"p-{number}", **web_to_db(1000 + number))
    await eventually(lambda: (named := set_of(published, DB)) and len(named.policies) == 10)
    await unwritten(bus, OWN, seconds=2.0)
    values = [value for key, value in published.history if key == f"identity.{DB}" and value is not None]
    sets = [value.ingress for value in values if isinstance(value, IdentityPolicy)]
    assert len(sets) == len(set(sets)), "no replica goes back to what was before"

    await first.kill()
    await kubernetes.delete(NETWORK_POLICIES, name="p-0", namespace="default")
    await eventually(lambda: (named := set_of(published, DB)) and len(named.policies) == 9)


async def test_a_node_that_lags_keeps_what_it_goes_by(
    identities: BucketStore[IdentityRecord],
    node: Node,
    kubernetes: Kubernetes,
    start: Launch,
    published: Followed,
) -> None:
    await start()
    await apply(kubernetes, "db", **web_to_db())
    await eventually(lambda: let_in(published, subject=DB, peer=WEB) == [(80, 80)])
    old = set_of(published, DB)
    assert old is not None
    node.lags = True
    await change(kubernetes, port=8080)
    await eventually(lambda: let_in(published, subject=DB, peer=WEB) == [(8080, 8080)])
    # Nothing comes after it: once a node has told, what retired goes within the settle time of a second.
    await asyncio.sleep(2.0)
    assert f"set.{old.id}" in published.values
    await node.report()
    await eventually(lambda: f"set.{old.id}" not in published.values)
