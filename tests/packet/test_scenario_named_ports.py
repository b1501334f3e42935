"""Ports by name: of each destination pod its own, on one node and across nodes."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.packet.agents import DENIED_SECONDS, job, tried
from tests.packet.labs import Lab
from tests.packet.manifests import from_pods, network_policy, pod, policy, policy_port

NS = "names"
NUMBERS = {"near": {"web": 8080, "admin": 9090}, "far": {"web": 9090, "admin": 8080}}
"""What the servers on the two nodes call their ports: each the other way round."""


@pytest.fixture(scope="module")
def names(lab: Lab) -> Iterator[Lab]:
    """Two servers with the same labels that call the same ports by each other's names, and a client."""
    objects = [
        pod(
            server,
            namespace=NS,
            node=node,
            ports=[f"{name}={number}" for name, number in NUMBERS[server].items()],
            app="server",
        )
        for server, node in (("near", "node-1"), ("far", "node-2"))
    ]
    with lab.lasting_namespace(NS, *objects, pod("client", namespace=NS, node="node-1", app="client")):
        yield lab


async def reached(lab: Lab) -> set[tuple[str, str]]:
    """Which ports the client reaches, by server and name."""
    wanted = [(server, name) for server, ports in NUMBERS.items() for name in ports]
    jobs = [
        job("new", lab.ip(server, namespace=NS), NUMBERS[server][name], patience=DENIED_SECONDS)
        for server, name in wanted
    ]
    tries = await tried(lab, "client", *jobs, namespace=NS)
    return {each for each, result in zip(wanted, tries, strict=True) if result.outcome == "open"}


async def test_a_name_is_each_server_s_own_port_at_ingress(names: Lab) -> None:
    assert len(await reached(names)) == 4
    rule = policy(
        "in", namespace=NS, subject={"app": "server"}, peers=[from_pods(app="client")], ports=["web"]
    )
    try:
        await names.apply(rule)
        await names.policies_in_force()
        assert await reached(names) == {("near", "web"), ("far", "web")}
    finally:
        await names.delete(rule)


async def test_a_name_is_each_server_s_own_port_at_egress(names: Lab) -> None:
    rule = network_policy(
        "out",
        namespace=NS,
        subject={"app": "client"},
        policyTypes=["Egress"],
        egress=[{"to": [from_pods(app="server")], "ports": [policy_port("admin")]}],
    )
    try:
        await names.apply(rule)
        await names.policies_in_force()
        assert await reached(names) == {("near", "admin"), ("far", "admin")}
    finally:
        await names.delete(rule)


async def test_a_name_that_no_pod_has_opens_nothing(names: Lab) -> None:
    rule = network_policy(
        "out",
        namespace=NS,
        subject={"app": "client"},
        policyTypes=["Egress"],
        egress=[{"ports": [policy_port("nothing")]}],
    )
    try:
        await names.apply(rule)
        await names.policies_in_force()
        assert await reached(names) == set()
    finally:
        await names.delete(rule)
