"""`stentor policy trace`: what decides about a connection, and what comes nearest to allowing it."""

from __future__ import annotations

import json
from typing import Any

import pytest

from deploy.cli.trace import near_misses
from shared.contract.base import ClassId, Direction, Identity, Protocol, SetId
from shared.contract.identity import EndpointRecord, IpEntry, NodeRecord
from shared.contract.names import Bucket, cidr_key, ip_key, pod_key
from shared.contract.policy import (
    Action,
    AddressClass,
    CidrClass,
    IdentityPolicy,
    PolicyRef,
    PolicySet,
    PortRange,
    Row,
    RuleRef,
)
from shared.contract.reserved import Reserved
from tests.deploy.cli.conftest import Run
from tests.deploy.cli.world import FRONTEND, FRONTEND_CLASS, PODS, SERVICE, World

FIRST, SECOND = ClassId(f"{1:016x}"), ClassId(f"{2:016x}")


def traced(stentor: Run, source: str, destination: str, port: str) -> tuple[int, dict[str, Any]]:
    done = stentor("policy", "trace", "--from", source, "--to", destination, "--port", port, "-o", "json")
    return done.returncode, json.loads(done.stdout) if done.stdout else {"error": done.stderr}


async def test_a_rule_that_allows(world: World, stentor: Run) -> None:
    code, made = traced(stentor, "default/frontend-a", "default/backend-b", "80")
    assert (code, made["allowed"], made["port"]) == (0, True, "80/TCP")
    egress, ingress = made["steps"]
    assert (egress["direction"], egress["why"], egress["rule"]) == (
        "egress",
        "no policy selects it for egress",
        None,
    )
    assert ingress["rule"] == {
        "kind": "NetworkPolicy",
        "namespace": "default",
        "name": "allow-frontend-to-backend",
        "index": 0,
    }


@pytest.mark.parametrize(
    ("source", "port", "not_met"),
    [
        ("frontend-a", "81", ["port"]),
        ("frontend-a", "80/UDP", ["protocol"]),
        ("backend-a", "80", ["peer"]),
        ("backend-a", "81", ["peer", "port"]),
    ],
)
async def test_what_a_denied_connection_lacks(
    world: World, stentor: Run, source: str, port: str, not_met: list[str]
) -> None:
    code, made = traced(stentor, source, "backend-b", port)
    assert (code, made["allowed"]) == (1, False)
    step = made["steps"][-1]
    assert step["policies"][0]["name"] == "allow-frontend-to-backend"
    assert [miss["not_met"] for miss in step["nearest"]] == [not_met]


async def test_for_people(world: World, stentor: Run) -> None:
    done = stentor("policy", "trace", "--from", "frontend-a", "--to", "backend-a", "--port", "443")
    assert done.returncode == 1
    assert done.stdout == (
        "default/frontend-a (10.244.0.2) -> default/backend-a (10.244.0.3) 443/TCP: denied\n"
        "  egress of default/frontend-a: allowed, no policy selects it for egress\n"
        "  ingress of default/backend-a: denied, no ingress rule of the policies that select it allows it\n"
        "    selected by NetworkPolicy default/allow-frontend-to-backend\n"
        "    nearest: NetworkPolicy default/allow-frontend-to-backend spec.ingress[0], but for the port\n"
    )


async def test_a_pod_reaches_itself(world: World, stentor: Run) -> None:
    code, made = traced(stentor, "backend-a", "backend-a", "1")
    assert code == 0
    assert {step["why"] for step in made["steps"]} == {"a pod always reaches itself"}


async def test_families_that_fare_differently_are_named(world: World, stentor: Run) -> None:
    """With a block of IPv6 addresses that sets the client's apart from its identity."""
    sixes = {"frontend-a": "fd00::a", "backend-a": "fd00::b"}
    for pod, ip in sixes.items():
        node, four, identity = PODS[pod]
        entry = IpEntry(ip=ip, identity=identity, node=node, namespace="default", pod=pod)
        await world.put(Bucket.IPCACHE, [(ip_key(ip), entry)])
        record = EndpointRecord(
            node=node, namespace="default", name=pod, uid=f"u-{pod}", identity=identity, ips=(four, ip)
        )
        await world.put(Bucket.ENDPOINTS, [(pod_key(node=node, namespace="default", pod=pod), record)])
    code, made = traced(stentor, "frontend-a", "backend-a", "80")
    assert (code, made["allowed"]) == (0, True)

    apart = AddressClass(ip="fd00::a", identity=FRONTEND, peer_class=SECOND)
    await world.put(Bucket.POLICY, [(f"address.{ip_key('fd00::a')}", apart)])
    code, made = traced(stentor, "frontend-a", "backend-a", "80")
    assert code == 1
    assert "10.244.0.2 -> 10.244.0.3 is allowed, fd00::a -> fd00::b is denied" in made["error"]
    assert traced(stentor, "10.244.0.2", "backend-a", "80")[0] == 0
    code, made = traced(stentor, "fd00::a", "backend-a", "80")
    assert (code, made["allowed"]) == (1, False)


async def test_an_address_of_a_pod_cidr_that_nobody_has_is_matched_by_blocks(
    world: World, stentor: Run
) -> None:
    node = NodeRecord(name="node-1", use_cilium=True, pod_cidrs=("10.244.0.0/24",))
    nobody = IdentityPolicy(identity=Identity(Reserved.UNMANAGED), peer_class=SECOND)
    await world.put(Bucket.NODES, [("node-1", node)])
    await world.put(Bucket.POLICY, [(f"identity.{nobody.identity}", nobody)])
    assert traced(stentor, "10.244.0.99", "backend-b", "80")[1]["allowed"] is False

    # A block whose addresses the policy lets in, as it does the frontends.
    block = CidrClass(cidr="10.0.0.0/8", peer_class=FRONTEND_CLASS)
    await world.put(Bucket.POLICY, [(f"cidr.{cidr_key(block.cidr)}", block)])
    assert traced(stentor, "10.244.0.99", "backend-b", "80")[1]["allowed"] is True


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("default/nobody", "backend-a", "80"), "neither a pod that the cluster knows nor an address"),
        (("frontend-a", "fd00::1", "80"), "have no addresses of one family"),
        (("frontend-a", SERVICE.cluster_ips[0], "80"), "Service default/backend: policy is asked about its"),
        (("frontend-a", "backend-a", "http"), "'http' is no port"),
        (("frontend-a", "backend-a", "80/ICMPX"), "'ICMPX' is no protocol"),
        (("frontend-a", "backend-a", "²"), "'²' is no port"),
        (("frontend-a", "fe80::1%eth0", "80"), "no packet between pods has such an address"),
        (("frontend-a", "::ffff:10.244.1.3", "80"), "no packet between pods has such an address"),
    ],
)
async def test_what_cannot_be_traced_is_named(
    world: World, stentor: Run, arguments: tuple[str, str, str], words: str
) -> None:
    code, made = traced(stentor, *arguments)
    assert code in (1, 2)
    assert words in made["error"]


def test_the_rule_with_the_fewest_misses_is_first() -> None:
    ranges = (PortRange(protocol=Protocol.TCP, first=80, last=80, rule=0),)
    made = PolicySet(
        id=SetId("aa"),
        direction=Direction.INGRESS,
        policies=(PolicyRef(kind="NetworkPolicy", namespace="a", name="b"),),
        rules=(RuleRef(policy=0, index=0), RuleRef(policy=0, index=1), RuleRef(policy=0, index=2)),
        default=Row(),
        rows={FIRST: Row(ranges=ranges), SECOND: Row(action=Action.ALLOW, rule=1)},
    )
    found = list(near_misses(made, peer_class=FIRST, protocol=Protocol.TCP, port=443))
    assert [(miss.rule.index, miss.not_met) for miss in found] == [(0, ("port",)), (1, ("peer",))]
