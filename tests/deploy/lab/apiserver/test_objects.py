"""Writes keep the rules of the Kubernetes API: conflicts, deletion, ownership, defaults, allocation."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from deploy.lab.apiserver import ApiServer, ListenError
from tests.deploy.lab.apiserver.cluster import Http, deployment, pod, running, service

PODS = "/api/v1/namespaces/default/pods"
SERVICES = "/api/v1/namespaces/default/services"
MAPS = "/api/v1/namespaces/default/configmaps"
POLICIES = "/apis/networking.k8s.io/v1/namespaces/default/networkpolicies"


def config_map(name: str, **metadata: Any) -> dict[str, Any]:
    return {"metadata": {"name": name, **metadata}}


def owned_by(*owners: dict[str, Any]) -> list[dict[str, Any]]:
    return [
        {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "name": owner["metadata"]["name"],
            "uid": owner["metadata"]["uid"],
            "blockOwnerDeletion": True,
        }
        for owner in owners
    ]


async def test_start_is_quick_and_stop_ends_open_watches(server: ApiServer) -> None:
    loop = asyncio.get_running_loop()
    begun = loop.time()
    async with running(server) as http:
        assert loop.time() - begun < 0.1
        async with http.session.get("/api/v1/pods", params={"watch": "true"}) as watch:
            begun = loop.time()
            await server.stop()
            assert loop.time() - begun < 1.0
            assert await watch.content.read() == b""


async def test_listens_on_loopback_only() -> None:
    with pytest.raises(ListenError, match="loopback"):
        await ApiServer().start(host="0.0.0.0")


async def test_a_write_on_an_outdated_object_conflicts(http: Http) -> None:
    _, first = await http.post(MAPS, config_map("a"))
    code, second = await http.put(f"{MAPS}/a", first | {"data": {"k": "1"}})
    assert code == 200
    assert int(second["metadata"]["resourceVersion"]) > int(first["metadata"]["resourceVersion"])
    code, status = await http.put(f"{MAPS}/a", first | {"data": {"k": "2"}})
    assert (code, status["reason"]) == (409, "Conflict")
    code, status = await http.patch(f"{MAPS}/a", {"metadata": first["metadata"]}, "merge")
    assert (code, status["reason"]) == (409, "Conflict")
    code, status = await http.delete(f"{MAPS}/a", {"preconditions": {"uid": "another"}})
    assert (code, status["reason"]) == (409, "Conflict")
    code, status = await http.post(MAPS, config_map("a"))
    assert (code, status["reason"]) == (409, "AlreadyExists")
    assert (await http.get(f"{MAPS}/a"))[1]["data"] == {"k": "1"}


async def test_a_write_that_changes_nothing_is_no_event(http: Http) -> None:
    _, made = await http.post(MAPS, config_map("a"))
    _, again = await http.put(f"{MAPS}/a", made)
    assert again["metadata"]["resourceVersion"] == made["metadata"]["resourceVersion"]


async def test_generation_counts_spec_and_status_is_its_own_endpoint(http: Http) -> None:
    path = "/apis/apps/v1/namespaces/default/deployments"
    _, made = await http.post(path, deployment("web") | {"status": {"replicas": 9}})
    assert made["metadata"]["generation"] == 1
    assert "replicas" not in made["status"]
    _, after = await http.put(
        f"{path}/web/status", made | {"status": {"replicas": 2}, "spec": {"replicas": 7}}
    )
    assert after["status"]["replicas"] == 2
    assert after["spec"]["replicas"] == 1
    assert after["metadata"]["generation"] == 1
    after["spec"]["replicas"] = 3
    _, after = await http.put(f"{path}/web", after | {"status": {"replicas": 99}})
    assert after["status"]["replicas"] == 2
    assert after["metadata"]["generation"] == 2


async def test_generated_names_are_distinct(http: Http) -> None:
    made = [(await http.post(MAPS, {"metadata": {"generateName": "c-"}}))[1] for _ in range(20)]
    assert len({item["metadata"]["name"] for item in made}) == 20
    assert all(item["metadata"]["name"].startswith("c-") for item in made)


async def test_a_bound_pod_stays_until_its_kubelet_lets_it_go(http: Http) -> None:
    await http.post(PODS, pod("free"))
    assert (await http.delete(f"{PODS}/free"))[1]["status"] == "Success"
    await http.post(PODS, pod("held", terminationGracePeriodSeconds=7))
    binding = {"metadata": {"name": "held"}, "target": {"kind": "Node", "name": "n1"}}
    assert (await http.post(f"{PODS}/held/binding", binding))[0] == 201
    assert (await http.post(f"{PODS}/held/binding", binding))[0] == 409
    _, marked = await http.delete(f"{PODS}/held")
    assert marked["metadata"]["deletionGracePeriodSeconds"] == 7
    assert (await http.get(f"{PODS}/held"))[1]["metadata"]["deletionTimestamp"]
    assert (await http.delete(f"{PODS}/held", {"gracePeriodSeconds": 0}))[1]["status"] == "Success"
    assert (await http.get(f"{PODS}/held"))[0] == 404


async def test_finalizers_hold_an_object_back(http: Http) -> None:
    await http.post(MAPS, config_map("a", finalizers=["x/one", "x/two"]))
    code, marked = await http.delete(f"{MAPS}/a")
    assert code == 200
    assert marked["metadata"]["deletionTimestamp"]
    code, status = await http.patch(
        f"{MAPS}/a", {"metadata": {"finalizers": ["x/one", "x/two", "x/3"]}}, "merge"
    )
    assert (code, status["details"]["causes"][0]["field"]) == (422, "metadata.finalizers")
    await http.patch(f"{MAPS}/a", {"metadata": {"finalizers": ["x/one"]}}, "merge")
    assert (await http.get(f"{MAPS}/a"))[0] == 200
    await http.patch(f"{MAPS}/a", {"metadata": {"finalizers": None}}, "merge")
    assert (await http.get(f"{MAPS}/a"))[0] == 404


async def test_dependents_follow_their_last_owner(http: Http) -> None:
    _, one = await http.post(MAPS, config_map("one"))
    _, two = await http.post(MAPS, config_map("two"))
    _, child = await http.post(MAPS, config_map("child", ownerReferences=owned_by(one)))
    await http.post(MAPS, config_map("grandchild", ownerReferences=owned_by(child)))
    await http.post(MAPS, config_map("shared", ownerReferences=owned_by(one, two)))
    await http.delete(f"{MAPS}/one")
    names = {item["metadata"]["name"] for item in (await http.get(MAPS))[1]["items"]}
    assert names == {"two", "shared"}
    await http.delete(f"{MAPS}/two")
    assert (await http.get(MAPS))[1]["items"] == []
    await http.post(MAPS, config_map("late", ownerReferences=owned_by(one)))
    assert (await http.get(MAPS))[1]["items"] == []


async def test_orphan_and_foreground_deletion(http: Http) -> None:
    _, one = await http.post(MAPS, config_map("one"))
    await http.post(MAPS, config_map("child", ownerReferences=owned_by(one)))
    await http.delete(f"{MAPS}/one", propagationPolicy="Orphan")
    assert (await http.get(f"{MAPS}/child"))[1]["metadata"]["ownerReferences"] == []

    _, two = await http.post(MAPS, config_map("two"))
    await http.post(MAPS, config_map("kid", ownerReferences=owned_by(two), finalizers=["x/hold"]))
    await http.delete(f"{MAPS}/two", propagationPolicy="Foreground")
    assert (await http.get(f"{MAPS}/two"))[1]["metadata"]["finalizers"] == ["foregroundDeletion"]
    await http.patch(f"{MAPS}/kid", {"metadata": {"finalizers": None}}, "merge")
    assert (await http.get(f"{MAPS}/kid"))[0] == 404
    assert (await http.get(f"{MAPS}/two"))[0] == 404


async def test_terminating_namespace_waits_for_its_pods_and_takes_nothing_new(http: Http) -> None:
    await http.post("/api/v1/namespaces", {"metadata": {"name": "blue"}})
    blue = "/api/v1/namespaces/blue"
    await http.post(f"{blue}/pods", pod("a", nodeName="n1"))
    await http.post(f"{blue}/configmaps", config_map("c"))
    await http.delete(blue)
    assert (await http.get(blue))[1]["status"]["phase"] == "Terminating"
    assert (await http.get(f"{blue}/configmaps"))[1]["items"] == []
    code, status = await http.post(f"{blue}/pods", pod("b"))
    assert (code, status["details"]["causes"][0]["reason"]) == (403, "NamespaceTerminating")
    await http.delete(f"{blue}/pods/a", {"gracePeriodSeconds": 0})
    assert (await http.get(blue))[0] == 404
    assert (await http.delete("/api/v1/namespaces/kube-system"))[0] == 403


async def test_delete_collection_takes_selectors(http: Http) -> None:
    for name, tier in (("a", "x"), ("b", "y"), ("c", "x")):
        await http.post(MAPS, config_map(name, labels={"tier": tier}))
    await http.delete(MAPS, labelSelector="tier=x")
    assert [item["metadata"]["name"] for item in (await http.get(MAPS))[1]["items"]] == ["b"]


async def test_lists_come_in_pages(http: Http) -> None:
    for index in range(7):
        await http.post(MAPS, config_map(f"m{index}"))
    names: list[str] = []
    token = ""
    while True:
        _, page = await http.get(MAPS, limit="3", **({"continue": token} if token else {}))
        names += [item["metadata"]["name"] for item in page["items"]]
        token = page["metadata"].get("continue", "")
        if not token:
            break
    assert names == [f"m{index}" for index in range(7)]


async def test_services_get_addresses_nobody_else_has(http: Http) -> None:
    _, first = await http.post(SERVICES, service("a"))
    _, second = await http.post(SERVICES, service("b"))
    assert first["spec"]["clusterIPs"] == [first["spec"]["clusterIP"]] != second["spec"]["clusterIPs"]
    assert first["spec"]["ipFamilies"] == ["IPv4"]
    assert first["spec"]["ports"] == [{"port": 80, "protocol": "TCP", "targetPort": 80}]
    code, status = await http.post(SERVICES, service("c", clusterIP=first["spec"]["clusterIP"]))
    assert (code, status["details"]["causes"][0]["field"]) == (422, "spec.clusterIPs[0]")
    code, status = await http.post(SERVICES, service("c", clusterIP="192.0.2.1"))
    assert (code, "10.96.0.0/16" in status["message"]) == (422, True)
    _, headless = await http.post(SERVICES, service("d", clusterIP="None"))
    assert headless["spec"]["clusterIPs"] == ["None"]
    moved = first | {"spec": first["spec"] | {"clusterIP": "10.96.9.9", "clusterIPs": ["10.96.9.9"]}}
    assert (await http.put(f"{SERVICES}/a", moved))[0] == 422
    await http.delete(f"{SERVICES}/a")
    _, reused = await http.post(SERVICES, service("e", clusterIP=first["spec"]["clusterIP"]))
    assert reused["spec"]["clusterIP"] == first["spec"]["clusterIP"]
    _, node = await http.post(SERVICES, service("f", type="NodePort"))
    port = node["spec"]["ports"][0]["nodePort"]
    assert 30000 <= port < 32768
    code, _ = await http.post(SERVICES, service("g", {"port": 1, "nodePort": port}, type="NodePort"))
    assert code == 422


async def test_a_full_range_is_refused_and_dual_stack_gives_both() -> None:
    async with running(ApiServer(service_cidrs=["10.1.0.0/29", "fd00:1::/112"])) as http:
        _, dual = await http.post(SERVICES, service("dual", ipFamilyPolicy="PreferDualStack"))
        assert dual["spec"]["ipFamilies"] == ["IPv4", "IPv6"]
        assert [":" in address for address in dual["spec"]["clusterIPs"]] == [False, True]
        _, six = await http.post(SERVICES, service("six", ipFamilies=["IPv6"]))
        assert ":" in six["spec"]["clusterIP"]
        codes = [(await http.post(SERVICES, service(f"s{index}")))[0] for index in range(6)]
        assert codes == [201] * 5 + [422]


async def test_invalid_objects_are_refused_with_the_field(http: Http) -> None:
    async def field_of(path: str, body: dict[str, Any]) -> str:
        code, status = await http.post(path, body)
        assert code == 422, status
        return str(status["details"]["causes"][0]["field"])

    assert await field_of(PODS, pod("Not_A_Name")) == "metadata.name"
    assert await field_of(PODS, pod("a", containers=[])) == "spec.containers"
    assert await field_of(SERVICES, service("a", {"port": 0})) == "spec.ports[0].port"
    assert await field_of(SERVICES, service("a", {"port": 1}, {"port": 2})) == "spec.ports[0].name"
    wrong = deployment("web")
    wrong["spec"]["template"]["metadata"]["labels"] = {"app": "other"}
    assert (
        await field_of("/apis/apps/v1/namespaces/default/deployments", wrong)
        == "spec.template.metadata.labels"
    )
    code, status = await http.post(PODS, {"kind": "Service", "metadata": {"name": "a"}})
    assert (code, status["reason"]) == (400, "BadRequest")
    assert (await http.post(PODS, [1]))[0] == 400
    assert (await http.get("/api/v1/nonsense"))[0] == 404


async def test_network_policies_that_mean_nothing_are_stored(http: Http) -> None:
    selector = {"matchExpressions": [{"key": "a", "operator": "Resembles", "values": ["b"]}]}
    spec = {
        "podSelector": selector,
        "policyTypes": ["Sideways"],
        "ingress": [
            {
                "from": [{"ipBlock": {"cidr": "300.0.0.0/99", "except": ["x"]}}],
                "ports": [{"port": 99999, "endPort": 1, "protocol": "ICMP"}],
            }
        ],
    }
    code, stored = await http.post(POLICIES, {"metadata": {"name": "odd"}, "spec": spec})
    assert code == 201
    assert stored["spec"] == spec
    code, stored = await http.post(POLICIES, {"metadata": {"name": "new"}, "spec": {"fromTheFuture": True}})
    assert (code, stored["spec"]["fromTheFuture"]) == (201, True)


async def test_scale_and_eviction(http: Http) -> None:
    path = "/apis/apps/v1/namespaces/default/deployments"
    await http.post(path, deployment("web"))
    _, scale = await http.patch(f"{path}/web/scale", {"spec": {"replicas": 4}}, "merge")
    assert scale["spec"]["replicas"] == 4
    assert scale["status"]["selector"] == "app=web"
    assert (await http.get(f"{path}/web"))[1]["spec"]["replicas"] == 4
    await http.post(PODS, pod("a"))
    assert (await http.post(f"{PODS}/a/eviction", {"kind": "Eviction"}))[0] == 201
    assert (await http.get(f"{PODS}/a"))[0] == 404
