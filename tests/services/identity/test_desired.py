from __future__ import annotations

from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from services.identity.desired import DesiredState
from services.identity.labels import LabelsHash
from services.identity.objects import PodName, read_node
from shared.contract.base import Identity
from shared.contract.names import Bucket, pod_key
from shared.labels import LabelFilter
from shared.runtime.notices import Notices
from tests.services.identity.samples import Cluster, claim, node_object, pod


def test_a_bound_pod_has_an_endpoint_before_it_has_an_address() -> None:
    cluster = Cluster()
    cluster.pod(node="")
    cluster.settle()
    assert not cluster.desired.endpoints
    cluster.pod()
    cluster.settle()
    endpoint = cluster.endpoint()
    assert (endpoint.node, endpoint.uid, endpoint.ips) == ("node-1", "uid-default-web-1", ())
    assert cluster.desired.identities[str(endpoint.identity)].pod_labels == {"app": "web"}  # type: ignore[attr-defined]


def test_pods_with_equal_labels_share_an_identity_and_controller_labels_do_not_count() -> None:
    cluster = Cluster()
    cluster.pod("a", labels={"app": "web", "pod-template-hash": "1"})
    cluster.pod("b", labels={"app": "web", "pod-template-hash": "2", "batch.kubernetes.io/job-name": "x"})
    cluster.pod("c", labels={"app": "db"})
    cluster.settle()
    assert cluster.endpoint("a").identity == cluster.endpoint("b").identity
    assert cluster.endpoint("a").identity != cluster.endpoint("c").identity


def test_a_relabelled_pod_moves_by_one_endpoint_and_one_ipcache_change() -> None:
    cluster = Cluster()
    cluster.pod(ips=("10.0.1.5",))
    cluster.pod("other", ips=("10.0.1.6",))
    cluster.settle()
    before = cluster.endpoint().identity
    cluster.pod(ips=("10.0.1.5",), labels={"app": "db"})
    changed = cluster.settle()
    after = cluster.endpoint().identity
    assert after != before
    assert cluster.ip("10.0.1.5").identity == after
    assert changed == {f"identities/{after}", "endpoints/node-1.default.web-1", "ipcache/10-0-1-5"}


def test_until_the_new_identity_has_a_number_the_pod_keeps_the_old_one() -> None:
    cluster = Cluster()
    cluster.pod(ips=("10.0.1.5",))
    cluster.settle()
    before = cluster.ip("10.0.1.5")
    cluster.pod(ips=("10.0.1.5",), labels={"app": "db"})
    cluster.desired.settle()
    assert cluster.ip("10.0.1.5") == before
    assert len(cluster.desired.used_label_sets()) == 2


def test_a_namespace_relabel_moves_its_pods_and_no_others() -> None:
    cluster = Cluster()
    cluster.desired.set_namespace("other", {})
    cluster.pod(ips=("10.0.1.5",))
    cluster.pod("elsewhere", namespace="other", ips=("10.0.1.6",))
    cluster.settle()
    before = cluster.ip("10.0.1.5").identity
    cluster.desired.set_namespace("default", {"team": "red"})
    changed = cluster.settle()
    assert cluster.ip("10.0.1.5").identity != before
    assert not any("other" in key or "10-0-1-6" in key for key in changed)


def test_a_claim_gives_the_address_before_the_status_does() -> None:
    cluster = Cluster()
    cluster.pod()
    cluster.claim(ips=("10.0.1.5",), uid="uid-default-web-1")
    cluster.settle()
    entry = cluster.ip("10.0.1.5")
    assert (entry.pod, entry.node, entry.identity) == ("web-1", "node-1", cluster.endpoint().identity)
    assert cluster.endpoint().ips == ("10.0.1.5",)


def test_a_claim_for_a_pod_not_known_yet_is_honoured_when_the_pod_arrives() -> None:
    cluster = Cluster()
    cluster.claim(ips=("10.0.1.5",))
    cluster.settle()
    assert cluster.ip("10.0.1.5") is None
    cluster.pod(node="")
    cluster.settle()
    assert cluster.ip("10.0.1.5") is None
    cluster.pod()
    cluster.settle()
    assert cluster.ip("10.0.1.5").pod == "web-1"
    assert cluster.told() == []


def test_claims_that_contradict_the_api_server_are_ignored_by_name() -> None:
    cases: list[dict[str, Any]] = [
        {"ips": ("10.0.2.5",), "node": "node-2"},  # the pod is on node-1
        {"ips": ("10.0.1.5",), "uid": "another"},
        {"ips": ("10.0.2.5",)},  # outside the node's podCIDRs
        {"ips": ("127.0.0.1",)},
        {"ips": ("nonsense",)},
        {"ips": ("10.0.1.5",), "key": "node-2.default.web-1"},  # written with node-2's permissions
    ]
    for case in cases:
        cluster = Cluster()
        cluster.pod()
        cluster.claim(**case)
        cluster.settle()
        assert not cluster.desired.ipcache, case
        assert cluster.told() == ["claim-invalid: Pod default/web-1"], case


def test_a_host_network_pod_has_no_endpoint_and_its_claim_is_ignored() -> None:
    cluster = Cluster()
    cluster.node("node-1", addresses=("192.168.0.1",))
    cluster.pod(host_network=True, ips=("192.168.0.1",))
    cluster.claim(ips=("10.0.1.5",))
    cluster.settle()
    assert not cluster.desired.endpoints
    assert cluster.ip("192.168.0.1").identity == 6
    assert cluster.ip("10.0.1.5") is None


def test_a_deleted_or_finished_pod_loses_its_address_although_the_claim_remains() -> None:
    cluster = Cluster()
    for phase in ("Succeeded", "Failed", None):
        cluster.pod()
        cluster.claim(ips=("10.0.1.5",))
        cluster.settle()
        assert cluster.ip("10.0.1.5")
        if phase:
            cluster.pod(phase=phase, ips=("10.0.1.5",))
        else:
            cluster.no_pod("web-1")
        cluster.settle()
        assert not cluster.desired.endpoints
        assert cluster.ip("10.0.1.5") is None


def test_of_two_pods_with_one_address_the_newest_that_is_not_being_deleted_wins() -> None:
    cluster = Cluster()
    cluster.pod("old", ips=("10.0.1.5",))
    cluster.pod("new", ips=("10.0.1.5",), created="2026-01-03T00:00:00Z")
    cluster.settle()
    assert cluster.ip("10.0.1.5").pod == "new"
    assert cluster.endpoint("old").ips == ()
    assert cluster.told() == ["address-conflict: Pod default/old"]
    cluster.pod("new", ips=("10.0.1.5",), created="2026-01-03T00:00:00Z", deleting=True)
    cluster.settle()
    assert cluster.ip("10.0.1.5").pod == "old"
    assert (cluster.endpoint("old").ips, cluster.endpoint("new").ips) == (("10.0.1.5",), ())
    cluster.no_pod("old")
    cluster.settle()
    assert cluster.ip("10.0.1.5").pod == "new"


def test_no_pod_takes_a_nodes_address() -> None:
    cluster = Cluster()
    cluster.node("node-1", addresses=("192.168.0.1",))
    cluster.pod(ips=("192.168.0.1",), created="2027-01-01T00:00:00Z")
    cluster.settle()
    assert (cluster.ip("192.168.0.1").identity, cluster.ip("192.168.0.1").pod) == (6, "")
    assert cluster.told() == ["address-conflict: Pod default/web-1"]


def test_a_pod_recreated_under_its_name_does_not_inherit_the_address() -> None:
    cluster = Cluster()
    cluster.pod(uid="first", ips=("10.0.1.5",))
    cluster.settle()
    cluster.pod(uid="second", labels={"app": "db"})
    cluster.desired.settle()
    assert cluster.ip("10.0.1.5") is None


def test_a_pod_waits_for_its_namespace() -> None:
    cluster = Cluster()
    cluster.pod(namespace="late")
    cluster.settle()
    assert cluster.desired.waiting == {PodName("late", "web-1"): "its namespace is not known"}
    cluster.desired.set_namespace("late", {})
    cluster.settle()
    assert cluster.desired.endpoints.keys() == {"node-1.late.web-1"}
    assert not cluster.desired.waiting


def test_a_node_that_learns_its_cidrs_has_its_claims_judged_anew() -> None:
    cluster = Cluster()
    cluster.node("node-1")
    cluster.pod()
    cluster.claim(ips=("10.9.9.9",))
    cluster.settle()
    assert cluster.ip("10.9.9.9")
    cluster.node("node-1", cidrs=("10.0.1.0/24",))
    cluster.settle()
    assert cluster.ip("10.9.9.9") is None


def test_node_records() -> None:
    cluster = Cluster()
    cluster.node(
        "node-1",
        addresses=("192.168.0.1", "fd00::1"),
        cidrs=("10.0.1.0/24",),
        annotations={"azure.microsoft.com/use-cilium": "true"},
    )
    cluster.settle()
    node: Any = cluster.desired.nodes["node-1"]
    assert (node.use_cilium, node.zone, node.pod_cidrs) == (True, "z1", ("10.0.1.0/24",))
    assert cluster.ip("192.168.0.1").node == "node-1"
    assert node.addresses == ("192.168.0.1", "fd00::1")
    cluster.desired.set_node("node-1", None)
    cluster.settle()
    assert "node-1" not in cluster.desired.nodes
    assert not cluster.desired.ipcache


def test_an_unused_label_set_forgets_its_number() -> None:
    cluster = Cluster()
    cluster.pod()
    cluster.settle()
    (labels,) = cluster.desired.used_label_sets()
    cluster.no_pod("web-1")
    cluster.settle()
    assert cluster.desired.number(labels) is None
    assert not cluster.desired.in_use(labels)
    assert not cluster.desired.identities


NAMES = ("a", "b", "c")
IPS = ("10.0.1.1", "10.0.1.2", "192.168.0.1")
addresses = st.lists(st.sampled_from(IPS), max_size=2, unique=True).map(tuple)
pods: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.builds(
        dict,
        node=st.sampled_from(("", "node-1", "node-2")),
        uid=st.sampled_from(("u1", "u2")),
        labels=st.sampled_from(({"app": "web"}, {"app": "db"}, {})),
        ips=addresses,
        phase=st.sampled_from(("Pending", "Running", "Failed")),
        created=st.sampled_from(("2026-01-01T00:00:00Z", "2026-01-02T00:00:00Z")),
        deleting=st.booleans(),
        host_network=st.sampled_from((False, False, True)),
    ),
)
pod_events = st.tuples(st.just("pod"), st.sampled_from(NAMES), pods)
claims: st.SearchStrategy[Any] = st.one_of(
    st.none(), st.builds(dict, ips=addresses, uid=st.sampled_from(("", "u1"))), st.builds(dict, ips=addresses)
)
nodes = st.sampled_from(("node-1", "node-2"))
claim_events = st.tuples(st.just("claim"), st.tuples(st.sampled_from(NAMES), nodes), claims)
node_fields: st.SearchStrategy[Any] = st.one_of(
    st.none(),
    st.builds(
        dict, addresses=st.sampled_from(((), ("192.168.0.1",))), cidrs=st.sampled_from(((), ("10.0.1.0/24",)))
    ),
)
node_events = st.tuples(st.just("node"), nodes, node_fields)
namespace_events = st.tuples(st.just("namespace"), st.just("default"), st.sampled_from(({}, {"team": "red"})))
histories = st.lists(st.one_of(pod_events, claim_events, node_events, namespace_events), max_size=40)


def _apply(desired: DesiredState, event: tuple[str, Any, Any]) -> None:
    kind, name, fields = event
    if kind == "pod":
        desired.set_pod(PodName("default", name), None if fields is None else pod(name, **fields))
    elif kind == "claim":
        key = pod_key(node=name[1], namespace="default", pod=name[0])
        desired.set_claim(key, None if fields is None else claim(name[0], node=name[1], **fields))
    elif kind == "node":
        desired.set_node(name, None if fields is None else read_node(node_object(name, **fields), name=name))
    else:
        desired.set_namespace(name, fields)


def _number(labels: LabelsHash) -> Identity:
    return Identity(256 + int(labels[:4], 16))


def _settle(desired: DesiredState) -> None:
    desired.settle()
    for labels in tuple(desired.unnumbered):
        desired.set_number(labels, _number(labels))
    desired.settle()


def _outputs(desired: DesiredState) -> tuple[Any, ...]:
    return (desired.identities, desired.nodes, desired.endpoints, desired.ipcache)


def _fresh() -> DesiredState:
    return DesiredState(cluster="test", label_filter=LabelFilter(), notices=Notices())


@settings(max_examples=300, deadline=None)
@given(history=histories, data=st.data())
def test_any_order_of_events_and_any_history_give_the_same_state(
    history: list[Any], data: st.DataObject
) -> None:
    lived = _fresh()
    first = [("namespace", "default", {}), *history]
    for event in first:
        _apply(lived, event)
        if data.draw(st.booleans()):
            lived.settle()
    _settle(lived)
    final = {(kind, name): (kind, name, fields) for kind, name, fields in first}
    reborn = _fresh()
    for event in data.draw(st.permutations([event for event in final.values() if event[2] is not None])):
        _apply(reborn, event)
    _settle(reborn)
    assert _outputs(lived) == _outputs(reborn)
    assert lived.used_label_sets() == reborn.used_label_sets()
    for key, entry in lived.ipcache.items():
        value: Any = entry
        if value.pod:
            endpoint: Any = lived.endpoints[f"{value.node}.default.{value.pod}"]
            assert value.ip in endpoint.ips, key
            assert endpoint.identity == value.identity
            assert str(value.identity) in lived.identities
    for endpoint in lived.endpoints.values():
        known: Any = endpoint
        for ip in known.ips:
            assert lived.ipcache[ip.replace(".", "-")].pod == known.name  # type: ignore[attr-defined]


@settings(max_examples=200, deadline=None)
@given(history=histories)
def test_every_difference_is_told_as_a_change(history: list[Any]) -> None:
    desired = _fresh()
    desired.set_namespace("default", {})
    shadow: dict[tuple[Bucket, str], Any] = {}
    for event in history:
        _apply(desired, event)
        changes = desired.settle()
        for labels in tuple(desired.unnumbered):
            desired.set_number(labels, _number(labels))
        changes |= desired.settle()
        for change in changes:
            shadow[change.bucket, change.key] = desired.of(change.bucket).get(change.key)
        for bucket in ("nodes", "endpoints", "ipcache"):
            told = {
                key: value for (name, key), value in shadow.items() if name == bucket and value is not None
            }
            assert told == desired.of(bucket)  # type: ignore[arg-type]
        for key, record in desired.identities.items():
            assert shadow["identities", key] == record  # type: ignore[index]
