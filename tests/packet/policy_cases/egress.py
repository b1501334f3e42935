"""Whom a pod may reach."""

from __future__ import annotations

from tests.packet.manifests import block, from_namespaces
from tests.packet.policy_cases.case import (
    DB,
    DENIED,
    NOBODY,
    OPEN,
    PASSED,
    PODS,
    PODS_1,
    PODS_2,
    RURAL,
    UNDERLAY,
    VILLAGE,
    Case,
    egress,
)

AROUND_PODS = "0.0.0.0/4"
"""Far more addresses than pods have."""

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
    "egress-empty-ports": Case(
        [{"policyTypes": ["Egress"], "egress": [{"to": [DB], "ports": []}]}],
        {
            "me > db:81": PASSED,
            "me > db:53/UDP": OPEN,
            "me > db:80/SCTP": PASSED,
            "me > db:ping": OPEN,
            "me > web": DENIED,
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
    "egress-to-every-pod": Case(
        [egress({"podSelector": {}})],
        {
            "me > db": OPEN,
            "me > bare": OPEN,
            "me > village/db": DENIED,
            "me > outside": DENIED,
        },
    ),
    "egress-to-every-namespace": Case(
        [egress({"namespaceSelector": {}})],
        {
            "me > db": OPEN,
            "me > village/db": OPEN,
            "me > outside": DENIED,
            "me > node-2:9": DENIED,
        },
    ),
    "egress-to-every-pod-of-every-namespace": Case(
        [egress({"namespaceSelector": {}, "podSelector": {}})],
        {
            "me > db": OPEN,
            "me > village/db": OPEN,
            "me > outside": DENIED,
        },
    ),
    "egress-to-pods-of-every-namespace": Case(
        [egress({"namespaceSelector": {}, **DB})],
        {
            "me > db": OPEN,
            "me > village/db": OPEN,
            "me > web": DENIED,
            "me > village/web": DENIED,
        },
    ),
    "egress-to-every-pod-of-namespaces": Case(
        [egress({**RURAL, "podSelector": {}})],
        {
            "me > village/web": OPEN,
            "me > village/db": OPEN,
            "me > db": DENIED,
        },
    ),
    "egress-to-namespace-by-name": Case(
        [egress(from_namespaces(**{"kubernetes.io/metadata.name": VILLAGE}))],
        {
            "me > village/db": OPEN,
            "me > db": DENIED,
        },
    ),
    "egress-to-nobody-there-is": Case(
        [egress(from_namespaces(kind="unheard-of"))],
        {
            "me > db": DENIED,
            "me > village/db": DENIED,
            "me > outside": DENIED,
        },
    ),
    "egress-to-block-of-nobody": Case(
        [egress(block(NOBODY))],
        {
            "me > db": DENIED,
            "me > outside": DENIED,
            "me > node-1:9": PASSED,
        },
    ),
    "egress-to-block-of-pods": Case(
        [egress(block(PODS))],
        {
            "me > db": OPEN,
            "me > village/db": OPEN,
            "me > outside": DENIED,
            "me > node-2:9": DENIED,
        },
    ),
    "egress-to-one-pod": Case(
        [egress(block("@db-2/32"))],
        {
            "me > db-2": OPEN,
            "me > db-1": DENIED,
            "me > village/db": DENIED,
        },
    ),
    "egress-to-one-node": Case(
        [egress(block("@node-2/32"))],
        {
            "me > node-2:9": PASSED,
            "me > outside": DENIED,
            "me > db": DENIED,
        },
    ),
    "egress-without-one-pod": Case(
        [egress(block(AROUND_PODS, "@db-2/32"))],
        {
            "me > db-1": OPEN,
            "me > db-2": DENIED,
            "me > village/db": OPEN,
            "me > outside": DENIED,
        },
    ),
    "egress-to-what-another-policy-excepts": Case(
        [egress(block(AROUND_PODS, "@db-2/32")), egress(block("@db-2/32"))],
        {
            "me > db": OPEN,
            "me > village/db": OPEN,
            "me > outside": DENIED,
        },
    ),
}
