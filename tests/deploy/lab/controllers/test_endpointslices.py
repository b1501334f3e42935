"""EndpointSlices say which pods serve a Service, on which numbers, and in which state."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from tests.deploy.lab.apiserver.cluster import Http, Kubectl, pod, service
from tests.deploy.lab.controllers.kubelet import Kubelet, until

SLICES = "/apis/discovery.k8s.io/v1/namespaces/default/endpointslices"
PODS = "/api/v1/namespaces/default/pods"

Slices = list[dict[str, Any]]


def serving(name: str, port: int, **more: Any) -> dict[str, Any]:
    """A pod of app ``web`` whose port ``http`` is ``port``."""
    container = {"name": "main", "image": "nginx", "ports": [{"name": "http", "containerPort": port}]}
    return pod(name, labels={"app": "web"}, containers=[container], **more)


async def slices(http: Http, holds: Callable[[Slices], bool], *, service: str = "web") -> Slices:
    query = {"labelSelector": f"kubernetes.io/service-name={service}"}
    answer = await until(http, SLICES, lambda found: holds(found["items"]), **query)
    return list(answer["items"])


def endpoints(found: Slices) -> list[dict[str, Any]]:
    return [endpoint for item in found for endpoint in item["endpoints"]]


def pods_of(found: Slices) -> set[str]:
    return {endpoint["targetRef"]["name"] for endpoint in endpoints(found)}


def all_ready(count: int) -> Callable[[Slices], bool]:
    return lambda found: [e["conditions"]["ready"] for e in endpoints(found)] == [True] * count


async def test_ready_pods_of_the_selector_are_endpoints(
    kubectl: Kubectl, kubelet: Kubelet, http: Http
) -> None:
    await kubectl.apply(
        serving("a", 80), serving("b", 80), pod("other"), service("web", selector={"app": "web"})
    )
    [found] = await slices(http, all_ready(2))
    assert found["addressType"] == "IPv4"
    assert found["ports"] == [{"name": "", "port": 80, "protocol": "TCP"}]
    assert found["metadata"]["ownerReferences"][0]["kind"] == "Service"
    first = found["endpoints"][0]
    _, target = await http.get(f"{PODS}/{first['targetRef']['name']}")
    assert first["addresses"] == [target["status"]["podIP"]]
    assert first["nodeName"] == target["spec"]["nodeName"]
    assert first["targetRef"]["uid"] == target["metadata"]["uid"]
    await kubectl("label", "pod", "a", "app=other", "--overwrite")
    await slices(http, lambda found: pods_of(found) == {"b"})
    await kubectl("delete", "svc", "web")
    await slices(http, lambda found: not found)


async def test_a_named_port_is_each_pods_own_number(kubectl: Kubectl, kubelet: Kubelet, http: Http) -> None:
    nameless = pod("nameless", labels={"app": "web"})
    ports = [{"name": "main", "port": 80, "targetPort": "http"}, {"name": "admin", "port": 81}]
    await kubectl.apply(
        serving("a", 8080),
        serving("b", 8080),
        serving("c", 9090),
        nameless,
        service("web", *ports, selector={"app": "web"}),
    )
    found = await slices(http, all_ready(4))
    by_port = {
        tuple((port["name"], port["port"]) for port in item["ports"]): pods_of([item]) for item in found
    }
    assert by_port == {
        (("main", 8080), ("admin", 81)): {"a", "b"},
        (("main", 9090), ("admin", 81)): {"c"},
        (("admin", 81),): {"nameless"},
    }
    await kubectl("delete", "pod", "c")
    found = await slices(http, all_ready(3))
    assert len(found) == 2


async def test_conditions_follow_readiness_and_termination(
    kubectl: Kubectl, kubelet: Kubelet, http: Http
) -> None:
    kubelet.hold.add("web")
    await kubectl.apply(
        serving("a", 80),
        service("web", selector={"app": "web"}),
        service("eager", selector={"app": "web"}, publishNotReadyAddresses=True),
    )

    def conditions(*expected: bool) -> Callable[[Slices], bool]:
        wanted = dict(zip(("ready", "serving", "terminating"), expected, strict=True))
        return lambda found: [endpoint["conditions"] for endpoint in endpoints(found)] == [wanted]

    await slices(http, conditions(False, False, False))
    await slices(http, conditions(True, False, False), service="eager")
    await kubelet.recover("web")
    await slices(http, conditions(True, True, False))
    kubelet.keep_terminating = True
    await kubectl("delete", "pod", "a", "--wait=false")
    await slices(http, conditions(False, True, True))
    await slices(http, conditions(True, True, True), service="eager")
    await http.delete(f"{PODS}/a", {"gracePeriodSeconds": 0})
    [empty] = await slices(http, lambda found: not endpoints(found))
    assert empty["endpoints"] == []


async def test_services_without_a_selector_are_left_alone(
    kubectl: Kubectl, kubelet: Kubelet, http: Http
) -> None:
    own = {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {"name": "own", "labels": {"kubernetes.io/service-name": "manual"}},
        "addressType": "IPv4",
        "ports": [{"port": 80}],
        "endpoints": [{"addresses": ["192.0.2.1"]}],
    }
    headless = service("headless", selector={"app": "web"}, clusterIP="None")
    await kubectl.apply(service("manual"), own, serving("a", 80), headless)
    [found] = await slices(http, all_ready(1), service="headless")
    assert found["metadata"]["labels"]["service.kubernetes.io/headless"] == ""
    found = (await slices(http, bool, service="manual"))[0]
    assert found["metadata"]["name"] == "own"


async def test_a_tampered_slice_is_put_right(kubectl: Kubectl, kubelet: Kubelet, http: Http) -> None:
    await kubectl.apply(serving("a", 80), service("web", selector={"app": "web"}))
    [found] = await slices(http, all_ready(1))
    path = f"{SLICES}/{found['metadata']['name']}"
    await http.patch(path, {"endpoints": [], "ports": [{"name": "x"}]}, "merge")
    [mended] = await slices(
        http, lambda found: all_ready(1)(found) and found[0]["ports"][0].get("port") == 80
    )
    await http.delete(f"{SLICES}/{mended['metadata']['name']}")
    await slices(http, all_ready(1))


async def test_more_endpoints_than_a_slice_holds(kubectl: Kubectl, kubelet: Kubelet, http: Http) -> None:
    await kubectl.apply(service("web", selector={"app": "web"}))
    for index in range(105):
        await http.post(PODS, serving(f"p{index}", 80, nodeName="n1"))
    found = await slices(http, all_ready(105))
    assert sorted(len(item["endpoints"]) for item in found) == [5, 100]
    assert len({endpoint["addresses"][0] for endpoint in endpoints(found)}) == 105


@pytest.mark.parametrize(
    ("distribution", "hints"),
    [
        ("PreferSameZone", {"forZones": [{"name": "z1"}]}),
        ("PreferSameNode", {"forZones": [{"name": "z1"}], "forNodes": [{"name": "n5"}]}),
    ],
)
async def test_traffic_distribution_gives_hints(
    kubectl: Kubectl, kubelet: Kubelet, http: Http, distribution: str, hints: dict[str, Any]
) -> None:
    await kubelet.add_node("n5", labels={"topology.kubernetes.io/zone": "z1"})
    near = service("web", selector={"app": "web"}, trafficDistribution=distribution)
    await kubectl.apply(serving("a", 80, nodeName="n5"), near)
    [found] = await slices(http, all_ready(1))
    assert found["endpoints"][0]["zone"] == "z1"
    assert found["endpoints"][0]["hints"] == hints
