"""An accepted policy that is edited into one that is refused: what was accepted stays in force."""

from __future__ import annotations

from typing import Any

from services.policy.compiler import Compiler
from services.policy.inputs import Inputs
from services.policy.networkpolicy import policy_ref
from shared.bus import BucketStore, Bus
from shared.contract.identity import IdentityRecord
from shared.contract.policy import InForce, PolicyStatus
from shared.kubernetes import NETWORK_POLICIES, Kubernetes, ObjectBatch, ObjectChange
from shared.labels import EVERY_LABEL
from tests.buckets import Followed
from tests.service_process import Launch
from tests.services.policy.cluster import (
    DB,
    Hear,
    apply,
    committed_states,
    guard,
    guarded,
    protects,
    set_of,
    status,
    web_to_db,
)
from tests.waiting import eventually

Identities = BucketStore[IdentityRecord]
REF = policy_ref(namespace="default", name="db")


async def edit(kubernetes: Kubernetes, port: int | str) -> str:
    """The policy for another port; returns the object's version."""
    body = {"spec": web_to_db(port)}
    made = await kubernetes.patch(NETWORK_POLICIES, body, name="db", namespace="default")
    return str(made["metadata"]["resourceVersion"])


async def refused(statuses: Followed, version: str) -> PolicyStatus:
    """The status of a version that is refused, once it is told."""
    found = await eventually(
        lambda: (now := status(statuses, "db")) and now.resource_version == version and now
    )
    assert isinstance(found, PolicyStatus)
    assert not found.accepted
    return found


async def test_a_refused_edit_leaves_the_accepted_version_in_force_over_restarts_until_it_is_deleted(
    identities: Identities,
    bus: Bus,
    kubernetes: Kubernetes,
    start: Launch,
    hear: Hear,
    published: Followed,
    statuses: Followed,
) -> None:
    events = hear("policy-rejected")
    first = await start()
    await guard(kubernetes, published)
    accepted = await eventually(lambda: status(statuses, "db"))
    told = await refused(statuses, await edit(kubernetes, "HTTP"))
    assert told.errors
    assert (told.in_force, told.revision, told.subjects) == (accepted.in_force, accepted.revision, 1)
    assert told.in_force is not None
    assert told.in_force.resource_version == accepted.resource_version
    await eventually(lambda: events)
    assert f"version {accepted.resource_version} stays in force" in events[0].message

    # Once refused when the service stops, and once edited while none runs.
    await first.kill()
    second = await start()
    await second.kill()
    version = await edit(kubernetes, "HTTPS")
    await start()
    assert (await refused(statuses, version)).in_force == accepted.in_force
    assert guarded(published)
    states = list(committed_states(published))
    assert all(protects(state) for state in states[states.index(next(filter(protects, states))) :])

    await edit(kubernetes, 81)
    await eventually(lambda: guarded(published, 81))
    await eventually(lambda: (now := status(statuses, "db")) and now.accepted)
    await refused(statuses, await edit(kubernetes, "HTTP"))
    await kubernetes.delete(NETWORK_POLICIES, name="db", namespace="default")
    await eventually(lambda: set_of(published, DB) is None and not statuses.values)
    await apply(kubernetes, "db", **web_to_db("HTTP"))
    anew = await eventually(lambda: status(statuses, "db"))
    assert (anew.accepted, anew.in_force, anew.revision) == (False, None, 0)
    assert set_of(published, DB) is None


async def test_a_policy_that_is_edited_while_no_replica_runs_stays_as_it_was_accepted(
    identities: Identities, kubernetes: Kubernetes, start: Launch, published: Followed, statuses: Followed
) -> None:
    first = await start()
    await guard(kubernetes, published)
    accepted = await eventually(lambda: status(statuses, "db"))
    await first.kill()
    version = await edit(kubernetes, "HTTP")
    await start()
    assert (await refused(statuses, version)).in_force == accepted.in_force
    assert guarded(published)


def read(inputs: Inputs, port: int | str, *, version: str, uid: str = "u") -> None:
    metadata = {"namespace": "default", "name": "db", "uid": uid, "resourceVersion": version}
    change = ObjectChange("default", "db", {"metadata": metadata, "spec": web_to_db(port)}, version)
    inputs.take_policies(ObjectBatch(snapshot=True, objects=(change,)))


def status_with(version: str, port: int, *, uid: str = "u") -> PolicyStatus:
    spec: dict[str, Any] = web_to_db(port)
    in_force = InForce(resource_version=version, spec=spec)
    return PolicyStatus(policy=REF, uid=uid, resource_version="9", accepted=False, in_force=in_force)


def in_force(inputs: Inputs, compiler: Compiler, published: PolicyStatus | None) -> str | None:
    inputs.restore(lambda ref: published if ref == REF else None)
    found = compiler.policies.get(REF)
    return found.resource_version if found else None


def test_of_what_two_replicas_have_accepted_the_later_version_stays() -> None:
    compiler = Compiler()
    inputs = Inputs(compiler, selectable=EVERY_LABEL)
    read(inputs, 80, version="5")
    read(inputs, "HTTP", version="9")
    assert in_force(inputs, compiler, None) == "5"
    assert in_force(inputs, compiler, status_with("4", 81)) == "5"
    assert in_force(inputs, compiler, status_with("7", 81)) == "7"
    assert in_force(inputs, compiler, status_with("5", 80)) == "7"


def test_what_another_object_of_the_name_had_in_force_does_not_count() -> None:
    compiler = Compiler()
    inputs = Inputs(compiler, selectable=EVERY_LABEL)
    read(inputs, 80, version="5", uid="before")
    read(inputs, "HTTP", version="9")
    assert in_force(inputs, compiler, status_with("5", 80, uid="before")) is None
