"""Who is let in, by labels of pods and of namespaces."""

from __future__ import annotations

from tests.packet.manifests import from_namespaces
from tests.packet.policy_cases.case import (
    CITY,
    DB,
    DENIED,
    OPEN,
    PASSED,
    RURAL,
    VILLAGE,
    WEB,
    Case,
    ingress,
    rule,
)

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
            "left-open > me": DENIED,
            "outside > me": DENIED,
        },
    ),
    "every-namespace": Case(
        [ingress({"namespaceSelector": {}})],
        {
            "web > me": OPEN,
            "bare > me": OPEN,
            "village/db > me": OPEN,
            "left-open > me": OPEN,
            "outside > me": DENIED,
            "node-2 > me": DENIED,
        },
    ),
    "namespace-by-name": Case(
        [ingress(from_namespaces(**{"kubernetes.io/metadata.name": VILLAGE}))],
        {
            "village/web > me": OPEN,
            "web > me": DENIED,
            "left-open > me": DENIED,
        },
    ),
    "pods-of-namespaces": Case(
        [ingress({**RURAL, **WEB})],
        {
            "village/web > me": OPEN,
            "village/web > me:53/UDP": OPEN,
            "village/web > me:80/SCTP": PASSED,
            "village/db > me": DENIED,
            "village/db > me:53/UDP": DENIED,
            "village/db > me:80/SCTP": DENIED,
            "web > me": DENIED,
            "web > me:53/UDP": DENIED,
            "web > me:80/SCTP": DENIED,
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
        [{"ingress": [rule("from", [WEB], ["80"]), rule("from", [DB], ["81"])]}],
        {
            "web > me": OPEN,
            "web > me:81": DENIED,
            "db > me": DENIED,
            "db > me:81": PASSED,
            "bare > me": DENIED,
        },
    ),
    "every-pod-of-namespaces": Case(
        [ingress({**RURAL, "podSelector": {}})],
        {
            "village/web > me": OPEN,
            "village/db > me": OPEN,
            "web > me": DENIED,
        },
    ),
    "every-pod-of-every-namespace": Case(
        [ingress({"namespaceSelector": {}, "podSelector": {}})],
        {
            "web > me": OPEN,
            "village/db > me": OPEN,
            "outside > me": DENIED,
            "node-2 > me": DENIED,
        },
    ),
    "own-namespace-by-name": Case(
        [ingress(from_namespaces(**{"kubernetes.io/metadata.name": CITY}))],
        {
            "web > me": OPEN,
            "bare > me": OPEN,
            "village/web > me": DENIED,
        },
    ),
    "pods-of-either-label": Case(
        [ingress(WEB, DB)],
        {
            "web > me": OPEN,
            "db > me": OPEN,
            "bare > me": DENIED,
            "village/web > me": DENIED,
        },
    ),
    "nobody": Case(
        [ingress(from_namespaces(kind="unheard-of"))],
        {
            "web > me": DENIED,
            "village/web > me": DENIED,
            "outside > me": DENIED,
        },
    ),
}
