"""A policy that cannot be enforced is refused by name, as a whole, and touches no other."""

from __future__ import annotations

import json
from typing import Any

import pytest

from deploy.cli.cluster import Cluster
from shared.contract.names import policy_status_key
from shared.contract.policy import PolicyStatus
from tests.packet.agents import DENIED_SECONDS, job, tried
from tests.packet.labs import Lab, eventually
from tests.packet.manifests import Object, from_pods, pod, policy

NS = "errors"
NAME = "crooked"

BAD_PORT = policy(
    NAME, namespace=NS, peers=[from_pods(app="other")], ports=[{"port": 70000, "protocol": "TCP"}]
)
BAD_OPERATOR = policy(
    NAME,
    namespace=NS,
    peers=[{"podSelector": {"matchExpressions": [{"key": "app", "operator": "Like", "values": ["x"]}]}}],
)
BAD_RANGE = policy(
    NAME,
    namespace=NS,
    peers=[from_pods(app="other")],
    ports=[{"port": 90, "endPort": 80, "protocol": "TCP"}],
)
BAD_CIDR = policy(NAME, namespace=NS, peers=[{"ipBlock": {"cidr": "10.0.0.0/33"}}])
GOOD = policy(NAME, namespace=NS, peers=[from_pods(app="other")])


def status_of(cluster: Cluster, name: str) -> PolicyStatus | None:
    key = policy_status_key(kind="NetworkPolicy", namespace=NS, name=name)
    return cluster.policy_status.values.get(key)


async def outcomes(lab: Lab, *clients: str) -> list[str]:
    """Of a connection of each client to the server."""
    server = lab.ip("server", namespace=NS)
    tries = [
        (await tried(lab, client, job("new", server, patience=DENIED_SECONDS), namespace=NS))[0]
        for client in clients
    ]
    return [each.outcome for each in tries]


PODS = (
    pod("server", namespace=NS, node="node-1", app="server"),
    pod("friend", namespace=NS, node="node-2", app="friend"),
    pod("other", namespace=NS, node="node-1", app="other"),
)


@pytest.mark.parametrize(
    ("crooked", "field", "word"),
    [
        (BAD_PORT, "spec.ingress[0].ports[0].port", "70000"),
        (BAD_OPERATOR, "spec.ingress[0].from[0].podSelector.matchExpressions[0].operator", "Like"),
        (BAD_RANGE, "spec.ingress[0].ports[0].endPort", "80"),
        (BAD_CIDR, "spec.ingress[0].from[0].ipBlock.cidr", "10.0.0.0/33"),
    ],
    ids=["port", "operator", "range", "cidr"],
)
async def test_refusal_is_told_in_status_and_event_with_field_and_reason(
    lab: Lab, crooked: Object, field: str, word: str
) -> None:
    async with lab.namespace(NS), lab.heard("event.policy.>") as events:
        await lab.apply(crooked)

        def told() -> list[dict[str, Any]]:
            return [each for each in events if each["object"].endswith(f"{NS}/{NAME}")]

        await eventually(told)
        status = status_of(await lab.cluster(), NAME)
        assert status is not None
        assert (status.accepted, status.revision) == (False, 0)
        (error,) = status.errors
        assert error.field == field
        assert word in error.reason
        assert error.remedy
        (event,) = told()
        assert event["kind"] == "policy-rejected"
        assert field in event["message"]
        assert error.reason in event["message"]


async def test_others_apply_beside_a_refused_policy_until_it_is_put_right(lab: Lab) -> None:
    field = "spec.ingress[0].ports[0].port"
    sound = policy("sound", namespace=NS, subject={"app": "server"}, peers=[from_pods(app="friend")])
    async with lab.namespace(NS, *PODS):
        await lab.apply(BAD_PORT, sound)
        waited = await lab.cli("policy", "wait", "--timeout", "20s")
        assert waited.code == 1
        assert f"{NS}/{NAME}" in waited.errors
        assert field in waited.errors
        assert (await lab.cli("policy", "wait", f"{NS}/sound", "--timeout", "20s")).code == 0
        # It is refused as a whole: what it was to admit is not admitted.
        assert await outcomes(lab, "friend", "other") == ["open", "denied"]

        listed = json.loads((await lab.cli("policy", "list", "-o", "json")).output)
        mine = {each["name"]: each for each in listed if each["namespace"] == NS}
        assert (mine["sound"]["accepted"], mine["sound"]["realised"], mine["sound"]["nodes"]) == (True, 2, 2)
        assert mine[NAME]["accepted"] is False
        assert [each["field"] for each in mine[NAME]["errors"]] == [field]
        report = await lab.cli("status", "-o", "json")
        assert report.code == 1
        assert any(f"{NS}/{NAME} is refused" in problem for problem in json.loads(report.output)["problems"])

        await lab.apply(GOOD)
        await lab.policies_in_force()
        assert await outcomes(lab, "friend", "other") == ["open", "open"]
        status = status_of(await lab.cluster(), NAME)
        assert status is not None
        assert (status.accepted, status.errors) == (True, ())
        await lab.well()
        assert (await lab.cli("status")).code == 0


async def test_policy_edited_into_nonsense_is_named_by_policy_wait(lab: Lab) -> None:
    async with lab.namespace(NS, *PODS, GOOD):
        assert await outcomes(lab, "friend", "other") == ["denied", "open"]
        await lab.apply(BAD_CIDR)
        waited = await lab.cli("policy", "wait", f"{NS}/{NAME}", "--timeout", "20s")
        assert waited.code == 1
        assert "spec.ingress[0].from[0].ipBlock.cidr" in waited.errors
