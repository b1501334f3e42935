"""Every form that an entry of ``ports`` can have, and pairs of them, in both directions.

A pod of these admits, and may reach, the same ports, so one line of the table is about ingress and egress.
"""

from __future__ import annotations

from collections.abc import Sequence

from tests.packet.manifests import Object, matching
from tests.packet.policy_cases.case import CITY, DENIED, OPEN, PASSED, VILLAGE, Case

PROBES = ("80", "8080", "53/UDP", "5353/UDP", "80/SCTP", "2905/SCTP")
"""What is tried of each; all of it is served as far as there are sockets for it."""

NAMESPACES = matching(("kubernetes.io/metadata.name", "In", CITY, VILLAGE))
FROM = {"namespaceSelector": NAMESPACES, "podSelector": matching(("app", "In", "web", "api"))}
TO = {"namespaceSelector": NAMESPACES, "podSelector": matching(("app", "In", "db", "cache"))}

ENTRIES: dict[str, tuple[Sequence[Object], str]] = {
    # An entry without a protocol is about TCP.
    "entry-empty": ([{}], "80 8080"),
    "entry-80": ([{"port": 80}], "80"),
    "entry-8080": ([{"port": 8080}], "8080"),
    "entry-tcp": ([{"protocol": "TCP"}], "80 8080"),
    "entry-tcp-80": ([{"protocol": "TCP", "port": 80}], "80"),
    "entry-tcp-8080": ([{"protocol": "TCP", "port": 8080}], "8080"),
    "entry-udp": ([{"protocol": "UDP"}], "53/UDP 5353/UDP"),
    "entry-udp-53": ([{"protocol": "UDP", "port": 53}], "53/UDP"),
    "entry-udp-5353": ([{"protocol": "UDP", "port": 5353}], "5353/UDP"),
    "entry-sctp": ([{"protocol": "SCTP"}], "80/SCTP 2905/SCTP"),
    "entry-sctp-80": ([{"protocol": "SCTP", "port": 80}], "80/SCTP"),
    "entry-sctp-2905": ([{"protocol": "SCTP", "port": 2905}], "2905/SCTP"),
    "entry-tcp-http": ([{"protocol": "TCP", "port": "http"}], "80"),
    "entry-tcp-admin": ([{"protocol": "TCP", "port": "admin"}], "8080"),
    "entry-udp-dns": ([{"protocol": "UDP", "port": "dns"}], "53/UDP"),
    "entry-udp-log": ([{"protocol": "UDP", "port": "log"}], "5353/UDP"),
    "entry-sctp-signal": ([{"protocol": "SCTP", "port": "signal"}], "80/SCTP"),
    "entry-sctp-link": ([{"protocol": "SCTP", "port": "link"}], "2905/SCTP"),
    "entry-name-of-another-protocol": ([{"protocol": "TCP", "port": "log"}], ""),
    "entry-name-that-nobody-has": ([{"protocol": "TCP", "port": "nothing"}], ""),
    "entry-port-that-nobody-serves": ([{"protocol": "TCP", "port": 7981}], ""),
    "entries-empty-and-80": ([{}, {"port": 80}], "80 8080"),
    "entries-empty-and-http": ([{}, {"port": "http"}], "80 8080"),
    "entries-empty-and-udp": ([{}, {"protocol": "UDP"}], "80 8080 53/UDP 5353/UDP"),
    "entries-80-and-8080": ([{"port": 80}, {"port": 8080}], "80 8080"),
    "entries-80-and-admin": ([{"port": 80}, {"port": "admin"}], "80 8080"),
    "entries-80-and-udp-log": ([{"port": 80}, {"protocol": "UDP", "port": "log"}], "80 5353/UDP"),
    "entries-udp-53-and-udp-log": (
        [{"protocol": "UDP", "port": 53}, {"protocol": "UDP", "port": "log"}],
        "53/UDP 5353/UDP",
    ),
}
"""Entries of a rule, and which of the probes they open."""


def _outcome(probe: str, opened: str) -> str:
    if probe not in opened.split():
        return DENIED
    return PASSED if probe.endswith("SCTP") else OPEN


def _case(ports: Sequence[Object], opened: str) -> Case:
    rules = {"ingress": [{"from": [FROM], "ports": ports}], "egress": [{"to": [TO], "ports": ports}]}
    outcomes = {probe: _outcome(probe, opened) for probe in PROBES}
    return Case(
        [{"policyTypes": ["Ingress", "Egress"], **rules}],
        {
            **{f"web > me:{probe}": outcome for probe, outcome in outcomes.items()},
            **{f"me > db:{probe}": outcome for probe, outcome in outcomes.items()},
            **{f"bare > me:{probe}": DENIED for probe in opened.split()},
            **{f"me > bare:{probe}": DENIED for probe in opened.split()},
        },
    )


PORT_ENTRIES = {name: _case(*entry) for name, entry in ENTRIES.items()}
