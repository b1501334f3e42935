"""Several policies about one pod: they add up, and what one leaves shut another may open."""

from __future__ import annotations

from tests.packet.manifests import Object, block, from_namespaces
from tests.packet.policy_cases.case import (
    DB,
    DENIED,
    NOBODY,
    OPEN,
    PASSED,
    RURAL,
    Case,
    egress,
    ingress,
    rule,
)

ALL_PODS: Object = {"namespaceSelector": {}}
ALL_ADDRESSES = block("0.0.0.0/0")
NO_PODS = from_namespaces(kind="unheard-of")
NO_ADDRESSES = block(NOBODY)

NOBODY_IN: Object = {"ingress": []}
EVERYBODY_IN: Object = {"ingress": [{}]}
NOBODY_OUT: Object = {"policyTypes": ["Egress"], "egress": []}
EVERYBODY_OUT: Object = {"policyTypes": ["Egress"], "egress": [{}]}

STACKED = {
    "nobody-and-everybody": Case(
        [NOBODY_IN, EVERYBODY_IN],
        {
            "web > me": OPEN,
            "outside > me": OPEN,
            "web > me:ping": OPEN,
        },
    ),
    "nobody-and-all-pods": Case(
        [NOBODY_IN, ingress(ALL_PODS)],
        {
            "web > me": OPEN,
            "village/web > me": OPEN,
            "outside > me": DENIED,
        },
    ),
    "nobody-and-all-addresses": Case(
        [NOBODY_IN, ingress(ALL_ADDRESSES)],
        {
            "web > me": OPEN,
            "village/web > me": OPEN,
            "outside > me": OPEN,
            "node-2 > me": OPEN,
        },
    ),
    "no-addresses-and-all-pods": Case(
        [ingress(NO_ADDRESSES), ingress(ALL_PODS)],
        {
            "web > me": OPEN,
            "village/web > me": OPEN,
            "outside > me": DENIED,
        },
    ),
    "no-pods-and-all-addresses": Case(
        [ingress(NO_PODS), ingress(ALL_ADDRESSES)],
        {
            "web > me": OPEN,
            "village/web > me": OPEN,
            "outside > me": OPEN,
        },
    ),
    "egress-nobody-and-everybody": Case(
        [NOBODY_OUT, EVERYBODY_OUT],
        {
            "me > db": OPEN,
            "me > db:ping": OPEN,
            "me > outside": PASSED,
        },
    ),
    "egress-nobody-and-all-pods": Case(
        [NOBODY_OUT, egress(ALL_PODS)],
        {
            "me > db": OPEN,
            "me > village/db": OPEN,
            "me > outside": DENIED,
        },
    ),
    "egress-nobody-and-all-addresses": Case(
        [NOBODY_OUT, egress(ALL_ADDRESSES)],
        {
            "me > db": OPEN,
            "me > village/db": OPEN,
            "me > outside": PASSED,
            "me > node-2:9": PASSED,
        },
    ),
    "egress-no-addresses-and-all-pods": Case(
        [egress(NO_ADDRESSES), egress(ALL_PODS)],
        {
            "me > db": OPEN,
            "me > village/db": OPEN,
            "me > outside": DENIED,
        },
    ),
    "egress-no-pods-and-all-addresses": Case(
        [egress(NO_PODS), egress(ALL_ADDRESSES)],
        {
            "me > db": OPEN,
            "me > village/db": OPEN,
            "me > outside": PASSED,
        },
    ),
    "ports-of-two-policies": Case(
        [ingress(RURAL, ports=["8080"]), ingress(RURAL, ports=["80"])],
        {
            "village/web > me": OPEN,
            "village/web > me:8080": OPEN,
            "village/web > me:81": DENIED,
            "web > me": DENIED,
            "web > me:8080": DENIED,
        },
    ),
    "one-port-and-everything": Case(
        [ingress(ports=["80"]), EVERYBODY_IN],
        {
            "web > me": OPEN,
            "web > me:8080": OPEN,
            "outside > me:8080": OPEN,
        },
    ),
    "egress-one-port-and-everything": Case(
        [egress(ports=["80"]), EVERYBODY_OUT],
        {
            "me > db": OPEN,
            "me > db:8080": OPEN,
            "me > outside:8080": PASSED,
        },
    ),
    "everybody-out-and-nobody-in": Case(
        [EVERYBODY_OUT, NOBODY_IN],
        {
            "me > db": OPEN,
            "me > outside": PASSED,
            "db > me": DENIED,
        },
    ),
    "some-in-and-one-port-out": Case(
        [
            {
                "policyTypes": ["Ingress", "Egress"],
                "ingress": [rule("from", [DB], [])],
                "egress": [rule("to", [], ["80"])],
            }
        ],
        {
            "db > me": OPEN,
            "db > me:8080": OPEN,
            "web > me": DENIED,
            "me > web": OPEN,
            "me > village/web": OPEN,
            "me > db:8080": DENIED,
            "me > web:8080": DENIED,
        },
    ),
}
