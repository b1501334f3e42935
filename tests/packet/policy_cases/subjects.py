"""Whom a policy is about: pods of its own namespace, some of them or all.

A name with a dash and ``too`` is a second pod in the namespace of the first, whose policies select every pod.
"""

from __future__ import annotations

from tests.packet.manifests import Object
from tests.packet.policy_cases.case import DENIED, OPEN, PASSED, VILLAGE, WEB, Case, ingress

EVERY_POD: Object = {"podSelector": {}}

SUBJECTS = {
    "in-the-village": Case(
        [ingress(WEB)],
        {
            "village/web > me": OPEN,
            "village/db > me": DENIED,
            "web > me": DENIED,
        },
        home=VILLAGE,
    ),
    "ruled-from-another-namespace": Case(
        [{"policyTypes": ["Ingress", "Egress"]}],
        {
            "web > me": OPEN,
            "village/web > me": OPEN,
            "outside > me": OPEN,
            "me > db": OPEN,
            "me > outside": PASSED,
        },
        ruled_from=VILLAGE,
    ),
    "shut-in": Case(
        [{**EVERY_POD, "ingress": []}],
        {
            "web > me": DENIED,
            "web > me:53/UDP": DENIED,
            "web > me:80/SCTP": DENIED,
            "shut-in-too > me": DENIED,
            "me > db": OPEN,
            "me > db:53/UDP": OPEN,
            "me > db:80/SCTP": PASSED,
        },
        home="shut-in",
    ),
    "shut-in-too": Case(
        [],
        {
            "web > me": DENIED,
            "shut-in > me": DENIED,
            "me > db": OPEN,
        },
        home="shut-in",
        node="node-2",
    ),
    "shut-out": Case(
        [{**EVERY_POD, "policyTypes": ["Egress"]}],
        {
            "me > shut-out-too": DENIED,
            "me > db": DENIED,
            "me > outside": DENIED,
            "web > me": OPEN,
        },
        home="shut-out",
    ),
    "shut-out-too": Case(
        [],
        {
            "me > shut-out": DENIED,
            "me > db": DENIED,
            "web > me": OPEN,
        },
        home="shut-out",
        node="node-2",
    ),
    "shut-off": Case(
        [{**EVERY_POD, "policyTypes": ["Ingress", "Egress"]}],
        {
            "web > me": DENIED,
            "shut-off-too > me": DENIED,
            "me > db": DENIED,
        },
        home="shut-off",
    ),
    "shut-off-too": Case(
        [],
        {
            "web > me": DENIED,
            "shut-off > me": DENIED,
            "me > db": DENIED,
        },
        home="shut-off",
        node="node-2",
    ),
    "left-open": Case(
        [{**EVERY_POD, "ingress": [{}]}],
        {
            "web > me": OPEN,
            "web > me:8080": OPEN,
            "left-open-too > me": OPEN,
            "me > left-open-too": OPEN,
            "me > db": OPEN,
        },
        home="left-open",
    ),
    "left-open-too": Case(
        [],
        {
            "web > me": OPEN,
            "web > me:8080": OPEN,
        },
        home="left-open",
        node="node-2",
    ),
    "one-of-all-open": Case(
        [{**EVERY_POD, "ingress": []}, ingress({"namespaceSelector": {}, "podSelector": {}})],
        {
            "web > me": OPEN,
            "one-of-all-open-too > me": OPEN,
            "me > one-of-all-open-too": DENIED,
        },
        home="one-of-all-open",
    ),
    "one-of-all-open-too": Case(
        [],
        {
            "web > me": DENIED,
        },
        home="one-of-all-open",
        node="node-2",
    ),
    "among-themselves": Case(
        [{**EVERY_POD, **ingress(EVERY_POD)}],
        {
            "among-themselves-too > me": OPEN,
            "me > among-themselves-too": OPEN,
            "web > me": DENIED,
            "village/web > me": DENIED,
        },
        home="among-themselves",
    ),
    "among-themselves-too": Case(
        [],
        {
            "web > me": DENIED,
        },
        home="among-themselves",
        node="node-2",
    ),
}
