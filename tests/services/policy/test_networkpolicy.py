"""Objects as the API server sends them: what is accepted, what is refused, and how that is told."""

from __future__ import annotations

from typing import Any

import pytest

from services.policy.errors import PolicyRefused
from services.policy.model import BlockTerm, PodTerm, Policy, PortMatch
from services.policy.networkpolicy import read_network_policy
from shared.contract.base import Direction, Protocol
from shared.labels import LabelFilter


def read(spec: dict[str, Any] | None) -> Policy:
    data = {
        "metadata": {"name": "p", "namespace": "ns", "uid": "u", "resourceVersion": "7", "managedFields": []},
        "spec": spec,
        "status": {},
    }
    return read_network_policy(data, namespace="ns", name="p", selectable=LabelFilter())


def refusals(spec: Any) -> list[tuple[str, str]]:
    with pytest.raises(PolicyRefused, match="NetworkPolicy ns/p") as caught:
        read(spec)
    assert all(error.remedy for error in caught.value.errors)
    return [(error.field, error.reason) for error in caught.value.errors]


def ingress(*rules: dict[str, Any]) -> dict[str, Any]:
    return {"podSelector": {}, "ingress": list(rules)}


@pytest.mark.parametrize(
    ("spec", "directions"),
    [
        ({}, {Direction.INGRESS}),
        (None, {Direction.INGRESS}),
        ({"ingress": []}, {Direction.INGRESS}),
        ({"egress": []}, {Direction.INGRESS}),
        ({"egress": [{}]}, {Direction.INGRESS, Direction.EGRESS}),
        ({"policyTypes": [], "egress": [{}]}, {Direction.INGRESS, Direction.EGRESS}),
        ({"policyTypes": ["Egress"], "ingress": [{}]}, {Direction.EGRESS}),
        ({"policyTypes": ["Ingress"], "egress": [{}]}, {Direction.INGRESS}),
        ({"policyTypes": ["Egress", "Egress"]}, {Direction.EGRESS}),
    ],
)
def test_directions(spec: dict[str, Any] | None, directions: set[Direction]) -> None:
    policy = read(spec)
    assert {direction for direction in Direction if policy.governing(direction) is not None} == directions


def test_the_subject_is_in_the_policys_namespace_and_an_absent_selector_selects_all() -> None:
    assert read(None).subject.term == PodTerm(namespace="ns")
    assert (read({}).uid, read({}).resource_version) == ("u", "7")


@pytest.mark.parametrize("absent", [{}, {"from": None}, {"from": []}])
def test_no_peers_mean_every_peer(absent: dict[str, Any]) -> None:
    policy = read(ingress(absent))
    assert policy.ingress is not None
    assert policy.ingress.rules[0].peers is None


@pytest.mark.parametrize("absent", [{}, {"ports": None}, {"ports": []}])
def test_no_ports_mean_all_traffic(absent: dict[str, Any]) -> None:
    policy = read(ingress(absent))
    assert policy.ingress is not None
    assert policy.ingress.rules[0].ports is None


def only_peer(peer: dict[str, Any]) -> Any:
    policy = read(ingress({"from": [peer]}))
    assert policy.ingress is not None
    (found,) = policy.ingress.rules[0].peers or ()
    return found.term


def test_peers() -> None:
    everybody = PodTerm()
    assert only_peer({"podSelector": {}}) == PodTerm(namespace="ns")
    assert only_peer({"podSelector": {}, "namespaceSelector": None, "ipBlock": None}) == PodTerm(
        namespace="ns"
    )
    assert only_peer({"namespaceSelector": {}}) == everybody
    assert only_peer({"namespaceSelector": {}, "podSelector": {}}) == everybody
    block = {"cidr": "10.1.2.3/8", "except": ["10.1.0.0/16", "10.1.4.0/24", "10.0.0.0/16", "10.1.0.0/16"]}
    assert only_peer({"ipBlock": block}) == BlockTerm(
        cidr="10.0.0.0/8", excepts=("10.0.0.0/16", "10.1.0.0/16")
    )
    assert only_peer({"ipBlock": {"cidr": "FD00:0:0::1/64"}}) == BlockTerm(cidr="fd00::/64")


def test_peers_that_mean_the_same_are_one() -> None:
    labels = {"podSelector": {"matchLabels": {"app": "x"}}}
    expression = {
        "podSelector": {"matchExpressions": [{"key": "app", "operator": "In", "values": ["x", "x"]}] * 2}
    }
    policy = read(ingress({"from": [labels, expression]}))
    assert policy.ingress is not None
    assert len(policy.ingress.rules[0].peers or ()) == 1


def ports_of(*ports: dict[str, Any]) -> tuple[PortMatch, ...] | None:
    policy = read(ingress({"ports": list(ports)}))
    assert policy.ingress is not None
    return policy.ingress.rules[0].ports


def test_ports() -> None:
    tcp, udp = Protocol.TCP, Protocol.UDP
    assert ports_of({}) == (PortMatch(tcp, 0, 65535),)
    assert ports_of({"protocol": "SCTP"}) == (PortMatch(Protocol.SCTP, 0, 65535),)
    assert ports_of({"port": 80}) == (PortMatch(tcp, 80, 80),)
    assert ports_of({"port": 80, "endPort": 90, "protocol": "UDP"}) == (PortMatch(udp, 80, 90),)
    assert ports_of({"port": 65535, "endPort": 65535}) == (PortMatch(tcp, 65535, 65535),)
    merged = ports_of(
        {"port": 90}, {"port": 80, "endPort": 89}, {"port": 85}, {"port": 92}, {"protocol": "UDP"}
    )
    assert merged == (PortMatch(tcp, 80, 90), PortMatch(tcp, 92, 92), PortMatch(udp, 0, 65535))


@pytest.mark.parametrize(
    ("spec", "field", "reason"),
    [
        (ingress({"from": [{}]}), "spec.ingress[0].from[0]", "no fields"),
        (ingress({"from": [{"podSelector": None}]}), "spec.ingress[0].from[0]", "no fields"),
        (
            ingress({"from": [{"podSelector": {}, "ipBlock": {"cidr": "10.0.0.0/8"}}]}),
            "spec.ingress[0].from[0].ipBlock",
            "either addresses or pods",
        ),
        (
            ingress({}, {"ports": [{"port": "HTTP"}]}),
            "spec.ingress[1].ports[0].port",
            "'HTTP' is not the name",
        ),
        (ingress({"ports": [{"port": "80"}]}), "spec.ingress[0].ports[0].port", "'80' is not the name"),
        (ingress({"ports": [{"port": "a--b"}]}), "spec.ingress[0].ports[0].port", "'a--b' is not the name"),
        (ingress({"ports": [{"port": "a" * 16}]}), "spec.ingress[0].ports[0].port", "is not the name"),
        (
            ingress({"ports": [{"port": "a", "endPort": 9}]}),
            "spec.ingress[0].ports[0].endPort",
            "begin with a",
        ),
        (ingress({"ports": [{"port": 0}]}), "spec.ingress[0].ports[0].port", "0 is not a port"),
        (ingress({"ports": [{"port": 65536}]}), "spec.ingress[0].ports[0].port", "65536 is not a port"),
        (ingress({"ports": [{"endPort": 80}]}), "spec.ingress[0].ports[0].endPort", "no start"),
        (ingress({"ports": [{"port": 9, "endPort": 8}]}), "spec.ingress[0].ports[0].endPort", "does not end"),
        (
            ingress({"ports": [{"port": 9, "endPort": 70000}]}),
            "spec.ingress[0].ports[0].endPort",
            "does not end",
        ),
        (ingress({"ports": [{"protocol": "ICMP"}]}), "spec.ingress[0].ports[0].protocol", "'ICMP'"),
        (ingress({"ports": [{"port": True}]}), "spec.ingress[0].ports[0].port", "Expected"),
        (ingress({"ports": [{"icmp": 8}]}), "spec.ingress[0].ports[0]", "unknown field `icmp`"),
        (ingress({"from": [{"fqdn": "x"}]}), "spec.ingress[0].from[0]", "unknown field `fqdn`"),
        ({"podSelector": {}, "order": 1}, "spec", "unknown field `order`"),
        ({"policyTypes": ["Both"]}, "spec.policyTypes[0]", "'Both' is unknown"),
        ({"podSelector": {"matchLabels": {"a b": "c"}}}, "spec.podSelector.matchLabels[a b]", "label key"),
        ({"podSelector": {"matchLabels": {"a": "c d"}}}, "spec.podSelector.matchLabels[a]", "label value"),
        (
            {"podSelector": {"matchExpressions": [{"key": "a", "operator": "Like", "values": ["b"]}]}},
            "spec.podSelector.matchExpressions[0].operator",
            "'Like' is not an operator",
        ),
        (
            {"podSelector": {"matchExpressions": [{"key": "a", "operator": "In", "values": []}]}},
            "spec.podSelector.matchExpressions[0].values",
            "needs at least one value",
        ),
        (
            {"podSelector": {"matchExpressions": [{"key": "a", "operator": "Exists", "values": ["b"]}]}},
            "spec.podSelector.matchExpressions[0].values",
            "takes no values",
        ),
        (
            ingress({"from": [{"podSelector": {"matchLabels": {"pod-template-hash": "x"}}}]}),
            "spec.ingress[0].from[0].podSelector.matchLabels[pod-template-hash]",
            "not part of pod identities",
        ),
        (
            {"podSelector": {"matchExpressions": [{"key": "batch.kubernetes.io/x", "operator": "Exists"}]}},
            "spec.podSelector.matchExpressions[0].key",
            "not part of pod identities",
        ),
    ],
)
def test_refusals_name_field_and_reason(spec: dict[str, Any], field: str, reason: str) -> None:
    ((found, text),) = refusals(spec)
    assert found == field
    assert reason in text


@pytest.mark.parametrize(
    "cidr",
    [
        "10.0.0.0", "10.0.0.0/255.0.0.0", "10.0.0.0/33", "010.0.0.0/8", "::ffff:10.0.0.0/104",
        "fe80::%eth0/64", "", "10.0.0/8", "fd00::/129", " 10.0.0.0/8",
    ],
)  # fmt: skip
def test_what_is_not_a_prefix_is_refused(cidr: str) -> None:
    ((field, _),) = refusals(ingress({"from": [{"ipBlock": {"cidr": cidr}}]}))
    assert field == "spec.ingress[0].from[0].ipBlock.cidr"


@pytest.mark.parametrize("exception", ["10.0.0.0/8", "0.0.0.0/0", "11.0.0.0/16", "fd00::/64", "10.0.0.1"])
def test_an_except_must_be_a_part_of_its_cidr(exception: str) -> None:
    block = {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16", exception]}
    ((field, _),) = refusals(ingress({"from": [{"ipBlock": block}]}))
    assert field == "spec.ingress[0].from[0].ipBlock.except[1]"


def test_all_faults_are_told_at_once_those_of_directions_not_enforced_too() -> None:
    spec = {
        "podSelector": {"matchLabels": {"-": "x"}},
        "policyTypes": ["Ingress"],
        "ingress": [{"from": [{}]}],
        "egress": [{"ports": [{"port": "DNS"}]}],
    }
    assert [field for field, _ in refusals(spec)] == [
        "spec.podSelector.matchLabels[-]",
        "spec.ingress[0].from[0]",
        "spec.egress[0].ports[0].port",
    ]


@pytest.mark.parametrize("data", [{}, {"metadata": {"name": "p"}}, {"metadata": 1}, {"metadata": None}])
def test_an_object_of_another_shape_is_refused_by_name(data: dict[str, Any]) -> None:
    with pytest.raises(PolicyRefused, match="NetworkPolicy ns/p"):
        read_network_policy(data, namespace="ns", name="p", selectable=LabelFilter())
