"""What ``matchExpressions`` select."""

from __future__ import annotations

from tests.packet.manifests import from_pods, matching
from tests.packet.policy_cases.case import (
    CITY,
    DENIED,
    OPEN,
    VILLAGE,
    WEB,
    Case,
    egress,
    ingress,
    namespaces_where,
    pods_where,
)

NAME = "kubernetes.io/metadata.name"
"""A label that every namespace has."""

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
    "namespace-in": Case(
        [ingress(namespaces_where((NAME, "In", VILLAGE, "town")))],
        {
            "village/web > me": OPEN,
            "web > me": DENIED,
            "outside > me": DENIED,
        },
    ),
    "pods-in-namespaces-not-in": Case(
        [ingress({**namespaces_where((NAME, "NotIn", CITY)), **pods_where(("app", "In", "web", "api"))})],
        {
            "village/web > me": OPEN,
            "village/db > me": DENIED,
            "web > me": DENIED,
        },
    ),
    "pods-or-namespaces-not-in": Case(
        [ingress(namespaces_where((NAME, "NotIn", CITY)), WEB)],
        {
            "village/web > me": OPEN,
            "village/db > me": OPEN,
            "web > me": OPEN,
            "db > me": DENIED,
        },
    ),
    "egress-to-namespaces-not-in": Case(
        [egress(namespaces_where((NAME, "NotIn", VILLAGE)))],
        {
            "me > db": OPEN,
            "me > village/db": DENIED,
            "me > outside": DENIED,
        },
    ),
    "flagged": Case(
        [ingress(from_pods(**{"app.kubernetes.io/part-of": "shop"}))],
        {
            "empty-value > me": OPEN,
            "web > me": DENIED,
        },
        labels={"flag": ""},
    ),
    "empty-value": Case(
        [ingress(from_pods(flag=""))],
        {
            "flagged > me": OPEN,
            "bare > me": DENIED,
        },
        labels={"app.kubernetes.io/part-of": "shop"},
        node="node-2",
    ),
    "empty-value-not-in": Case(
        [ingress(pods_where(("flag", "NotIn", "")))],
        {
            "flagged > me": DENIED,
            "bare > me": OPEN,
        },
    ),
    "exists-with-empty-value": Case(
        [ingress(pods_where(("flag", "Exists")))],
        {
            "flagged > me": OPEN,
            "bare > me": DENIED,
        },
    ),
}
