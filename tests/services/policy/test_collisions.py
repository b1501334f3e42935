"""Two contents with one id: one policy is refused for it, by every replica the same, and the others go on."""

from __future__ import annotations

from itertools import permutations
from typing import Any

import pytest

from services.policy import classes, ids, model, sets
from services.policy.compiler import Compiler
from services.policy.errors import HashCollision
from services.policy.inputs import Inputs
from services.policy.networkpolicy import policy_ref
from services.policy.planner import Planner, Publication
from services.policy.retirement import Patience
from shared.contract.base import ClassId
from shared.contract.policy import InForce, PolicyRef, PolicyStatus
from shared.kubernetes import ObjectBatch, ObjectChange
from shared.labels import EVERY_LABEL
from tests.services.policy.test_compiler import DB, WEB, from_app, identity

Written = tuple[str, str, str, str]
"""Name, version, the subject's app, the peer's app."""


class Replica:
    def __init__(self, *policies: Written) -> None:
        self.compiler = Compiler()
        self.inputs = Inputs(self.compiler, selectable=EVERY_LABEL)
        self.planner = Planner(self.compiler, patience=Patience())
        self.statuses: dict[PolicyRef, PolicyStatus] = {}
        self.compiler.set_identity(identity(WEB, app="web"))
        self.compiler.set_identity(identity(DB, app="db"))
        for each in policies:
            self.write(each)

    def write(self, written: Written) -> None:
        name, version, subject, peer = written
        spec: dict[str, Any] = {
            "podSelector": {"matchLabels": {"app": subject}},
            "ingress": [{"from": [from_app(peer)]}],
        }
        metadata = {"name": name, "namespace": "default", "uid": name, "resourceVersion": version}
        change = ObjectChange("default", name, {"metadata": metadata, "spec": spec}, version)
        self.inputs.take_policies(ObjectBatch(snapshot=False, objects=(change,)))

    def plan(self) -> Publication | None:
        """As the service does."""
        while True:
            self.inputs.restore(self.statuses.get)
            try:
                return self.planner.plan(realised=0.0, now=0.0, time="now")
            except HashCollision as collision:
                self.inputs.resolve(collision)

    def in_force(self) -> set[str]:
        return {ref.name for ref in self.compiler.policies}


@pytest.fixture
def same_selectors(monkeypatch: pytest.MonkeyPatch) -> None:
    """Selections of ``x`` and of ``y`` have one id."""
    real = ids.content_id

    def content_id(*content: object) -> str:
        return "00000000000000aa" if "'x'" in repr(content) or "'y'" in repr(content) else real(*content)

    monkeypatch.setattr(model, "content_id", content_id)


FIRST: Written = ("z", "3", "web", "x")
SECOND: Written = ("a", "20", "web", "y")
OTHER: Written = ("other", "100", "db", "web")


@pytest.mark.usefixtures("same_selectors")
@pytest.mark.parametrize("order", list(permutations((FIRST, SECOND, OTHER))))
def test_of_two_policies_with_colliding_selectors_the_one_written_last_is_refused(
    order: tuple[Written, ...],
) -> None:
    replica = Replica(*order)
    assert replica.plan() is not None
    assert replica.in_force() == {"z", "other"}
    (error,) = replica.inputs.refused[policy_ref(namespace="default", name="a")].errors
    assert "00000000000000aa" in error.reason
    replica.write(("a", "21", "web", "db"))
    assert replica.plan() is not None
    assert replica.in_force() == {"z", "a", "other"}
    assert not replica.inputs.refused


@pytest.mark.usefixtures("same_selectors")
def test_a_colliding_edit_leaves_the_accepted_version_in_force() -> None:
    replica = Replica(FIRST, ("a", "5", "web", "db"), ("a", "20", "web", "y"))
    assert replica.in_force() == {"z", "a"}
    assert replica.compiler.policies[policy_ref(namespace="default", name="a")].resource_version == "5"


@pytest.mark.parametrize("order", list(permutations((("p", "1", "web", "db"), ("q", "2", "db", "web")))))
def test_colliding_sets_cost_the_policy_that_was_written_last(
    monkeypatch: pytest.MonkeyPatch, order: tuple[Written, ...]
) -> None:
    monkeypatch.setattr(sets, "content_id", lambda *content: "00000000000000bb")
    replica = Replica(*order)
    made = replica.plan()
    assert made is not None
    assert replica.in_force() == {"p"}
    assert [key for key, _ in made.items if key.startswith("set.")] == ["set.00000000000000bb"]
    assert replica.plan() is not None


def test_colliding_classes_cost_the_policy_that_was_written_last(monkeypatch: pytest.MonkeyPatch) -> None:
    real = ids.class_id

    def class_id(signature: Any) -> ClassId:
        return ClassId("00000000000000cc") if signature else real(signature)

    monkeypatch.setattr(classes, "class_id", class_id)
    replica = Replica(("q", "2", "db", "web"), ("p", "1", "web", "db"))
    assert replica.plan() is not None
    assert replica.in_force() == {"p"}


def test_the_version_before_comes_back_but_not_if_it_collides_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sets, "content_id", lambda *content: "00000000000000bb")
    replica = Replica(("p", "1", "web", "db"), ("q", "9", "db", "web"))
    ref = policy_ref(namespace="default", name="q")
    spec = {"podSelector": {"matchLabels": {"app": "db"}}}
    in_force = InForce(resource_version="5", spec=spec)
    replica.statuses[ref] = PolicyStatus(
        policy=ref, uid="q", resource_version="5", accepted=True, in_force=in_force
    )
    assert replica.plan() is not None
    assert replica.in_force() == {"p"}
    spec["podSelector"] = {"matchLabels": {"app": "nobody"}}
    replica = Replica(("p", "1", "web", "db"), ("q", "9", "db", "web"))
    replica.statuses[ref] = PolicyStatus(
        policy=ref, uid="q", resource_version="5", accepted=True, in_force=in_force
    )
    assert replica.plan() is not None
    assert replica.compiler.policies[ref].resource_version == "5"
