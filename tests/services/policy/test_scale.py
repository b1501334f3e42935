"""A large cluster: a change costs what it touches, however much there is."""

from __future__ import annotations

import pytest

from bench import simulation
from bench.simulation import Size
from services.policy.compiler import Compiler, identity_key
from services.policy.networkpolicy import read_network_policy
from services.policy.planner import Planner, Publication
from services.policy.retirement import Patience
from shared.contract.base import Identity
from shared.contract.identity import IdentityRecord
from shared.contract.names import COMMIT_KEY
from shared.labels import EVERY_LABEL

SIZE = Size()


class Cluster:
    """Compiled and published."""

    def __init__(self) -> None:
        self.compiler = Compiler()
        self.planner = Planner(self.compiler, patience=Patience(settle=0.0))
        self.revision = 0
        for node in simulation.nodes():
            self.compiler.set_node(node.name, node.pod_cidrs)
        for record in simulation.identities(SIZE):
            self.compiler.set_identity(record)
        for number in range(SIZE.addresses):
            entry = simulation.ip_entry(number, SIZE)
            self.compiler.set_address(entry.ip, entry.identity)
        for body in simulation.policies(SIZE):
            self.set_policy(body)
        self.publish()

    def set_policy(self, body: dict[str, object]) -> None:
        where = body["metadata"]
        assert isinstance(where, dict)
        policy = read_network_policy(
            body, namespace=where["namespace"], name=where["name"], selectable=EVERY_LABEL
        )
        self.compiler.set_policy(policy)

    def publish(self) -> list[str]:
        """The keys that are put or deleted."""
        made = self.planner.plan(realised=float("inf"), now=self.revision, time="now")
        if made is None:
            return []
        assert isinstance(made, Publication)
        self.revision += len(made.items)
        self.planner.committed(made, revision=self.revision, now=self.revision)
        return [key for key, _ in made.items]


@pytest.fixture(scope="module")
def cluster() -> Cluster:
    return Cluster()


def test_there_are_far_fewer_classes_than_identities(cluster: Cluster) -> None:
    assert len(cluster.compiler.sets) > SIZE.policies
    assert cluster.planner.classes < SIZE.identities / 5


def test_a_pod_of_known_labels_is_no_work_at_all(cluster: Cluster) -> None:
    entry = simulation.ip_entry(SIZE.addresses, SIZE)
    cluster.compiler.set_address(entry.ip, entry.identity)
    assert cluster.publish() == []


def test_an_identity_of_known_kind_is_one_record(cluster: Cluster) -> None:
    cluster.compiler.set_identity(
        IdentityRecord(
            id=Identity(99_999),
            namespace=simulation.namespace_name(1),
            namespace_labels=simulation.namespace_labels(1),
            pod_labels=simulation.pod_labels(0) | {"n": "another"},
        )
    )
    assert cluster.publish() == [identity_key(99_999), COMMIT_KEY]


def test_a_policy_touches_the_sets_and_identities_that_it_selects(cluster: Cluster) -> None:
    subject = {"matchLabels": simulation.pod_labels(7)}
    peers = simulation.peers(SIZE)[:3]
    home = simulation.namespace_name(7)
    for port in (80, 81):
        cluster.set_policy(
            simulation.policy("one-more", namespace=home, subject=subject, peers=peers, port=port)
        )
        keys = cluster.publish()
        selected = [key for key in keys if key.startswith("identity.")]
        assert 0 < len(selected) <= SIZE.identities / simulation.NAMESPACES / simulation.APPS + 1
        assert len(keys) < 20
        # What the commit before has retired goes with the one after.
        assert all(key.startswith(("set.", "identity.", COMMIT_KEY)) for key in keys)
