"""Ports by name; what names mean where pods differ is in ``test_scenario_named_ports.py``."""

from __future__ import annotations

from tests.packet.policy_cases.case import DB, DENIED, OPEN, RURAL, Case, egress, ingress

NAMES = {
    "named-port": Case(
        [ingress(ports=["http"])],
        {
            "web > me": OPEN,
            "village/web > me": OPEN,
            "outside > me": OPEN,
            "web > me:8080": DENIED,
            "web > me:53/UDP": DENIED,
            "web > me:80/SCTP": DENIED,
        },
    ),
    "named-port-of-namespaces": Case(
        [ingress(RURAL, ports=["http"])],
        {
            "village/web > me": OPEN,
            "village/web > me:8080": DENIED,
            "web > me": DENIED,
        },
    ),
    "egress-to-named-port": Case(
        [egress(ports=["http"])],
        {
            "me > db": OPEN,
            "me > village/db": OPEN,
            "me > db:8080": DENIED,
            # Nobody outside has told what he calls his ports.
            "me > outside": DENIED,
            # Nor has a node: a pod on its network is no pod to a policy.
            "me > agent-far": DENIED,
        },
    ),
    "egress-to-named-port-of-pods": Case(
        [egress(DB, ports=["admin"])],
        {
            "me > db:8080": OPEN,
            "me > db": DENIED,
            "me > web:8080": DENIED,
        },
    ),
}
