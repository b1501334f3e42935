"""A new pod is never without its policy: unreachable, reaching nobody, not ready before it is in force."""

from __future__ import annotations

import json
from typing import Any

from deploy.lab import client, namespaces
from deploy.lab.names import namespace_path
from deploy.lab.pods import PodView
from tests.packet.agents import DENIED_SECONDS, job, traffic, tried, tried_in
from tests.packet.labs import Lab, eventually, run
from tests.packet.manifests import from_pods, pod, policy

NS = "late"


async def view_of(lab: Lab, name: str) -> PodView | None:
    """A pod as its kubelet has it, ready or not."""
    views = await client.pods(lab.name)
    return next((view for view in views if (view.namespace, view.name) == (NS, name)), None)


async def address_in(view: PodView) -> str | None:
    """The address that a pod's interface has, once it is up."""
    if namespaces.inode(view.network_namespace) is None:
        return None
    inside = ["nsenter", f"--net={namespace_path(view.network_namespace)}"]
    done = await run([*inside, "ip", "-json", "-4", "addr", "show", "dev", "eth0", "up"])
    found = json.loads(done.output or "[]") if done.code == 0 else []
    addresses = [each["local"] for link in found for each in link.get("addr_info", [])]
    return addresses[0] if addresses else None


async def test_pod_of_unknown_labels_waits_for_the_policy_service_without_a_packet(lab: Lab) -> None:
    objects = [
        pod("open", namespace=NS, node="node-1", app="known"),
        pod("far", namespace=NS, node="node-2", app="known"),
    ]
    async with lab.namespace(NS, *objects):
        targets = [lab.ip(name, namespace=NS) for name in ("open", "far")]
        async with lab.heard("flow.*.dropped") as flows:
            async with lab.killed("policy"):
                await lab.apply(
                    pod("newcomer", namespace=NS, node="node-1", app="never-seen-before"),
                    pod("sibling", namespace=NS, node="node-2", app="known"),
                )
                # What is known of its labels is all that a pod needs.
                await lab.pods_ready("sibling", namespace=NS)

                async def attached() -> tuple[PodView, str] | None:
                    view = await view_of(lab, "newcomer")
                    address = await address_in(view) if view is not None else None
                    return None if view is None or address is None else (view, address)

                found = await eventually(attached)
                assert found is not None
                view, address = found
                out = [job("new", ip, patience=DENIED_SECONDS) for ip in (*targets, lab.node_ip("node-1"))]
                tries = await tried_in(view.network_namespace, *out)
                assert [each.outcome for each in tries] == ["denied"] * 3
                for source in ("open", "far"):
                    (each,) = await tried(
                        lab, source, job("new", address, patience=DENIED_SECONDS), namespace=NS
                    )
                    assert each.outcome == "denied"

                def told(**ends: str) -> list[dict[str, Any]]:
                    return [
                        flow
                        for flow in flows
                        if flow["drop_reason"]["name"] == "ENDPOINT_NOT_READY"
                        and all(flow[end]["ip"] == ip for end, ip in ends.items())
                    ]

                await eventually(lambda: told(source=address))
                await eventually(lambda: told(destination=address))

                async def refused() -> str:
                    status = (await lab.get("pod", "newcomer", "-n", NS))["status"]
                    assert status["phase"] == "Pending"
                    conditions = {each["type"]: each["status"] for each in status.get("conditions", [])}
                    assert conditions.get("Ready") != "True"
                    (container,) = status.get("containerStatuses", [{}])
                    return str(container.get("state", {}).get("waiting", {}).get("message", ""))

                message = await eventually(refused, every=0.5, seconds=45)
                assert f"(pod {NS}/newcomer) is not published: is the policy service running?" in message
            await lab.pods_ready("newcomer", namespace=NS)
        tries = await tried(lab, "newcomer", *(job("new", ip) for ip in targets), namespace=NS)
        assert [each.outcome for each in tries] == ["open", "open"]
        (each,) = await tried(lab, "far", job("new", lab.ip("newcomer", namespace=NS)), namespace=NS)
        assert each.outcome == "open"


async def test_pod_is_under_its_policy_from_its_first_packet(lab: Lab) -> None:
    """Somebody who may not hammers the addresses that new pods get; none of them ever lets him in."""
    count = 6
    objects = [
        pod("stranger", namespace=NS, node="node-1", app="stranger"),
        pod("friend", namespace=NS, node="node-1", app="friend"),
        policy("door", namespace=NS, subject={"app": "door"}, peers=[from_pods(app="friend")]),
    ]
    async with lab.namespace(NS, *objects):
        # Addresses are given in order.
        first = int(lab.ip("friend", namespace=NS).split(".")[-1])
        before = max(first, int(lab.ip("stranger", namespace=NS).split(".")[-1]))
        addresses = [f"10.244.1.{before + number}" for number in range(1, count + 3)]
        jobs = [job("new", ip, id=ip, every=0.02, patience=DENIED_SECONDS) for ip in addresses]
        async with traffic(lab, NS, stranger=jobs) as seen:
            names = [f"door-{number}" for number in range(count)]
            await lab.apply(*(pod(name, namespace=NS, node="node-1", app="door") for name in names))
            await lab.pods_ready(*names, namespace=NS)
            given = [lab.ip(name, namespace=NS) for name in names]
            assert set(given) <= set(addresses)
            tries = await tried(lab, "friend", *(job("new", ip) for ip in given), namespace=NS)
            assert {each.outcome for each in tries} == {"open"}
            await seen.more(*given)
            tries = [each for ip in given for each in seen.tries[ip]]
            assert [each for each in tries if each.outcome in ("open", "refused")] == []
