"""A replica that does not hear the API server, beside one that does."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from deploy.lab.apiserver import ApiServer
from shared.bus import Bus
from shared.contract.identity import IpEntry
from shared.contract.names import Bucket
from shared.kubernetes import PODS, Kubernetes
from tests.api_gateway import gateway_to
from tests.buckets import Followed, following, unwritten
from tests.service_process import Launch
from tests.services.identity.test_service import OWN, add_node, add_pod
from tests.waiting import eventually


async def test_it_undoes_nothing_and_mends_again_when_it_hears(
    kubernetes: Kubernetes, bus: Bus, launch: Launch, server: ApiServer, kubeconfig: Path
) -> None:
    start = partial(launch, "identity")
    await add_node(kubernetes)
    async with (
        gateway_to(kubeconfig, upstream=server.address.url) as (gateway, behind),
        following(bus, Bucket.IPCACHE, as_type=IpEntry) as ipcache,
    ):
        current = await start()
        cut_off = await start("--verify-every=1", via=behind)
        await eventually(lambda: "192-168-0-1" in ipcache.values)
        gateway.answers[PODS.path()] = (503, "no healthy upstream")
        gateway.cut()
        await eventually(cut_off.reasons)
        await add_pod(kubernetes, "web-1", ips=("10.0.1.5",))
        await eventually(lambda: "10-0-1-5" in ipcache.values)
        await current.kill()
        await unwritten(bus, OWN, seconds=2.5)
        assert _kept(ipcache, "10-0-1-5")
        gateway.answers.clear()
        await cut_off.wait_ready()
        store = await bus.bucket(Bucket.IPCACHE, as_type=IpEntry)
        await store.delete("10-0-1-5")
        await eventually(lambda: ("10-0-1-5", None) in ipcache.history and "10-0-1-5" in ipcache.values)
        await cut_off.kill()


def _kept(ipcache: Followed, key: str) -> bool:
    return key in ipcache.values and (key, None) not in ipcache.history
