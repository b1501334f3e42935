"""Policies, labels and namespaces that change: what is allowed follows, on one node and across nodes."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator

import pytest

from tests.packet.agents import DENIED_SECONDS, job, tried
from tests.packet.labs import Lab, eventually
from tests.packet.manifests import Object, block, from_namespaces, from_pods, namespace, network_policy, pod

NS, GUESTS = "shifts", "comers"
CLIENTS = ("near", "far", "other-far")
NAME = "door"


@pytest.fixture(scope="module")
def shifts(lab: Lab) -> Iterator[Lab]:
    """A server with two ports, and clients on its node and the other, without any policy."""
    objects = [
        pod("server", namespace=NS, node="node-1", ports=["80", "8080"], app="server"),
        pod("near", namespace=NS, node="node-1", app="client"),
        pod("far", namespace=NS, node="node-2", app="client"),
        pod("other-far", namespace=NS, node="node-2", app="other"),
    ]
    with lab.lasting_namespace(NS, *objects):
        yield lab


def door(**spec: object) -> Object:
    """The policy that changes."""
    return network_policy(NAME, namespace=NS, subject={"app": "server"}, policyTypes=["Ingress"], **spec)


async def admitted(lab: Lab, *clients: str, port: int = 80, patience: float, home: str = NS) -> set[str]:
    """Which of the clients reach a port of the server."""
    server = job("new", lab.ip("server", namespace=NS), port, patience=patience)
    tries = await asyncio.gather(*(tried(lab, client, server, namespace=home) for client in clients))
    return {client for client, (each,) in zip(clients, tries, strict=True) if each.outcome == "open"}


async def reached(lab: Lab) -> dict[int, set[str]]:
    """The same of all clients, by port."""
    return {port: await admitted(lab, *CLIENTS, port=port, patience=DENIED_SECONDS) for port in (80, 8080)}


async def test_a_policy_that_is_made_changed_deleted_and_made_again_is_followed(shifts: Lab) -> None:
    everybody, nobody = set(CLIENTS), set[str]()
    far = f"{shifts.ip('far', namespace=NS)}/32"
    versions = [
        (door(ingress=[{}]), {80: everybody, 8080: everybody}),
        (door(ingress=[]), {80: nobody, 8080: nobody}),
        (door(ingress=[{"ports": [{"port": 8080}]}]), {80: nobody, 8080: everybody}),
        (door(ingress=[{"ports": [{"port": 80}]}]), {80: everybody, 8080: nobody}),
        (door(ingress=[{"from": [from_pods(app="client")]}]), {80: {"near", "far"}, 8080: {"near", "far"}}),
        (
            door(ingress=[{"from": [block("10.244.0.0/16", far)]}]),
            {80: {"near", "other-far"}, 8080: {"near", "other-far"}},
        ),
        (door(ingress=[{"from": [block(far)]}]), {80: {"far"}, 8080: {"far"}}),
    ]
    without_policy = {80: everybody, 8080: everybody}
    assert await reached(shifts) == without_policy
    try:
        for version, expected in versions:
            await shifts.apply(version)
            await shifts.policies_in_force()
            assert await reached(shifts) == expected, version["spec"]
        await shifts.delete(door())
        await shifts.policies_in_force()
        assert await reached(shifts) == without_policy
        await shifts.apply(door(ingress=[]))
        await shifts.policies_in_force()
        assert await reached(shifts) == {80: nobody, 8080: nobody}
    finally:
        await shifts.kubectl("delete", "networkpolicy", NAME, "-n", NS, "--ignore-not-found")
        await shifts.policies_in_force()


async def test_policies_that_open_more_are_added_and_taken_away(shifts: Lab) -> None:
    """A second policy opens what the first does not, and only while it is there."""
    first = door(ingress=[{"ports": [{"port": 80}]}])
    second = {**door(ingress=[{}]), "metadata": {"name": "gate", "namespace": NS}}
    everybody = set(CLIENTS)
    try:
        await shifts.apply(first)
        await shifts.policies_in_force()
        assert await reached(shifts) == {80: everybody, 8080: set()}
        await shifts.apply(second)
        await shifts.policies_in_force()
        assert await reached(shifts) == {80: everybody, 8080: everybody}
        await shifts.delete(second)
        await shifts.policies_in_force()
        assert await reached(shifts) == {80: everybody, 8080: set()}
    finally:
        await shifts.kubectl("delete", "networkpolicy", NAME, "gate", "-n", NS, "--ignore-not-found")
        await shifts.policies_in_force()


async def test_a_pod_is_isolated_while_it_has_the_label_of_a_policys_subjects(shifts: Lab) -> None:
    closed = network_policy("closed", namespace=NS, subject={"target": "isolated"}, policyTypes=["Ingress"])

    async def is_open_to(clients: set[str]) -> bool:
        return await admitted(shifts, *CLIENTS, patience=DENIED_SECONDS) == clients

    try:
        await shifts.apply(closed)
        await shifts.policies_in_force()
        assert await is_open_to(set(CLIENTS))
        await shifts.kubectl("label", "pod", "server", "-n", NS, "target=isolated")
        await eventually(lambda: is_open_to(set()))
        await shifts.kubectl("label", "pod", "server", "-n", NS, "target-")
        await eventually(lambda: is_open_to(set(CLIENTS)))
    finally:
        await shifts.delete(closed)
        await shifts.policies_in_force()


async def test_a_namespace_that_comes_goes_and_comes_again_counts_by_its_labels_of_the_time(
    shifts: Lab,
) -> None:
    """The policy is older than the namespace it admits; a later one of the same name is another."""
    admit = door(ingress=[{"from": [from_namespaces(team="blue")]}])
    comers = [pod(f"comer-{n}", namespace=GUESTS, node=f"node-{n}") for n in (1, 2)]
    names = [each["metadata"]["name"] for each in comers]

    async def are_admitted(expected: list[str]) -> bool:
        found = await admitted(shifts, *names, patience=DENIED_SECONDS, home=GUESTS)
        return found == set(expected)

    try:
        await shifts.apply(admit)
        await shifts.policies_in_force()
        async with shifts.namespace(GUESTS, *comers, team="blue"):
            await eventually(lambda: are_admitted(names))
        async with shifts.namespace(GUESTS, *comers):
            await shifts.well()
            assert await are_admitted([])
            await shifts.apply(namespace(GUESTS, team="blue"))
            await eventually(lambda: are_admitted(names))
            # Having been admitted is no connection that goes on for ever: the label decides again.
            await shifts.apply(namespace(GUESTS, team="red"))
            await eventually(lambda: are_admitted([]))
    finally:
        await shifts.delete(admit)
        await shifts.policies_in_force()
