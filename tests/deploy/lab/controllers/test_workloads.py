"""Deployments become running pods on nodes, and follow every change."""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from contextlib import suppress
from typing import Any

import pytest

from deploy.lab.apiserver import ApiServer
from deploy.lab.controllers import Controllers
from tests.deploy.lab.apiserver.cluster import Failed, Http, Kubectl, deployment, pod
from tests.deploy.lab.controllers.kubelet import Kubelet, is_ready, until

PODS = "/api/v1/namespaces/default/pods"
DEPLOYMENTS = "/apis/apps/v1/namespaces/default/deployments"
SETS = "/apis/apps/v1/namespaces/default/replicasets"


async def test_apply_wait_and_rollout(kubectl: Kubectl, kubelet: Kubelet, http: Http) -> None:
    await kubectl.apply(deployment("web", replicas=4))
    await kubectl("wait", "--for=condition=Available", "deploy/web", "--timeout=10s")
    assert "successfully rolled out" in await kubectl("rollout", "status", "deploy/web", "--timeout=10s")
    assert "4/4" in await kubectl("get", "deploy", "web")
    _, pods = await http.get(PODS)
    assert Counter(pod["spec"]["nodeName"] for pod in pods["items"]) == {"n1": 2, "n2": 2}
    [replica_set] = (await http.get(SETS))[1]["items"]
    digest = replica_set["metadata"]["labels"]["pod-template-hash"]
    assert replica_set["metadata"]["name"] == f"web-{digest}"
    for item in pods["items"]:
        assert item["metadata"]["name"].startswith(f"web-{digest}-")
        assert item["metadata"]["labels"] == {"app": "web", "pod-template-hash": digest}


async def test_scale_up_and_down(kubectl: Kubectl, kubelet: Kubelet, http: Http) -> None:
    await kubectl.apply(deployment("web", replicas=2))
    await kubectl("rollout", "status", "deploy/web", "--timeout=10s")
    await kubectl("scale", "deploy", "web", "--replicas=6")
    await kubectl("rollout", "status", "deploy/web", "--timeout=10s")
    assert len((await http.get(PODS))[1]["items"]) == 6
    await kubectl("scale", "deploy", "web", "--replicas=1")
    await until(http, PODS, lambda pods: len(pods["items"]) == 1)
    await kubectl("scale", "deploy", "web", "--replicas=0")
    await until(http, PODS, lambda pods: not pods["items"])


async def test_a_template_change_replaces_pods_without_losing_availability(
    kubectl: Kubectl, kubelet: Kubelet, http: Http
) -> None:
    await kubectl.apply(deployment("web", replicas=4))
    await kubectl("rollout", "status", "deploy/web", "--timeout=10s")
    _, listed = await http.get(PODS)
    state = {item["metadata"]["name"]: item for item in listed["items"]}
    await kubectl.apply(deployment("web", replicas=4, image="nginx:2"))

    def images() -> list[str]:
        return [item["spec"]["containers"][0]["image"] for item in state.values()]

    params = {"watch": "true", "resourceVersion": listed["metadata"]["resourceVersion"]}
    async with asyncio.timeout(10), http.session.get(PODS, params=params) as response:
        while images() != ["nginx:2"] * 4 or not all(map(is_ready, state.values())):
            event = json.loads(await response.content.readline())
            name = event["object"]["metadata"]["name"]
            state.pop(name, None)
            if event["type"] != "DELETED" and "deletionTimestamp" not in event["object"]["metadata"]:
                state[name] = event["object"]
            assert sum(map(is_ready, state.values())) >= 3
            assert len(state) <= 5
    await kubectl("rollout", "status", "deploy/web", "--timeout=10s")
    assert [item["spec"]["replicas"] for item in (await http.get(SETS))[1]["items"]].count(0) == 1

    await kubectl("rollout", "undo", "deploy/web")
    await kubectl("rollout", "status", "deploy/web", "--timeout=10s")
    _, pods = await http.get(PODS)
    assert {item["spec"]["containers"][0]["image"] for item in pods["items"]} == {"nginx:1"}
    assert len((await http.get(SETS))[1]["items"]) == 2
    assert "REVISION" in await kubectl("rollout", "history", "deploy/web")


async def test_a_rollout_that_does_not_become_ready_stops_short(
    kubectl: Kubectl, kubelet: Kubelet, http: Http
) -> None:
    await kubectl.apply(deployment("web", replicas=2))
    await kubectl("rollout", "status", "deploy/web", "--timeout=10s")
    kubelet.hold.add("web")
    await kubectl("set", "image", "deploy/web", "main=broken")
    await until(http, PODS, lambda pods: len(pods["items"]) == 3)
    with pytest.raises(Failed, match="timed out"):
        await kubectl("rollout", "status", "deploy/web", "--timeout=500ms")
    _, pods = await http.get(PODS)
    assert sum(item["spec"]["containers"][0]["image"] == "nginx:1" for item in pods["items"]) == 2
    await kubelet.recover("web")
    await kubectl("rollout", "status", "deploy/web", "--timeout=10s")


async def test_recreate_never_mixes_versions(kubectl: Kubectl, kubelet: Kubelet, http: Http) -> None:
    web = deployment("web", replicas=2)
    web["spec"]["strategy"] = {"type": "Recreate"}
    await kubectl.apply(web)
    await kubectl("rollout", "status", "deploy/web", "--timeout=10s")
    await kubectl("set", "image", "deploy/web", "main=nginx:2")
    await kubectl("rollout", "status", "deploy/web", "--timeout=10s")
    _, pods = await http.get(PODS)
    assert [item["spec"]["containers"][0]["image"] for item in pods["items"]] == ["nginx:2", "nginx:2"]


async def test_lost_pods_are_replaced_and_deletion_takes_all(
    kubectl: Kubectl, kubelet: Kubelet, http: Http
) -> None:
    await kubectl.apply(deployment("web", replicas=3))
    await kubectl("rollout", "status", "deploy/web", "--timeout=10s")
    before = {item["metadata"]["uid"] for item in (await http.get(PODS))[1]["items"]}
    await kubectl("delete", "pods", "--all", "--timeout=10s")
    await kubectl("rollout", "status", "deploy/web", "--timeout=10s")
    after = {
        item["metadata"]["uid"]
        for item in (await until(http, PODS, lambda p: sum(map(is_ready, p["items"])) == 3))["items"]
    }
    assert len(after) == 3
    assert not before & after
    await kubectl("delete", "deploy", "web")
    assert (await http.get(SETS))[1]["items"] == []
    await until(http, PODS, lambda pods: not pods["items"])


async def test_pods_go_only_where_they_fit(kubectl: Kubectl, kubelet: Kubelet, http: Http) -> None:
    await kubectl.apply(pod("picky", nodeSelector={"disk": "fast"}), pod("placed", nodeName="elsewhere"))

    def unschedulable(item: dict[str, Any]) -> bool:
        conditions = item["status"].get("conditions") or ()
        return any(c["type"] == "PodScheduled" and c.get("reason") == "Unschedulable" for c in conditions)

    await until(http, f"{PODS}/picky", unschedulable)
    await kubelet.add_node("n3", labels={"disk": "fast"}, ready=False)
    await kubelet.add_node("n4", labels={"disk": "fast"})
    found = await until(http, f"{PODS}/picky", lambda item: "nodeName" in item["spec"])
    assert found["spec"]["nodeName"] == "n4"
    assert (await http.get(f"{PODS}/placed"))[1]["spec"]["nodeName"] == "elsewhere"

    await kubectl("cordon", "n1")
    await kubectl("taint", "node", "n2", "only=me:NoSchedule")
    await kubectl.apply(pod("plain"), pod("tolerant", tolerations=[{"operator": "Exists"}]))
    found = await until(http, f"{PODS}/plain", lambda item: "nodeName" in item["spec"])
    assert found["spec"]["nodeName"] == "n4"
    found = await until(http, f"{PODS}/tolerant", lambda item: "nodeName" in item["spec"])
    assert found["spec"]["nodeName"] == "n2"


async def test_new_namespaces_get_their_account(kubectl: Kubectl, kubelet: Kubelet, http: Http) -> None:
    await kubectl("create", "namespace", "blue")
    path = "/api/v1/namespaces/blue/serviceaccounts"
    await until(http, path, lambda accounts: len(accounts["items"]) == 1)
    await kubectl("-n", "blue", "delete", "serviceaccount", "default")
    await until(http, path, lambda accounts: len(accounts["items"]) == 1)


async def test_pods_of_a_vanished_node_can_go(kubectl: Kubectl, kubelet: Kubelet, http: Http) -> None:
    kubelet.keep_terminating = True
    await kubectl.apply(pod("a", nodeName="n1"))
    await kubectl("delete", "pod", "a", "--wait=false")
    assert (await http.get(f"{PODS}/a"))[0] == 200
    await kubectl("delete", "node", "n1")
    await kubectl("wait", "--for=delete", "pod/a", "--timeout=10s")


async def test_controllers_outlive_a_restart_of_the_api_server(
    kubectl: Kubectl, http: Http, server: ApiServer
) -> None:
    controllers = asyncio.create_task(Controllers(kubeconfig=kubectl.kubeconfig).run(), name="controllers")
    await kubectl.apply(deployment("web", replicas=2))
    await until(http, PODS, lambda pods: len(pods["items"]) == 2)
    port = server.address.port
    await server.stop()
    await server.start(port=port)
    await kubectl("scale", "deploy", "web", "--replicas=3")
    await until(http, PODS, lambda pods: len(pods["items"]) == 3)
    controllers.cancel()
    with suppress(asyncio.CancelledError):
        await controllers


async def test_controllers_go_on_after_dropped_watches_and_a_forgotten_log(
    kubectl: Kubectl, kubelet: Kubelet, http: Http, server: ApiServer
) -> None:
    await kubectl.apply(deployment("web", replicas=1))
    await kubectl("rollout", "status", "deploy/web", "--timeout=10s")
    for abrupt in (False, True):
        server.drop_watches(abrupt=abrupt)
        server.compact()
        name = f"after-{abrupt}".lower()
        await kubectl.apply(deployment(name, replicas=2))
        await until(http, PODS, lambda pods: all("nodeName" in p["spec"] for p in pods["items"]))
        await until(http, PODS, lambda pods: len(pods["items"]) == 2, labelSelector=f"app={name}")
