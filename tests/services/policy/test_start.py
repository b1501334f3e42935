"""What the policy service waits for before it publishes anything."""

from __future__ import annotations

from shared.bus import Bus
from shared.contract.identity import IdentityRecord, IpEntry, LabelRules, NodeRecord
from shared.contract.names import Bucket
from shared.kubernetes import Kubernetes
from shared.labels import NOISY_LABELS, LabelFilter
from tests.buckets import Followed, unwritten
from tests.service_process import Launch, ServiceProcess
from tests.services.policy.cluster import (
    OWN,
    apply,
    committed_states,
    fill_identities,
    fill_ipcache,
    fill_nodes,
    fill_settings,
    guarded,
    protects,
    web_to_db,
)
from tests.waiting import eventually


async def test_no_empty_world_is_committed_before_the_identity_service_has_filled_its_buckets(
    bus: Bus, kubernetes: Kubernetes, start: Launch, published: Followed
) -> None:
    await apply(kubernetes, "db", **web_to_db())
    await bus.bucket(Bucket.IDENTITIES, as_type=IdentityRecord, create=True)
    await bus.bucket(Bucket.IPCACHE, as_type=IpEntry, create=True)
    await bus.bucket(Bucket.NODES, as_type=NodeRecord, create=True)
    await bus.bucket(Bucket.SETTINGS, as_type=LabelRules, create=True)
    process = await start(ready=False)
    await eventually(lambda: _tells(process, "publication: no node is published yet"))
    await fill_settings(bus)
    await fill_identities(bus)
    await fill_ipcache(bus)
    await unwritten(bus, OWN, seconds=0.5)
    assert not published.history
    await fill_nodes(bus)
    await eventually(lambda: guarded(published))
    assert all(protects(state) for state in committed_states(published))
    await process.wait_ready()


async def test_nothing_is_published_while_the_identity_service_leaves_out_other_labels(
    bus: Bus, kubernetes: Kubernetes, start: Launch, published: Followed
) -> None:
    await apply(kubernetes, "db", **web_to_db())
    for fill in (fill_settings, fill_identities, fill_ipcache, fill_nodes):
        await fill(bus)
    process = await start("--exclude-label=team", ready=False)
    await eventually(lambda: _tells(process, "(team)"))
    await unwritten(bus, OWN, seconds=0.5)
    assert not published.history
    await fill_settings(bus, LabelFilter((*NOISY_LABELS, "team")))
    await eventually(lambda: guarded(published))
    await process.wait_ready()


async def _tells(process: ServiceProcess, text: str) -> bool:
    return text in await process.reasons()
