"""``policyTypes``, and connections that need the permission of both ends."""

from __future__ import annotations

from tests.packet.manifests import from_pods
from tests.packet.policy_cases.case import DB, DENIED, OPEN, PASSED, WEB, Case, egress, ingress

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
            "me > me": OPEN,
            "me > me:53/UDP": OPEN,
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
