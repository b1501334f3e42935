"""Rules, peers and ports that are absent or empty."""

from __future__ import annotations

from tests.packet.policy_cases.case import DENIED, OPEN, PASSED, WEB, Case

ABSENT_AND_EMPTY = {
    "nothing-said": Case(
        [{}],
        {
            "web > me": DENIED,
            "web > me:53/UDP": DENIED,
            "web > me:80/SCTP": DENIED,
            "web > me:ping": DENIED,
            "bare > me": DENIED,
            "village/db > me": DENIED,
            "egress-empty-rule > me": DENIED,
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
            "web > me:80/SCTP": PASSED,
            "web > me:ping": OPEN,
            "village/db > me": OPEN,
            "egress-to-nobody > me": DENIED,
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
            "web > me:80/SCTP": DENIED,
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
