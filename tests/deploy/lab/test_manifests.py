"""Applying and deleting manifests against the embedded API server, over real HTTP."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploy.lab.errors import ManifestError
from deploy.lab.manifests import Applier, read_manifest
from shared.kubernetes import NETWORK_POLICIES, PODS, SERVICES, Kubernetes, NotFound

DEMO = Path(__file__).resolve().parents[3] / "deploy" / "manifests" / "demo"


@pytest.fixture
def api(kubernetes: Kubernetes) -> Kubernetes:
    return kubernetes


def demo() -> str:
    return "\n---\n".join(file.read_text() for file in sorted(DEMO.glob("*.yaml")))


async def test_demo_is_created_then_unchanged_then_deleted(api: Kubernetes) -> None:
    applier = Applier(api)
    created = await applier.apply(demo())
    assert {(entry.kind, entry.name) for entry in created} == {
        ("Deployment", "frontend"),
        ("Deployment", "backend"),
        ("Service", "backend"),
        ("Pod", "other"),
        ("NetworkPolicy", "allow-frontend-to-backend"),
    }
    assert {entry.action for entry in created} == {"created"}
    assert {entry.namespace for entry in created} == {"default"}
    again = await applier.apply(demo())
    assert {entry.action for entry in again} == {"unchanged"}
    assert {entry.action for entry in await applier.delete(demo())} == {"deleted"}
    with pytest.raises(NotFound):
        await api.get(NETWORK_POLICIES, name="allow-frontend-to-backend", namespace="default")


POLICY = """
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: p, labels: {a: "1"}}
spec:
  podSelector: {}
  policyTypes: [Ingress]
  ingress:
    - ports: [{protocol: TCP, port: 80}]
"""


async def test_what_is_taken_out_of_a_manifest_is_taken_out_of_the_cluster(api: Kubernetes) -> None:
    applier = Applier(api)
    await applier.apply(POLICY)
    closed = POLICY[: POLICY.index("  ingress:")].replace(', labels: {a: "1"}', "")
    (applied,) = await applier.apply(closed)
    assert applied.action == "configured"
    policy = await api.get(NETWORK_POLICIES, name="p", namespace="default")
    assert not policy["spec"].get("ingress")
    assert not policy["metadata"].get("labels")


SERVICE = """
apiVersion: v1
kind: Service
metadata: {name: s}
spec:
  type: NodePort
  ports: [{name: http, port: 80}]
"""


async def test_service_keeps_what_the_api_server_gave_it(api: Kubernetes) -> None:
    applier = Applier(api)
    await applier.apply(SERVICE)
    before = (await api.get(SERVICES, name="s", namespace="default"))["spec"]
    (applied,) = await applier.apply(SERVICE.replace("port: 80", "port: 80, targetPort: 8080"))
    assert applied.action == "configured"
    after = (await api.get(SERVICES, name="s", namespace="default"))["spec"]
    assert after["clusterIP"] == before["clusterIP"]
    assert after["ports"][0]["nodePort"] == before["ports"][0]["nodePort"]
    assert after["ports"][0]["targetPort"] == 8080


async def test_pod_keeps_its_node_and_takes_labels(api: Kubernetes) -> None:
    text = "apiVersion: v1\nkind: Pod\nmetadata: {name: p}\nspec: {containers: [{name: c, image: i}]}\n"
    applier = Applier(api)
    await applier.apply(text)
    binding = {"apiVersion": "v1", "kind": "Binding", "metadata": {"name": "p"}, "target": {"name": "node-1"}}
    await api.request("POST", "/api/v1/namespaces/default/pods/p/binding", body=binding)
    await applier.apply(text.replace("{name: p}", "{name: p, labels: {tier: web}}"))
    pod = await api.get(PODS, name="p", namespace="default")
    assert pod["spec"]["nodeName"] == "node-1"
    assert pod["metadata"]["labels"] == {"tier": "web"}


async def test_lists_and_namespaces(api: Kubernetes) -> None:
    text = """
apiVersion: v1
kind: List
items:
  - {apiVersion: v1, kind: Namespace, metadata: {name: shop}}
  - {apiVersion: v1, kind: ConfigMap, metadata: {name: c, namespace: shop}, data: {a: b}}
---
# nothing
"""
    applied = await Applier(api).apply(text)
    assert [(entry.kind, entry.namespace) for entry in applied] == [("Namespace", ""), ("ConfigMap", "shop")]


async def test_absent_object_is_no_error_to_delete(api: Kubernetes) -> None:
    (deleted,) = await Applier(api).delete(POLICY)
    assert deleted.action == "absent"


async def test_refusal_names_the_object(api: Kubernetes) -> None:
    with pytest.raises(ManifestError, match="NetworkPolicy nowhere/p"):
        await Applier(api).apply(POLICY.replace("name: p,", "name: p, namespace: nowhere,"))


async def test_unknown_kind_is_refused_by_name(api: Kubernetes) -> None:
    text = "apiVersion: acme.io/v1\nkind: Rocket\nmetadata: {name: r}\n"
    with pytest.raises(ManifestError, match=r"no kind Rocket in acme\.io/v1"):
        await Applier(api, new_kind_seconds=0.1).apply(text)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("a: [", "no YAML"),
        ("- 1", "document 1 is no object"),
        ("apiVersion: v1\nkind: Pod", "metadata.name"),
        ("kind: Pod\nmetadata: {name: x}", "apiVersion"),
        ("apiVersion: v1\nkind: Pod\nmetadata: {name: 7}", "metadata.name"),
    ],
)
def test_unreadable_manifest_is_refused(text: str, words: str) -> None:
    with pytest.raises(ManifestError, match=words):
        read_manifest(text)
