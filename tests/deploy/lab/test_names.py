"""Names, addresses and pods' statuses: what follows from options and objects alone."""

from __future__ import annotations

from ipaddress import ip_interface, ip_network
from pathlib import Path
from typing import Any

import pytest

from deploy.lab import pods, topology
from deploy.lab.errors import LabNameError, PodError
from deploy.lab.names import LabNames
from deploy.lab.node_object import node_object, node_status
from deploy.lab.pods import PodView, read_pod


@pytest.mark.parametrize("name", ["", "Lab", "a-b", "1a", "a" * 16, "a/b", "..", "lab "])
def test_names_that_cannot_be_kept_apart_are_refused(name: str) -> None:
    with pytest.raises(LabNameError, match="lower-case"):
        LabNames(name)


def test_no_lab_has_the_prefix_of_another() -> None:
    assert not LabNames("lab2").net_namespace.startswith(LabNames("lab").prefix)
    assert LabNames("lab").node_namespace("node-1") == "stl-lab-node-1"
    assert LabNames("lab").net_namespace == "stl-lab-net"
    assert LabNames("lab").pod_namespace("u-1").startswith("stl-lab-p-")


def test_control_socket_fits_a_unix_address() -> None:
    names = LabNames("a" * 15)
    assert len(str(names.cni_socket("node-189")).encode()) < 108


@pytest.mark.parametrize("family", list(topology.IpFamily))
def test_every_host_has_addresses_of_its_own(family: topology.IpFamily) -> None:
    plan = topology.plan(LabNames("lab"), nodes=180, outside=50, ip_family=family)
    hosts = [*plan.nodes, *plan.outside]
    ips = [ip for host in hosts for ip in host.ips] + [str(ip_interface(g).ip) for g in plan.gateways]
    assert len(set(ips)) == len(ips) == (len(hosts) + 1) * (2 if family == "dual" else 1)
    cidrs = [ip_network(cidr) for node in plan.nodes for cidr in node.pod_cidrs]
    assert len(set(cidrs)) == len(cidrs)
    assert all(len(host.port) <= 15 for host in hosts)


def test_pod_cidrs_follow_the_nodes_numbers() -> None:
    plan = topology.plan(LabNames("lab"), nodes=2)
    assert [node.pod_cidrs for node in plan.nodes] == [("10.244.1.0/24",), ("10.244.2.0/24",)]
    assert [node.name for node in plan.nodes] == ["node-1", "node-2"]


@pytest.mark.parametrize(("nodes", "outside"), [(0, 0), (1, -1), (191, 0), (1, 54)])
def test_more_hosts_than_addresses_are_refused(nodes: int, outside: int) -> None:
    with pytest.raises(ValueError, match="must be"):
        topology.plan(LabNames("lab"), nodes=nodes, outside=outside)


def test_node_keeps_transition_times_of_conditions_that_stay() -> None:
    host = topology.plan(LabNames("lab"), nodes=1).nodes[0]
    first = node_status(host, before={})
    for condition in first["conditions"]:
        condition["lastTransitionTime"] = "2020-01-01T00:00:00Z"
    second = node_status(host, before=first)
    assert {c["lastTransitionTime"] for c in second["conditions"]} == {"2020-01-01T00:00:00Z"}
    first["conditions"][-1]["status"] = "Unknown"
    third = node_status(host, before=first)
    assert third["conditions"][-1]["lastTransitionTime"] != "2020-01-01T00:00:00Z"


def test_node_is_annotated_only_when_asked() -> None:
    host = topology.plan(LabNames("lab"), nodes=1).nodes[0]
    assert node_object(host, use_cilium=True)["metadata"]["annotations"] == {
        "azure.microsoft.com/use-cilium": "true"
    }
    assert "annotations" not in node_object(host, use_cilium=False)["metadata"]


def a_pod(**more: Any) -> dict[str, Any]:
    return {
        "metadata": {"name": "web", "namespace": "shop", "uid": "u-1"},
        "spec": {
            "nodeName": "node-1",
            "containers": [
                {"name": "a", "image": "nginx", "ports": [{"containerPort": 80}]},
                {"name": "b", "ports": [{"containerPort": 53, "protocol": "UDP"}]},
            ],
        },
        **more,
    }


def a_view(**more: Any) -> PodView:
    values = {
        "namespace": "shop",
        "name": "web",
        "uid": "u-1",
        "node": "node-1",
        "network_namespace": "x",
        "cgroup": str(Path("/x")),
        "ips": ("10.244.1.5",),
        "ready": True,
        "started_at": "2024-01-01T00:00:00Z",
    }
    return PodView(**{**values, **more})


def ready(status: dict[str, Any]) -> str:
    return str(next(c["status"] for c in status["conditions"] if c["type"] == "Ready"))


def test_server_opens_every_declared_port() -> None:
    pod = read_pod(a_pod())
    assert pod.server_ports() == [{"port": 80, "protocol": "TCP"}, {"port": 53, "protocol": "UDP"}]


def test_port_of_two_containers_is_refused_by_name() -> None:
    document = a_pod()
    document["spec"]["containers"][1]["ports"] = [{"containerPort": 80}]
    with pytest.raises(PodError, match=r"shop/web.*80/TCP.*a and by b"):
        read_pod(document).server_ports()


def test_unreadable_pod_is_refused_with_its_field() -> None:
    document = a_pod()
    document["spec"]["containers"][0]["ports"] = [{"containerPort": "http"}]
    with pytest.raises(PodError, match=r"Pod shop/web: .*containerPort"):
        read_pod(document)


def test_ready_annotation_stands_for_a_failing_probe() -> None:
    document = a_pod()
    assert ready(pods.running_status(read_pod(document), view=a_view(), host_ips=("172.30.0.11",))) == "True"
    document["metadata"]["annotations"] = {pods.READY_ANNOTATION: "false"}
    status = pods.running_status(read_pod(document), view=a_view(), host_ips=("172.30.0.11",))
    assert ready(status) == "False"
    assert status["phase"] == "Running"
    assert not status["containerStatuses"][0]["ready"]


def test_conditions_of_others_are_kept() -> None:
    scheduled = {"type": "PodScheduled", "status": "True", "lastTransitionTime": "2024-01-01T00:00:00Z"}
    pod = read_pod(a_pod(status={"phase": "Pending", "conditions": [scheduled]}))
    status = pods.running_status(pod, view=a_view(), host_ips=("172.30.0.11",))
    assert scheduled in status["conditions"]
    assert status["podIPs"] == [{"ip": "10.244.1.5"}]
    assert status["hostIP"] == "172.30.0.11"


def test_waiting_pod_says_why() -> None:
    status = pods.waiting_status(
        read_pod(a_pod()),
        view=a_view(ips=(), ready=False, started_at=""),
        host_ips=("172.30.0.11",),
        reason="ContainerCreating",
        message="CNI ADD: not yet",
    )
    assert status["phase"] == "Pending"
    assert ready(status) == "False"
    assert status["containerStatuses"][0]["state"]["waiting"]["message"] == "CNI ADD: not yet"
    assert "podIP" not in status
