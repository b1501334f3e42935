"""A replica that does not hear the API server, beside one that does."""

from __future__ import annotations

from pathlib import Path

from deploy.lab.apiserver import ApiServer
from services.policy.turn import Turn
from shared.bus import BucketStore, Bus
from shared.contract.identity import IdentityRecord
from shared.kubernetes import NETWORK_POLICIES, Kubernetes
from tests.api_gateway import gateway_to
from tests.buckets import Followed, unwritten
from tests.service_process import Launch
from tests.services.policy.cluster import OWN, change, committed, guard, guarded
from tests.waiting import eventually


async def test_it_undoes_nothing_and_goes_on_when_it_hears_again(
    identities: BucketStore[IdentityRecord],
    bus: Bus,
    kubernetes: Kubernetes,
    start: Launch,
    published: Followed,
    server: ApiServer,
    kubeconfig: Path,
) -> None:
    async with gateway_to(kubeconfig, upstream=server.address.url) as (gateway, behind):
        current = await start()
        await guard(kubernetes, published)
        cut_off = await start("--verify-every=1", via=behind)
        await unwritten(bus, OWN, seconds=1.5)
        gateway.answers[NETWORK_POLICIES.path()] = (503, "no healthy upstream")
        gateway.cut()
        await eventually(cut_off.reasons)
        await change(kubernetes, port=81)
        await eventually(lambda: guarded(published, 81) and committed(published))
        await current.kill()
        before = len(published.history)
        await unwritten(bus, OWN, seconds=2.5)
        assert published.history[before:] == []
        assert guarded(published, 81)
        gateway.answers.clear()
        await cut_off.wait_ready()
        await change(kubernetes, port=82)
        await eventually(lambda: guarded(published, 82))
        await cut_off.kill()


def test_a_turn_is_not_taken_while_not_current_and_the_wait_begins_when_it_is() -> None:
    turn = Turn(patience=1.0)
    assert not turn.is_own(revision=5, now=0.0, current=True)
    assert not turn.is_own(revision=5, now=2.0, current=False)
    assert turn.due is None
    assert not turn.is_own(revision=5, now=3.0, current=True)
    assert turn.is_own(revision=5, now=4.0, current=True)
    assert turn.is_own(revision=0, now=0.0, current=False)
