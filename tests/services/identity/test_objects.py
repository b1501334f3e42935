from __future__ import annotations

from typing import Any

import pytest

from services.identity.labels import LabelSet, label_set_of
from services.identity.objects import read_node, read_pod
from shared.contract.base import Identity, Protocol
from shared.contract.identity import NamedPort
from shared.kubernetes import ObjectRefused
from shared.labels import LabelFilter
from tests.services.identity.samples import node_object, pod, pod_object


def test_the_workload_of_a_replica_set_is_its_deployment() -> None:
    labels = {"app": "web", "pod-template-hash": "5d9c7b"}
    deployed = pod("web-5d9c7b-x", labels=labels, owner=("ReplicaSet", "web-5d9c7b"))
    assert (deployed.workload, deployed.workload_kind) == ("web", "Deployment")
    bare = pod("web-x", owner=("ReplicaSet", "web"))
    assert (bare.workload, bare.workload_kind) == ("web", "ReplicaSet")
    stateful = pod("db-0", owner=("StatefulSet", "db"))
    assert (stateful.workload, stateful.workload_kind) == ("db", "StatefulSet")
    single = pod("single")
    assert (single.workload, single.workload_kind) == ("single", "Pod")


def test_a_bad_object_is_refused_by_name_and_path() -> None:
    data = pod_object()
    data["metadata"]["labels"] = {"app": 5}
    with pytest.raises(ObjectRefused, match=r"Pod default/web-1: .*\$\.metadata\.labels"):
        read_pod(data, namespace="default", name="web-1")
    with pytest.raises(ObjectRefused, match=r"Node n: .*10\.0\.0\.0/99"):
        read_node(node_object("n", cidrs=("10.0.0.0/99",)), name="n")


def test_null_and_missing_fields_are_the_same() -> None:
    sparse = {"metadata": {"uid": "u", "labels": None}, "spec": {"nodeName": None}, "status": None}
    read = read_pod(sparse, namespace="default", name="p")
    assert (read.node, read.labels, read.ips, read.host_network) == ("", {}, (), False)


def test_addresses_are_canonical() -> None:
    assert pod(ips=("fd00:0:0::0001", "10.0.0.1", "fd00::1")).ips == ("fd00::1", "10.0.0.1")


def test_use_cilium_needs_the_word_true() -> None:
    for value, expected in (("true", True), ("True", False), ("false", False), ("", False)):
        data = node_object("n", annotations={"azure.microsoft.com/use-cilium": value})
        assert read_node(data, name="n").use_cilium is expected


def test_the_hash_of_a_label_set_does_not_depend_on_order_and_depends_on_every_part() -> None:
    base: dict[str, Any] = {
        "namespace": "a",
        "namespace_labels": {"x": "1", "y": "2"},
        "service_account": "s",
        "pod_labels": {},
    }
    same = {**base, "namespace_labels": {"y": "2", "x": "1"}}
    assert LabelSet(**base).digest() == LabelSet(**same).digest()
    parts: tuple[dict[str, Any], ...] = (
        {"namespace": "b"},
        {"namespace_labels": {}},
        {"service_account": ""},
        {"pod_labels": {"x": "1"}},
    )
    for part in parts:
        assert LabelSet(**{**base, **part}).digest() != LabelSet(**base).digest()


def test_a_record_tells_its_label_set_and_hubbles_labels() -> None:
    labels = LabelSet(
        namespace="shop", namespace_labels={"team": "red"}, service_account="web", pod_labels={"app": "web"}
    )
    record = labels.record(Identity(300), cluster="lab")
    assert label_set_of(record).digest() == labels.digest()
    assert record.labels == (
        "k8s:app=web",
        "k8s:io.cilium.k8s.namespace.labels.team=red",
        "k8s:io.cilium.k8s.policy.cluster=lab",
        "k8s:io.cilium.k8s.policy.serviceaccount=web",
        "k8s:io.kubernetes.pod.namespace=shop",
    )


def test_label_exclusions_may_end_in_a_star() -> None:
    keep = LabelFilter(("a", "b.io/*")).keep
    assert keep({"a": "1", "aa": "2", "b.io/x": "3", "b.io": "4"}) == {"aa": "2", "b.io": "4"}


def test_named_ports_are_those_of_containers_and_sidecars_and_the_first_of_a_name_counts() -> None:
    data = pod_object()
    data["spec"]["containers"] = [
        {"ports": [{"containerPort": 80, "name": "web"}, {"containerPort": 81}]},
        {
            "ports": [
                {"containerPort": 8080, "name": "web"},
                {"containerPort": 53, "name": "dns", "protocol": "UDP"},
            ]
        },
    ]
    data["spec"]["initContainers"] = [
        {"ports": [{"containerPort": 7, "name": "init"}]},
        {"restartPolicy": "Always", "ports": [{"containerPort": 9100, "name": "metrics"}]},
    ]
    read = read_pod(data, namespace="default", name="web-1")
    assert [(port.protocol, port.name, port.port) for port in read.named_ports] == [
        ("TCP", "metrics", 9100),
        ("TCP", "web", 80),
        ("UDP", "dns", 53),
    ]


def test_pods_that_differ_in_named_ports_alone_have_different_identities_and_records_say_so() -> None:
    web = (NamedPort(protocol=Protocol.TCP, name="web", port=80),)
    base = LabelSet(namespace="a", namespace_labels={}, service_account="", pod_labels={})
    other = LabelSet(namespace="a", namespace_labels={}, service_account="", pod_labels={}, named_ports=web)
    assert base.digest() != other.digest()
    assert label_set_of(other.record(Identity(300), cluster="c")) == other
