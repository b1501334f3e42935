"""What NetworkPolicies mean, case by case: one expectation a line."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from tests.packet.manifests import (
    Object,
    block,
    from_namespaces,
    from_pods,
    matching,
    policy_port,
)

CITY, VILLAGE = "city", "village"
"""Cases are in the city; the village has the label ``kind=rural``."""

OPEN, PASSED, DENIED = "open", "refused", "denied"
"""Passed: it came through, and nobody listens there."""

DENIED_SECONDS = 1.0
"""Patience where nothing is to come: the processes that try all start at the same time."""

PODS, PODS_1, PODS_2 = "10.244.0.0/16", "10.244.1.0/24", "10.244.2.0/24"
"""Addresses of all pods, and of those of each node."""
UNDERLAY = "172.30.0.0/24"
"""Addresses of the nodes and of the host outside."""
SERVED = ["80", "53/UDP"]
"""Ports on which every pod answers."""

CLIENTS: dict[str, dict[str, str]] = {
    "web": {"app": "web", "tier": "front"},
    "db": {"app": "db"},
    "bare": {},
    "village/web": {"app": "web", "tier": "front"},
    "village/db": {"app": "db"},
}
"""Each is two pods: ``web-1`` on node-1 and ``web-2`` on node-2. What is said of ``web`` is said of both."""
LATE = "late-"
"""Before the names of clients that come after the policies, to which a label more makes them new."""


class Case(NamedTuple):
    """Policies about one pod, and what comes of them.

    A line is ``client > server``, port 80 unless it ends with another, like ``:53/UDP``, or with ``:ping``.
    ``me`` is the case's pod. In policies ``@web-1`` stands for the address of that pod.
    """

    policies: Sequence[Object]
    lines: Mapping[str, str]
    node: str = "node-1"
    labels: Mapping[str, str] = {}


def ingress(*peers: Object, ports: Sequence[str] = ()) -> Object:
    """A policy with one rule."""
    return {"ingress": [_rule("from", peers, ports)]}


def egress(*peers: Object, ports: Sequence[str] = ()) -> Object:
    """The same, of egress alone."""
    return {"policyTypes": ["Egress"], "egress": [_rule("to", peers, ports)]}


def _rule(word: str, peers: Sequence[Object], ports: Sequence[str]) -> Object:
    rule: Object = {}
    if peers:
        rule[word] = list(peers)
    if ports:
        rule["ports"] = [policy_port(port) for port in ports]
    return rule


WEB, DB = from_pods(app="web"), from_pods(app="db")
RURAL = from_namespaces(kind="rural")


def pods_where(*expressions: tuple[str, ...]) -> Object:
    """A peer."""
    return {"podSelector": matching(*expressions)}


ABSENT_AND_EMPTY = {
    "nothing-said": Case(
        [{}],
        {
            "web > me": DENIED,
            "web > me:53/UDP": DENIED,
            "web > me:ping": DENIED,
            "bare > me": DENIED,
            "village/db > me": DENIED,
            "outside > me": DENIED,
            "node-1 > me": OPEN,
            "node-2 > me": DENIED,
            "me > db": OPEN,
            "me > outside": PASSED,
        },
    ),
    "empty-ingress": Case(
        [{"ingress": []}],
        {
            "web > me": DENIED,
            "outside > me": DENIED,
            "me > db": OPEN,
        },
    ),
    "empty-rule": Case(
        [{"ingress": [{}]}],
        {
            "web > me": OPEN,
            "web > me:81": PASSED,
            "web > me:53/UDP": OPEN,
            "web > me:ping": OPEN,
            "village/db > me": OPEN,
            "outside > me": OPEN,
            "outside > me:ping": OPEN,
            "node-2 > me": OPEN,
        },
    ),
    "absent-from": Case(
        [{"ingress": [{"ports": [{"port": 80}]}]}],
        {
            "web > me": OPEN,
            "village/db > me": OPEN,
            "outside > me": OPEN,
            "node-2 > me": OPEN,
            "web > me:81": DENIED,
            "web > me:80/UDP": DENIED,
            "outside > me:53/UDP": DENIED,
        },
    ),
    "empty-from": Case(
        [{"ingress": [{"from": [], "ports": [{"port": 80}]}]}],
        {
            "web > me": OPEN,
            "outside > me": OPEN,
            "web > me:81": DENIED,
        },
    ),
    "absent-ports": Case(
        [{"ingress": [{"from": [WEB]}]}],
        {
            "web > me": OPEN,
            "web > me:81": PASSED,
            "web > me:53/UDP": OPEN,
            "web > me:ping": OPEN,
            "db > me": DENIED,
            "db > me:ping": DENIED,
        },
    ),
    "empty-ports": Case(
        [{"ingress": [{"from": [WEB], "ports": []}]}],
        {
            "web > me:81": PASSED,
            "web > me:53/UDP": OPEN,
            "web > me:ping": OPEN,
            "db > me": DENIED,
        },
    ),
}

PEERS = {
    "pods": Case(
        [ingress(WEB)],
        {
            "web > me": OPEN,
            "db > me": DENIED,
            "bare > me": DENIED,
            "village/web > me": DENIED,
            "outside > me": DENIED,
            "node-1 > me": OPEN,
            "node-2 > me": DENIED,
        },
    ),
    "every-pod": Case(
        [ingress({"podSelector": {}})],
        {
            "web > me": OPEN,
            "bare > me": OPEN,
            "village/web > me": DENIED,
            "outside > me": DENIED,
            "node-2 > me": DENIED,
        },
    ),
    "namespaces": Case(
        [ingress(RURAL)],
        {
            "village/web > me": OPEN,
            "village/db > me": OPEN,
            "web > me": DENIED,
            "outside > me": DENIED,
        },
    ),
    "every-namespace": Case(
        [ingress({"namespaceSelector": {}})],
        {
            "web > me": OPEN,
            "bare > me": OPEN,
            "village/db > me": OPEN,
            "outside > me": DENIED,
            "node-2 > me": DENIED,
        },
    ),
    "namespace-by-name": Case(
        [ingress(from_namespaces(**{"kubernetes.io/metadata.name": VILLAGE}))],
        {
            "village/web > me": OPEN,
            "web > me": DENIED,
        },
    ),
    "pods-of-namespaces": Case(
        [ingress({**RURAL, **WEB})],
        {
            "village/web > me": OPEN,
            "village/db > me": DENIED,
            "web > me": DENIED,
            "db > me": DENIED,
        },
    ),
    "pods-or-namespaces": Case(
        [ingress(RURAL, WEB)],
        {
            "village/web > me": OPEN,
            "village/db > me": OPEN,
            "web > me": OPEN,
            "db > me": DENIED,
            "bare > me": DENIED,
        },
    ),
    "pods-of-every-namespace": Case(
        [ingress({"namespaceSelector": {}, **WEB})],
        {
            "web > me": OPEN,
            "village/web > me": OPEN,
            "db > me": DENIED,
            "village/db > me": DENIED,
        },
    ),
    "two-policies": Case(
        [ingress(WEB, ports=["80"]), ingress(DB, ports=["81"])],
        {
            "web > me": OPEN,
            "web > me:81": DENIED,
            "db > me": DENIED,
            "db > me:81": PASSED,
            "bare > me": DENIED,
        },
    ),
    "two-rules": Case(
        [{"ingress": [_rule("from", [WEB], ["80"]), _rule("from", [DB], ["81"])]}],
        {
            "web > me": OPEN,
            "web > me:81": DENIED,
            "db > me": DENIED,
            "db > me:81": PASSED,
            "bare > me": DENIED,
        },
    ),
}

EXPRESSIONS = {
    "in": Case(
        [ingress(pods_where(("app", "In", "web", "api")))],
        {
            "web > me": OPEN,
            "db > me": DENIED,
            "bare > me": DENIED,
        },
    ),
    "not-in": Case(
        [ingress(pods_where(("app", "NotIn", "web", "api")))],
        {
            "web > me": DENIED,
            "db > me": OPEN,
            "bare > me": OPEN,
            "village/db > me": DENIED,
        },
    ),
    "exists": Case(
        [ingress(pods_where(("app", "Exists")))],
        {
            "web > me": OPEN,
            "db > me": OPEN,
            "bare > me": DENIED,
        },
    ),
    "does-not-exist": Case(
        [ingress(pods_where(("app", "DoesNotExist")))],
        {
            "web > me": DENIED,
            "db > me": DENIED,
            "bare > me": OPEN,
            "outside > me": DENIED,
        },
    ),
    "two-expressions": Case(
        [ingress(pods_where(("app", "In", "web", "db"), ("tier", "DoesNotExist")))],
        {
            "web > me": DENIED,
            "db > me": OPEN,
            "bare > me": DENIED,
        },
    ),
    "labels-and-expressions": Case(
        [ingress({"podSelector": matching(("tier", "In", "front", "back"), app="web")})],
        {
            "web > me": OPEN,
            "db > me": DENIED,
        },
    ),
    "namespace-expressions": Case(
        [
            ingress(
                {"namespaceSelector": matching(("kind", "NotIn", "rural")), **pods_where(("app", "Exists"))}
            )
        ],
        {
            "web > me": OPEN,
            "db > me": OPEN,
            "bare > me": DENIED,
            "village/web > me": DENIED,
        },
    ),
    "subject-by-expression": Case(
        [{"podSelector": matching(("case", "In", "subject-by-expression")), **ingress(WEB)}],
        {
            "web > me": OPEN,
            "db > me": DENIED,
        },
    ),
}

PORTS = {
    "ports": Case(
        [ingress(WEB, ports=["80", "53/UDP"])],
        {
            "web > me": OPEN,
            "web > me:53/UDP": OPEN,
            "web > me:53": DENIED,
            "web > me:80/UDP": DENIED,
            "web > me:81": DENIED,
            "web > me:ping": DENIED,
            "db > me": DENIED,
        },
    ),
    "udp": Case(
        [ingress(ports=["53/UDP"])],
        {
            "web > me:53/UDP": OPEN,
            "outside > me:53/UDP": OPEN,
            "web > me:54/UDP": DENIED,
            "web > me:53": DENIED,
            "web > me": DENIED,
        },
    ),
    "every-udp-port": Case(
        [ingress(ports=["/UDP"])],
        {
            "web > me:53/UDP": OPEN,
            "web > me:54/UDP": PASSED,
            "web > me": DENIED,
            "web > me:ping": DENIED,
        },
    ),
    "port-range": Case(
        [ingress(WEB, ports=["79-90"])],
        {
            "web > me:78": DENIED,
            "web > me:79": PASSED,
            "web > me": OPEN,
            "web > me:90": PASSED,
            "web > me:91": DENIED,
            "web > me:80/UDP": DENIED,
            "db > me": DENIED,
        },
    ),
    "overlapping-ranges": Case(
        [ingress(WEB, ports=["1000-1010", "1005-1020", "1021", "1030-65535"])],
        {
            "web > me:999": DENIED,
            "web > me:1000": PASSED,
            "web > me:1010": PASSED,
            "web > me:1020": PASSED,
            "web > me:1021": PASSED,
            "web > me:1022": DENIED,
            "web > me:1029": DENIED,
            "web > me:65535": PASSED,
        },
    ),
}

BLOCKS = {
    "block-of-pods": Case(
        [ingress(block(PODS))],
        {
            "web > me": OPEN,
            "village/db > me": OPEN,
            "outside > me": DENIED,
            "node-2 > me": DENIED,
        },
    ),
    "block-without-other-node": Case(
        [ingress(block(PODS, PODS_2))],
        {
            "web-1 > me": OPEN,
            "web-2 > me": DENIED,
            "village/web-1 > me": OPEN,
            "village/web-2 > me": DENIED,
        },
    ),
    "block-without-own-node": Case(
        [ingress(block(PODS, PODS_1))],
        {
            "web-1 > me": DENIED,
            "web-2 > me": OPEN,
            "village/web-1 > me": DENIED,
            "village/web-2 > me": OPEN,
            "node-1 > me": OPEN,
        },
    ),
    "block-without-two-pods": Case(
        [ingress(block(PODS, "@web-1/32", "@village/db-2/32"))],
        {
            "web-1 > me": DENIED,
            "web-2 > me": OPEN,
            "village/db-1 > me": OPEN,
            "village/db-2 > me": DENIED,
            "bare > me": OPEN,
        },
    ),
    "block-of-one-pod": Case(
        [ingress(block("@db-2/32"))],
        {
            "db-1 > me": DENIED,
            "db-2 > me": OPEN,
            "web > me": DENIED,
        },
    ),
    "block-of-what-another-excepts": Case(
        [ingress(block(PODS, PODS_2)), ingress(block("@web-2/32"))],
        {
            "web-1 > me": OPEN,
            "web-2 > me": OPEN,
            "db-1 > me": OPEN,
            "db-2 > me": DENIED,
        },
    ),
    "block-of-underlay": Case(
        [ingress(block(UNDERLAY))],
        {
            "outside > me": OPEN,
            "node-2 > me": OPEN,
            "web > me": DENIED,
        },
    ),
    "block-without-outside": Case(
        [ingress(block(UNDERLAY, "@outside/32"))],
        {
            "outside > me": DENIED,
            "node-2 > me": OPEN,
            "web > me": DENIED,
        },
    ),
    "block-of-everything": Case(
        [ingress(block("0.0.0.0/0"))],
        {
            "web > me": OPEN,
            "village/db > me": OPEN,
            "outside > me": OPEN,
            "node-2 > me": OPEN,
        },
    ),
    "block-of-everything-but-pods": Case(
        [ingress(block("0.0.0.0/0", PODS))],
        {
            "outside > me": OPEN,
            "node-2 > me": OPEN,
            "web > me": DENIED,
            "village/db > me": DENIED,
        },
    ),
    "block-or-pods": Case(
        [ingress(DB, block(PODS_2))],
        {
            "db > me": OPEN,
            "web-1 > me": DENIED,
            "web-2 > me": OPEN,
            "village/db-1 > me": DENIED,
            "village/db-2 > me": OPEN,
        },
    ),
    "block-and-pods-with-ports": Case(
        [ingress(block(PODS_2), ports=["80"]), ingress(WEB, ports=["81"])],
        {
            "web-1 > me": DENIED,
            "web-1 > me:81": PASSED,
            "web-2 > me": OPEN,
            "web-2 > me:81": PASSED,
            "bare-2 > me": OPEN,
            "bare-2 > me:81": DENIED,
        },
    ),
}

EGRESS = {
    "egress-to-nobody": Case(
        [{"policyTypes": ["Egress"]}],
        {
            "me > db": DENIED,
            "me > db:53/UDP": DENIED,
            "me > db:ping": DENIED,
            "me > village/db": DENIED,
            "me > outside": DENIED,
            "me > node-1:9": PASSED,
            "me > node-2:9": DENIED,
            "web > me": OPEN,
            "outside > me": OPEN,
        },
    ),
    "empty-egress": Case(
        [{"policyTypes": ["Egress"], "egress": []}],
        {
            "me > db": DENIED,
            "me > outside": DENIED,
            "web > me": OPEN,
        },
    ),
    "egress-empty-rule": Case(
        [{"policyTypes": ["Egress"], "egress": [{}]}],
        {
            "me > db": OPEN,
            "me > db:81": PASSED,
            "me > db:53/UDP": OPEN,
            "me > village/db:ping": OPEN,
            "me > outside": PASSED,
            "me > node-2:9": PASSED,
            "web > me": OPEN,
        },
    ),
    "egress-empty-to": Case(
        [{"policyTypes": ["Egress"], "egress": [{"to": [], "ports": [{"port": 80}]}]}],
        {
            "me > db": OPEN,
            "me > village/web": OPEN,
            "me > outside": PASSED,
            "me > db:81": DENIED,
            "me > db:53/UDP": DENIED,
        },
    ),
    "egress-to-pods": Case(
        [egress(DB)],
        {
            "me > db": OPEN,
            "me > db:ping": OPEN,
            "me > web": DENIED,
            "me > village/db": DENIED,
            "me > outside": DENIED,
            "me > node-1:9": PASSED,
            "me > node-2:9": DENIED,
            "web > me": OPEN,
        },
    ),
    "egress-to-namespaces": Case(
        [egress(RURAL)],
        {
            "me > village/web": OPEN,
            "me > village/db": OPEN,
            "me > web": DENIED,
        },
    ),
    "egress-to-pods-of-namespaces": Case(
        [egress({**RURAL, **DB})],
        {
            "me > village/db": OPEN,
            "me > village/web": DENIED,
            "me > db": DENIED,
        },
    ),
    "egress-to-ports": Case(
        [egress(DB, ports=["80", "53/UDP", "90-91"])],
        {
            "me > db": OPEN,
            "me > db:53/UDP": OPEN,
            "me > db:89": DENIED,
            "me > db:90": PASSED,
            "me > db:91": PASSED,
            "me > db:92": DENIED,
            "me > db:53": DENIED,
            "me > db:ping": DENIED,
            "me > web": DENIED,
        },
    ),
    "egress-to-block-without-other-node": Case(
        [egress(block(PODS, PODS_2))],
        {
            "me > db-1": OPEN,
            "me > db-2": DENIED,
            "me > village/web-1": OPEN,
            "me > village/web-2": DENIED,
            "me > outside": DENIED,
        },
    ),
    "egress-to-block-without-own-node": Case(
        [egress(block(PODS, PODS_1))],
        {
            "me > db-1": DENIED,
            "me > db-2": OPEN,
            "me > node-1:9": PASSED,
        },
    ),
    "egress-to-underlay": Case(
        [egress(block(UNDERLAY))],
        {
            "me > outside": PASSED,
            "me > outside:ping": OPEN,
            "me > node-2:9": PASSED,
            "me > db": DENIED,
        },
    ),
    "egress-without-outside": Case(
        [egress(block("0.0.0.0/0", "@outside/32"))],
        {
            "me > outside": DENIED,
            "me > outside:ping": DENIED,
            "me > node-2:9": PASSED,
            "me > db": OPEN,
        },
    ),
}

TYPES = {
    "egress-rules-without-types": Case(
        [{"egress": [{"to": [DB]}]}],
        {
            "me > db": OPEN,
            "me > web": DENIED,
            "web > me": DENIED,
            "db > me": DENIED,
        },
    ),
    "ingress-rules-without-types": Case(
        [{"ingress": [{"from": [WEB]}], "egress": []}],
        {
            "web > me": OPEN,
            "db > me": DENIED,
            "me > db": OPEN,
        },
    ),
    "egress-rules-of-an-ingress-policy": Case(
        [{"policyTypes": ["Ingress"], "ingress": [{"from": [WEB]}], "egress": [{"to": [DB]}]}],
        {
            "me > web": OPEN,
            "me > outside": PASSED,
            "web > me": OPEN,
            "db > me": DENIED,
        },
    ),
    "ingress-rules-of-an-egress-policy": Case(
        [{"policyTypes": ["Egress"], "ingress": [{"from": [WEB]}], "egress": [{"to": [DB]}]}],
        {
            "db > me": OPEN,
            "outside > me": OPEN,
            "me > db": OPEN,
            "me > web": DENIED,
        },
    ),
    "both-types-and-nothing": Case(
        [{"policyTypes": ["Ingress", "Egress"]}],
        {
            "web > me": DENIED,
            "me > db": DENIED,
            "node-1 > me": OPEN,
            "me > node-1:9": PASSED,
        },
    ),
}

CALLER = ingress(from_pods(case="caller"))
GUARD = {"guard": "yes"}

BOTH_NEEDED = {
    "caller": Case(
        [egress(from_pods(**GUARD), ports=["80"])],
        {
            "me > guard-near": OPEN,
            "me > guard-far": OPEN,
            "me > guard-near:81": DENIED,
            "me > guard-shut": DENIED,
            "me > guard-unnamed": DENIED,
        },
    ),
    "guard-near": Case(
        [CALLER],
        {
            "egress-to-nobody > me": DENIED,
            "web > me": DENIED,
        },
        labels=GUARD,
    ),
    "guard-far": Case(
        [CALLER],
        {
            "egress-to-nobody > me": DENIED,
            "web > me": DENIED,
        },
        labels=GUARD,
        node="node-2",
    ),
    "guard-shut": Case(
        [ingress(WEB)],
        {
            "web > me": OPEN,
            "egress-to-nobody > me": DENIED,
        },
        labels=GUARD,
        node="node-2",
    ),
    "guard-unnamed": Case(
        [CALLER],
        {
            "web > me": DENIED,
        },
    ),
}

CASES: dict[str, Case] = {
    **ABSENT_AND_EMPTY,
    **PEERS,
    **EXPRESSIONS,
    **PORTS,
    **BLOCKS,
    **EGRESS,
    **TYPES,
    **BOTH_NEEDED,
}
