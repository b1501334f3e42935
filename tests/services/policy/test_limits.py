"""Objects that nothing has room for: what is refused, what is told, and that all others go on."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest

from services.policy.errors import PolicyRefused
from services.policy.faults import MOST_ERRORS
from services.policy.networkpolicy import read_network_policy
from services.policy.planner import Planner
from services.policy.published import set_key
from services.policy.retirement import Patience
from shared.bus import BucketStore, Bus
from shared.contract.base import Message
from shared.contract.identity import IdentityRecord
from shared.contract.policy import MOST_RANGES, FieldError, PolicySet
from shared.kubernetes import NETWORK_POLICIES, Kubernetes
from shared.labels import EVERY_LABEL
from tests.buckets import Followed
from tests.nats_server import NatsServer
from tests.service_process import Launch
from tests.services.policy.cluster import WEB, Hear, apply, change, guard, guarded, set_of, status
from tests.services.policy.test_compiler import DB, compiler, from_app, identity, policy
from tests.services.policy.test_planner import Publisher
from tests.small_nats import LARGEST, small_nats
from tests.waiting import eventually


def refusals(**spec: Any) -> tuple[FieldError, ...]:
    data = {"metadata": {"name": "p", "namespace": "ns"}, "spec": spec}
    try:
        read_network_policy(data, namespace="ns", name="p", selectable=EVERY_LABEL)
    except PolicyRefused as refusal:
        return refusal.errors
    return ()


def ports(count: int, *, first: int = 1) -> list[dict[str, Any]]:
    """Ports of which no two are adjacent."""
    return [{"port": first + 2 * number} for number in range(count)]


def test_as_many_port_ranges_are_accepted_as_a_row_holds() -> None:
    assert not refusals(ingress=[{"ports": ports(MOST_RANGES)}], egress=[{"ports": ports(MOST_RANGES)}])
    (error,) = refusals(egress=[{"ports": ports(MOST_RANGES)}, {"ports": ports(1, first=20000)}])
    assert error.field == "spec.egress"
    assert str(MOST_RANGES + 1) in error.reason
    assert str(MOST_RANGES) in error.reason


def test_what_counts_is_into_how_many_ranges_all_rules_divide_the_ports() -> None:
    peers = [{"from": [from_app(f"app-{number}")], "ports": ports(200)} for number in range(10)]
    assert not refusals(ingress=peers)
    all_ports = {"ports": [{"port": 1, "endPort": 65535}]}
    (error,) = refusals(ingress=[{"ports": ports(MOST_RANGES // 2 + 1, first=2)}, all_ports])
    assert str(MOST_RANGES + 3) in error.reason


def test_the_first_errors_are_told_and_how_many_more_there_are() -> None:
    errors = refusals(ingress=[{"ports": [{"port": "x" * 5000}] * (MOST_ERRORS + 7)}])
    assert len(errors) == MOST_ERRORS + 1
    assert errors[-1].reason == "7 more"
    assert all(len(error.reason) < 400 for error in errors)


class _Small:
    """A store without room for sets of more than so many ranges."""

    def __init__(self) -> None:
        self.most = 3

    def fits(self, key: str, value: Message) -> bool:
        return not isinstance(value, PolicySet) or len(value.default.ranges) <= self.most

    def publisher(self) -> Publisher:
        """It has published a set for which there is room."""
        publisher = Publisher(compiler(policy(podSelector={}, ingress=[{"ports": ports(2)}])))
        publisher.planner = Planner(publisher.desired, patience=Patience(), fits=self.fits)
        publisher.publish()
        return publisher


def test_an_identity_keeps_its_set_while_the_new_one_cannot_be_stored() -> None:
    small = _Small()
    publisher = small.publisher()
    before = publisher.identity(DB)
    publisher.desired.set_policy(policy(podSelector={}, ingress=[{"ports": ports(5)}]))
    publisher.publish()
    for _ in range(3):
        publisher.now += 100
        publisher.publish()
    assert publisher.identity(DB) == before
    assert set_key(str(before.ingress)) in publisher.bucket  # type: ignore[arg-type]  # an id
    assert publisher.plan() is None
    small.most = 5
    publisher.desired.set_policy(policy("q", podSelector={"matchLabels": {"app": "web"}}))
    publisher.publish()
    assert publisher.identity(DB).ingress != before.ingress
    assert set_key(publisher.identity(DB).ingress) in publisher.bucket  # type: ignore[arg-type]  # it has one


def test_an_identity_that_comes_back_does_not_keep_the_set_of_when_it_went() -> None:
    """A new pod would begin with it."""
    small = _Small()
    publisher = small.publisher()
    before = publisher.identity(DB)
    publisher.realised = 0.0
    publisher.desired.remove_identity(DB)
    publisher.publish()
    assert publisher.identity(DB).gone
    publisher.desired.set_policy(policy(podSelector={}, ingress=[{"ports": ports(5)}]))
    publisher.desired.set_identity(identity(DB, app="db"))
    publisher.publish()
    back = publisher.identity(DB)
    assert (back.gone, back.ingress == before.ingress) == (False, False)
    assert set_key(str(back.ingress)) not in publisher.bucket  # type: ignore[arg-type]  # an id


def test_a_published_set_that_cannot_grow_stays_as_it_is_and_others_go_on() -> None:
    rows: dict[str, Any] = {
        "podSelector": {"matchLabels": {"app": "db"}},
        "ingress": [{"from": [from_app("web")]}],
    }
    publisher = Publisher(compiler(policy(**rows)))
    publisher.publish()
    before = dict(publisher.sets())
    publisher.planner = Planner(
        publisher.desired, patience=Patience(), fits=lambda key, value: key.removeprefix("set.") not in before
    )
    publisher.planner.adopt(publisher.mirror())
    publisher.desired.set_policy(
        policy("q", podSelector={"matchLabels": {"app": "web"}}, ingress=[{"from": [from_app("db")]}])
    )
    publisher.publish()
    after = publisher.sets()
    assert {id: after[id] for id in before} == before
    assert len(after) == len(before) + 1


@pytest.fixture
async def nats(tmp_path: Path) -> AsyncIterator[NatsServer]:
    """In place of the usual one: it has little room."""
    server = small_nats(tmp_path)
    await server.start()
    yield server
    await server.kill()


async def test_a_set_that_nats_does_not_take_is_told_of_and_holds_up_no_other(
    identities: BucketStore[IdentityRecord],
    bus: Bus,
    kubernetes: Kubernetes,
    start: Launch,
    hear: Hear,
    published: Followed,
    statuses: Followed,
) -> None:
    events = hear("record-too-large")
    process = await start()
    await guard(kubernetes, published)
    rules = [{"from": [from_app(app)], "ports": ports(180)} for app in ("web", "db")]
    spec = {"podSelector": {"matchLabels": {"app": "db"}}, "ingress": rules}
    await kubernetes.patch(NETWORK_POLICIES, {"spec": spec}, name="db", namespace="default")
    await eventually(lambda: events)
    assert events[0].object == "NetworkPolicy default/db"
    assert f"larger than the {LARGEST - 1024} bytes" in events[0].message
    await apply(kubernetes, "web", podSelector={"matchLabels": {"app": "web"}})
    await eventually(lambda: set_of(published, WEB) and status(statuses, "web"))
    assert guarded(published)
    assert await process.ready()
    await change(kubernetes, port=81)
    await eventually(lambda: guarded(published, 81))
    assert len(events) == 1
