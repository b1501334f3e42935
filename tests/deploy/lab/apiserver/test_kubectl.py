"""What a newcomer does with kubectl works against the embedded server."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from deploy.lab.apiserver import ApiServer
from tests.deploy.lab.apiserver.cluster import Failed, Http, Kubectl, deployment, pod, service

POLICY: dict[str, Any] = {
    "apiVersion": "networking.k8s.io/v1",
    "kind": "NetworkPolicy",
    "metadata": {"name": "web"},
    "spec": {
        "podSelector": {"matchLabels": {"app": "web"}},
        "ingress": [
            {"from": [{"podSelector": {"matchLabels": {"role": "client"}}}], "ports": [{"port": 80}]}
        ],
    },
}
CRD: dict[str, Any] = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "ciliumnetworkpolicies.cilium.io"},
    "spec": {
        "group": "cilium.io",
        "scope": "Namespaced",
        "names": {"plural": "ciliumnetworkpolicies", "kind": "CiliumNetworkPolicy", "shortNames": ["cnp"]},
        "versions": [
            {
                "name": "v2",
                "served": True,
                "storage": True,
                "schema": {
                    "openAPIV3Schema": {"type": "object", "x-kubernetes-preserve-unknown-fields": True}
                },
                "additionalPrinterColumns": [
                    {"name": "Subject", "type": "string", "jsonPath": ".spec.subject"}
                ],
                "subresources": {"status": {}},
            }
        ],
    },
}


async def test_apply_creates_then_leaves_alone_then_changes(kubectl: Kubectl) -> None:
    web, front = deployment("web", replicas=2), service("web", selector={"app": "web"})
    assert await kubectl.apply(web, front) == "deployment.apps/web created\nservice/web created\n"
    assert await kubectl.apply(web, front) == "deployment.apps/web unchanged\nservice/web unchanged\n"
    web["spec"]["replicas"] = 3
    assert await kubectl.apply(web, front) == "deployment.apps/web configured\nservice/web unchanged\n"
    assert (await kubectl.read("deploy", "web"))["spec"]["replicas"] == 3
    assert (await kubectl.read("deploy", "web"))["metadata"]["generation"] == 2


async def test_apply_again_merges_containers_and_ports_by_key_and_removes_what_was_dropped(
    kubectl: Kubectl,
) -> None:
    web = deployment("web", env=[{"name": "A", "value": "1"}, {"name": "B", "value": "2"}])
    containers = web["spec"]["template"]["spec"]["containers"]
    containers.append({"name": "sidecar", "image": "side:1"})
    await kubectl.apply(web)
    # Somebody else's label and container image must survive, as they are not in the applied configuration.
    await kubectl("set", "image", "deploy/web", "sidecar=side:2")
    containers[0]["env"] = [{"name": "B", "value": "3"}]
    containers[0]["ports"].append({"name": "metrics", "containerPort": 9090})
    containers.pop(1)
    containers.append({"name": "third", "image": "third:1"})
    await kubectl.apply(web)
    spec = (await kubectl.read("deploy", "web"))["spec"]["template"]["spec"]
    assert [container["name"] for container in spec["containers"]] == ["main", "third"]
    assert spec["containers"][0]["env"] == [{"name": "B", "value": "3"}]
    assert [port["containerPort"] for port in spec["containers"][0]["ports"]] == [80, 9090]

    front = service("web", {"name": "http", "port": 80}, {"name": "https", "port": 443})
    await kubectl.apply(front)
    address = (await kubectl.read("svc", "web"))["spec"]["clusterIP"]
    front["spec"]["ports"] = [{"name": "https", "port": 443, "targetPort": 8443}]
    await kubectl.apply(front)
    spec = (await kubectl.read("svc", "web"))["spec"]
    assert spec["ports"] == [{"name": "https", "port": 443, "targetPort": 8443, "protocol": "TCP"}]
    assert spec["clusterIP"] == address


async def test_network_policy_life(kubectl: Kubectl) -> None:
    await kubectl.apply(POLICY)
    spec = (await kubectl.read("netpol", "web"))["spec"]
    assert spec["policyTypes"] == ["Ingress"]
    assert spec["ingress"][0]["ports"] == [{"port": 80, "protocol": "TCP"}]
    changed = json.loads(json.dumps(POLICY))
    changed["spec"]["ingress"] = [{}]
    changed["spec"]["egress"] = [{"to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]}]
    await kubectl.apply(changed)
    spec = (await kubectl.read("netpol", "web"))["spec"]
    assert spec["ingress"] == [{}]
    assert spec["egress"] == [{"to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]}]
    assert "app=web" in await kubectl("get", "netpol")
    await kubectl("delete", "netpol", "web")
    with pytest.raises(Failed, match="not found"):
        await kubectl("get", "netpol", "web")


async def test_tables_wide_and_names(kubectl: Kubectl) -> None:
    await kubectl.apply(pod("a"), service("web", {"port": 80, "nodePort": 30080}, type="NodePort"))
    plain = await kubectl("get", "pods,svc")
    assert "NAME    READY   STATUS    RESTARTS   AGE" in plain
    assert "80:30080/TCP" in plain
    wide = await kubectl("get", "pods", "-o", "wide")
    assert "NOMINATED NODE" in wide
    assert await kubectl("get", "all", "-o", "name") == "pod/a\nservice/web\n"
    assert "default-scheduler" in await kubectl("get", "pod", "a", "-o", "yaml")
    assert "Labels:" in await kubectl("describe", "pod", "a")
    assert "10.96." in await kubectl("describe", "svc", "web")


async def test_label_annotate_and_select(kubectl: Kubectl) -> None:
    await kubectl.apply(*(pod(name, labels={"app": name}) for name in "abc"))
    await kubectl("label", "pod", "a", "b", "tier=front")
    await kubectl("label", "pod", "c", "tier=back")
    await kubectl("label", "pod", "b", "tier=other", "--overwrite")
    await kubectl("annotate", "pod", "a", "note=seen")

    async def selected(selector: str) -> str:
        return (
            (await kubectl("get", "pods", "-o", "name", "-l", selector)).replace("pod/", "").replace("\n", "")
        )

    assert await selected("tier=front") == "a"
    assert await selected("tier in (front,back)") == "ac"
    assert await selected("tier notin (front)") == "bc"
    assert await selected("tier!=front,app") == "bc"
    assert await selected("!tier") == ""
    await kubectl("label", "pod", "a", "tier-")
    assert await selected("!tier") == "a"
    assert (await kubectl.read("pod", "a"))["metadata"]["annotations"]["note"] == "seen"
    found = await kubectl(
        "get", "pods", "-o", "name", "--field-selector", "metadata.name!=a,status.phase=Pending"
    )
    assert found == "pod/b\npod/c\n"
    with pytest.raises(Failed, match=r"field label not supported: spec\.priority"):
        await kubectl("get", "pods", "--field-selector", "spec.priority=1")


async def test_wait_sees_a_condition_and_a_deletion(kubectl: Kubectl, http: Http) -> None:
    await kubectl.apply(pod("a"))
    with pytest.raises(Failed, match="timed out"):
        await kubectl("wait", "--for=condition=Ready", "pod/a", "--timeout=300ms")
    ready = {"status": {"conditions": [{"type": "Ready", "status": "True"}]}}
    await http.patch("/api/v1/namespaces/default/pods/a/status", ready, "merge")
    assert "condition met" in await kubectl("wait", "--for=condition=Ready", "pod/a", "--timeout=5s")
    await kubectl("delete", "pod", "a")
    await kubectl("wait", "--for=delete", "pod/a", "--timeout=5s")


async def test_typo_is_refused_by_name(kubectl: Kubectl) -> None:
    wrong = json.loads(
        json.dumps(POLICY).replace('"podSelector": {"matchLabels": {"app"', '"podSelectr": {"a": {"app"')
    )
    with pytest.raises(Failed, match=r'unknown field "spec\.podSelectr"'):
        await kubectl.apply(wrong)
    with pytest.raises(Failed, match=r"spec\.ports\[0\]\.port: an integer is needed"):
        await kubectl.apply(service("web", {"port": "eighty"}))


async def test_server_side_apply_dry_run_and_diff(kubectl: Kubectl) -> None:
    body = json.dumps(deployment("web"))
    await kubectl("apply", "--server-side", "-f", "-", stdin=body)
    changed = json.dumps(deployment("web", image="nginx:2"))
    await kubectl("apply", "--dry-run=server", "-f", "-", stdin=changed)
    image = (await kubectl.read("deploy", "web"))["spec"]["template"]["spec"]["containers"][0]["image"]
    assert image == "nginx:1"
    await kubectl("apply", "--server-side", "-f", "-", stdin=changed)
    containers = (await kubectl.read("deploy", "web"))["spec"]["template"]["spec"]["containers"]
    assert [container["image"] for container in containers] == ["nginx:2"]


async def test_imperative_commands(kubectl: Kubectl) -> None:
    await kubectl("create", "deployment", "web", "--image=nginx", "--port=80", "--replicas=2")
    await kubectl("expose", "deployment", "web", "--port=8080", "--target-port=80")
    assert (await kubectl.read("svc", "web"))["spec"]["selector"] == {"app": "web"}
    await kubectl("scale", "deployment", "web", "--replicas=5")
    assert (await kubectl.read("deploy", "web"))["spec"]["replicas"] == 5
    await kubectl("run", "client", "--image=httpd", "--labels=role=client")
    await kubectl("create", "namespace", "blue")
    await kubectl("create", "service", "clusterip", "front", "--tcp=80:http")
    assert (await kubectl.read("svc", "front"))["spec"]["ports"][0]["targetPort"] == "http"
    await kubectl("create", "configmap", "settings", "--from-literal=a=b")
    await kubectl("create", "secret", "generic", "key", "--from-literal=a=b")
    assert (await kubectl.read("secret", "key"))["data"] == {"a": "Yg=="}
    await kubectl("patch", "svc", "web", "--type=json", "-p", '[{"op":"remove","path":"/spec/selector/app"}]')
    assert "selector" in (await kubectl.read("svc", "web"))["spec"]
    await kubectl("replace", "-f", "-", stdin=json.dumps(await kubectl.read("deploy", "web")))
    await kubectl("delete", "deploy,svc,pod,cm,secret", "--all")
    assert (await kubectl.read("all"))["items"] == []


async def test_custom_resources_come_and_go_with_their_definition(kubectl: Kubectl) -> None:
    await kubectl.apply(CRD)
    await kubectl(
        "wait", "--for=condition=Established", "crd/ciliumnetworkpolicies.cilium.io", "--timeout=5s"
    )
    policy = {
        "apiVersion": "cilium.io/v2",
        "kind": "CiliumNetworkPolicy",
        "metadata": {"name": "rule"},
        "spec": {"subject": "web", "ingress": [{"anything": True}]},
    }
    await kubectl.apply(policy)
    policy["spec"] = {"subject": "api"}
    await kubectl.apply(policy)
    assert (await kubectl.read("cnp", "rule"))["spec"] == {"subject": "api"}
    assert "SUBJECT" in await kubectl("get", "cnp")
    await kubectl("delete", "crd", "ciliumnetworkpolicies.cilium.io")
    with pytest.raises(Failed, match=r"could not find the requested resource|doesn't have a resource type"):
        await kubectl("get", "cnp")


async def test_namespace_takes_its_contents_along(kubectl: Kubectl) -> None:
    await kubectl("create", "namespace", "blue")
    assert (await kubectl.read("ns", "blue"))["metadata"]["labels"] == {"kubernetes.io/metadata.name": "blue"}
    await kubectl("-n", "blue", "apply", "-f", "-", stdin=json.dumps(pod("a")))
    await kubectl("delete", "namespace", "blue", "--timeout=5s")
    assert await kubectl("get", "pods", "-A", "-o", "name") == ""
    with pytest.raises(Failed, match='namespaces "blue" not found'):
        await kubectl("-n", "blue", "apply", "-f", "-", stdin=json.dumps(pod("a")))


async def test_explain_and_api_resources(kubectl: Kubectl) -> None:
    assert "policyTypes" in await kubectl("explain", "networkpolicy.spec")
    assert "endpointslices" in await kubectl("api-resources")


async def test_without_the_token_nothing_is_answered(kubectl: Kubectl, server: ApiServer) -> None:
    text = kubectl.kubeconfig.read_text()
    Path(kubectl.kubeconfig).write_text(text.replace(server.address.token, "wrong"))
    with pytest.raises(Failed, match=r"provide credentials|Unauthorized"):
        await kubectl("get", "pods")
