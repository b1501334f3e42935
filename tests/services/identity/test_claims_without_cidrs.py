"""Claims of nodes that were given no podCIDRs: nothing but the node's word speaks for them."""

from __future__ import annotations

import pytest

from tests.services.identity.samples import Cluster

IP = "10.9.0.5"


@pytest.fixture
def cluster() -> Cluster:
    """Nodes ``bare`` and ``barer`` have no podCIDRs, and each a pod."""
    made = Cluster()
    for node in ("bare", "barer"):
        made.node(node, addresses=("192.0.2.1",) if node == "bare" else ("192.0.2.2",))
    made.pod("old", node="bare", created="2026-01-01T00:00:00Z")
    made.pod("new", node="barer", created="2026-01-01T00:00:01Z")
    made.settle()
    return made


def holder(cluster: Cluster, ip: str = IP) -> str | None:
    cluster.settle()
    entry = cluster.ip(ip)
    return entry.pod if entry else None


def test_one_that_nobody_else_has_is_believed(cluster: Cluster) -> None:
    cluster.claim("new", node="barer", ips=(IP,))
    assert holder(cluster) == "new"


@pytest.mark.parametrize(("ip", "reason"), [("10.0.1.9", "node-1"), ("192.0.2.1", "bare")])
def test_one_of_anothers_pod_cidrs_or_of_a_node_is_refused_until_it_is_not(
    cluster: Cluster, ip: str, reason: str
) -> None:
    cluster.claim("new", node="barer", ips=(ip,))
    cluster.settle()
    (notice,) = cluster.notices.drain()
    assert (notice.kind, notice.object) == ("claim-invalid", "Pod default/new")
    assert reason in notice.message
    assert holder(cluster, ip) != "new"
    cluster.node("node-1", cidrs=("10.0.7.0/24",))
    cluster.node("bare")
    assert holder(cluster, ip) == "new"


@pytest.mark.parametrize("first", ["old", "new"])
def test_a_newer_pod_of_another_node_has_to_wait_until_the_older_is_gone(
    cluster: Cluster, first: str
) -> None:
    nodes = {"old": "bare", "new": "barer"}
    second = ({"old", "new"} - {first}).pop()
    for pod in (first, second):
        cluster.claim(pod, node=nodes[pod], ips=(IP,))
        cluster.settle()
    assert holder(cluster) == "old"
    assert cluster.endpoint("new", node="barer").ips == ()
    cluster.pod("old", node="bare", created="2026-01-01T00:00:00Z", deleting=True)
    assert holder(cluster) == "old"
    cluster.no_pod("old")
    assert holder(cluster) == "new"


@pytest.mark.parametrize("deleting", [False, True])
def test_it_loses_to_whoever_has_the_api_servers_word(cluster: Cluster, deleting: bool) -> None:
    cluster.claim("old", node="bare", ips=(IP,))
    cluster.pod("told", node="node-1", ips=(IP,), created="2026-02-01T00:00:00Z", deleting=deleting)
    assert holder(cluster) == "told"
    cluster.no_pod("told")
    assert holder(cluster) == "old"


def test_among_pods_of_its_own_node_the_newest_has_the_address(cluster: Cluster) -> None:
    cluster.pod("newest", node="bare", created="2026-03-01T00:00:00Z")
    cluster.claim("old", node="bare", ips=(IP,))
    cluster.claim("newest", node="bare", ips=(IP,))
    assert holder(cluster) == "newest"


def test_with_the_api_servers_word_it_is_as_good_as_any(cluster: Cluster) -> None:
    cluster.claim("old", node="bare", ips=(IP,))
    cluster.claim("new", node="barer", ips=(IP,))
    cluster.pod("new", node="barer", created="2026-01-01T00:00:01Z", ips=(IP,))
    assert holder(cluster) == "new"
