"""Numbers, ranges and protocols."""

from __future__ import annotations

from tests.packet.policy_cases.case import DENIED, OPEN, PASSED, RURAL, WEB, Case, ingress

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
    "one-port-range": Case(
        [ingress(WEB, ports=["80-80"])],
        {
            "web > me:79": DENIED,
            "web > me": OPEN,
            "web > me:81": DENIED,
        },
    ),
    "udp-port-range": Case(
        [ingress(WEB, ports=["50-60/UDP"])],
        {
            "web > me:49/UDP": DENIED,
            "web > me:53/UDP": OPEN,
            "web > me:60/UDP": PASSED,
            "web > me:61/UDP": DENIED,
            "web > me:53": DENIED,
        },
    ),
    "port-of-namespaces": Case(
        [ingress(RURAL, ports=["8080"])],
        {
            "village/web > me:8080": OPEN,
            "village/web > me": DENIED,
            "web > me:8080": DENIED,
        },
    ),
    "udp-port-of-namespaces": Case(
        [ingress(RURAL, ports=["53/UDP"])],
        {
            "village/web > me:53/UDP": OPEN,
            "village/web > me:5353/UDP": DENIED,
            "web > me:53/UDP": DENIED,
        },
    ),
    "sctp-port-of-namespaces": Case(
        [ingress(RURAL, ports=["2905/SCTP"])],
        {
            "village/web > me:2905/SCTP": PASSED,
            "village/web > me:80/SCTP": DENIED,
            "web > me:2905/SCTP": DENIED,
        },
    ),
    "sctp-alone": Case(
        [{"ingress": []}, ingress(ports=["80/SCTP"])],
        {
            "web > me:80/SCTP": PASSED,
            "web > me": DENIED,
            "web > me:8080": DENIED,
            "web > me:80/UDP": DENIED,
            "web > me:53/UDP": DENIED,
        },
    ),
    "sctp-port-range": Case(
        [ingress(WEB, ports=["2900-2910/SCTP"])],
        {
            "web > me:2905/SCTP": PASSED,
            "web > me:2899/SCTP": DENIED,
            "web > me:2905": DENIED,
        },
    ),
}
