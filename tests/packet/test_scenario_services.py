"""Services: which pod answers, whom it sees, and what becomes of those who ask in vain."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Any

import pytest

from shared.kubernetes import Object
from tests.packet.agents import job, traffic, tried
from tests.packet.labs import Lab, eventually
from tests.packet.manifests import from_pods, pod, policy, service

NS = "shop"

# One Service port, three pods, three numbers behind the same name.
SERVERS = {
    "server-1": ("node-1", ["web=8081", "admin=9090", "dns=5301/UDP"]),
    "server-2": ("node-2", ["web=8082", "admin=9090", "dns=5302/UDP"]),
}
CLIENTS = {"client-1": "node-1", "client-2": "node-2"}


@pytest.fixture(scope="module")
def shop(lab: Lab) -> Iterator[str]:
    """Two servers behind a Service with three ports, clients on both nodes; its address."""
    objects = [
        *(
            pod(name, namespace=NS, node=node, ports=ports, app="server", only=name)
            for name, (node, ports) in SERVERS.items()
        ),
        *(pod(name, namespace=NS, node=node, app="client") for name, node in CLIENTS.items()),
        service(
            "shop", namespace=NS, ports=["http=80:web", "admin=9000:9090", "dns=53:dns/UDP"], app="server"
        ),
        service("alone", namespace=NS, ports=["http=80:web", "dns=53:dns/UDP"], only="server-1"),
        service("nobody", namespace=NS, ports=["80:80"], app="nobody"),
        local_service("near", namespace=NS, ports=["80:web"], app="server"),
        local_service("far", namespace=NS, ports=["80:web"], only="server-1"),
    ]
    with lab.lasting_namespace(NS, *objects):
        yield asyncio.run(lab.service_ip("shop", namespace=NS))


def local_service(name: str, **details: Any) -> Object:
    """A Service with ``internalTrafficPolicy: Local``."""
    made = service(name, **details)
    made["spec"]["internalTrafficPolicy"] = "Local"
    return made


@pytest.mark.parametrize("client", CLIENTS)
async def test_every_backend_answers_and_sees_the_client_itself(lab: Lab, shop: str, client: str) -> None:
    tries = await tried(
        lab,
        client,
        *(job("new", shop, 80) for _ in range(12)),
        *(job("udp", shop, 53) for _ in range(12)),
        *(job("new", shop, 9000) for _ in range(12)),
        namespace=NS,
    )
    assert {each.outcome for each in tries} == {"open"}
    assert {each.client for each in tries} == {lab.ip(client, namespace=NS)}
    for first, ports in ((0, {8081, 8082}), (12, {5301, 5302}), (24, {9090})):
        answers = [each.answer for each in tries[first : first + 12]]
        assert {answer["pod"] for answer in answers} == {"server-1", "server-2"}
        assert {answer["port"] for answer in answers} == ports


async def test_a_connection_and_a_socket_stay_with_their_backend(lab: Lab, shop: str) -> None:
    jobs = [job("kept", shop, id="kept"), job("flow", shop, 53, id="flow")]
    async with traffic(lab, NS, client_1=jobs) as seen:
        await seen.more(count=8)
        assert seen.faults(allowed=tuple(seen.tries)) == []
        assert [len({each.pod for each in tries}) for tries in seen.tries.values()] == [1, 1]


async def test_server_reaches_itself_through_its_own_service(lab: Lab, shop: str) -> None:
    alone = await lab.service_ip("alone", namespace=NS)
    tries = await tried(lab, "server-1", job("new", alone), job("udp", alone, 53), namespace=NS)
    assert [each.outcome for each in tries] == ["open", "open"]
    assert {each.pod for each in tries} == {"server-1"}
    # Its own address would be answered inside the pod, untranslated.
    assert {each.client for each in tries} == {"169.254.42.1"}


@pytest.mark.parametrize(("client", "server"), list(zip(CLIENTS, SERVERS, strict=True)))
async def test_a_local_service_is_answered_on_the_clients_node(
    lab: Lab, shop: str, client: str, server: str
) -> None:
    near, far = [await lab.service_ip(name, namespace=NS) for name in ("near", "far")]
    tries = await tried(lab, client, *(job("new", near) for _ in range(12)), job("new", far), namespace=NS)
    assert {each.pod for each in tries[:-1]} == {server}
    assert tries[-1].outcome == ("open" if server == "server-1" else "refused")


async def test_asking_in_vain_is_refused_by_name(lab: Lab, shop: str) -> None:
    nobody = await lab.service_ip("nobody", namespace=NS)
    async with lab.heard("flow.*.dropped") as flows:
        tries = await tried(
            lab,
            "client-1",
            job("new", nobody, patience=0.4),
            job("new", shop, 81, patience=0.4),
            namespace=NS,
        )
        assert [each.outcome for each in tries] == ["refused", "refused"]

        def told(ip: str, port: int) -> list[dict[str, Any]]:
            return [
                flow
                for flow in flows
                if (flow["destination"]["ip"], flow["destination"]["port"]) == (ip, port)
            ]

        for ip, port in ((nobody, 80), (shop, 81)):
            flow = (await eventually(lambda ip=ip, port=port: told(ip, port)))[0]  # type: ignore[misc]
            assert flow["drop_reason"] == {"code": 158, "name": "SERVICE_BACKEND_NOT_FOUND"}
            assert flow["source"]["pod"] == "client-1"
        assert told(nobody, 80)[0]["service"]["name"] == "nobody"


async def test_policy_is_asked_about_the_backend_and_its_port(lab: Lab, shop: str) -> None:
    admit = policy(
        "web-only",
        namespace=NS,
        subject={"app": "server"},
        peers=[from_pods(app="client")],
        ports=["8081", "8082", "5301/UDP"],
    )
    try:
        await lab.apply(admit)
        await lab.policies_in_force()
        for client in CLIENTS:
            servers = [lab.ip(server, namespace=NS) for server in SERVERS]
            tries = await tried(
                lab,
                client,
                *(job("new", shop, 80) for _ in range(6)),
                *(job("new", shop, 9000, patience=0.4) for _ in range(3)),
                job("udp", servers[0], 5301),
                job("udp", servers[1], 5302, patience=0.4),
                namespace=NS,
            )
            assert [each.outcome for each in tries] == ["open"] * 6 + ["denied"] * 3 + ["open", "denied"]
        # Whatever selects it, a pod reaches itself.
        alone = await lab.service_ip("alone", namespace=NS)
        (each,) = await tried(lab, "server-1", job("new", alone), namespace=NS)
        assert each.outcome == "open"
    finally:
        await lab.delete(admit)
        await lab.policies_in_force()


async def test_backends_that_come_and_go_are_followed(lab: Lab, shop: str) -> None:
    third = pod("server-3", namespace=NS, node="node-1", ports=["web=8083"], app="server")

    async def answerers() -> set[str]:
        tries = await tried(lab, "client-2", *(job("new", shop) for _ in range(16)), namespace=NS)
        assert {each.outcome for each in tries} == {"open"}
        return {each.pod for each in tries}

    async def three() -> bool:
        return await answerers() == {"server-1", "server-2", "server-3"}

    try:
        await lab.apply(third)
        await lab.pods_ready("server-3", namespace=NS)
        await eventually(three)
    finally:
        await lab.delete(third)
    await lab.well()
    assert await answerers() == {"server-1", "server-2"}
