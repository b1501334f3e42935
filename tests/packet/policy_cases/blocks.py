"""``ipBlock`` at ingress."""

from __future__ import annotations

from tests.packet.manifests import block
from tests.packet.policy_cases.case import (
    DB,
    DENIED,
    NOBODY,
    OPEN,
    PASSED,
    PODS,
    PODS_1,
    PODS_2,
    UNDERLAY,
    WEB,
    Case,
    ingress,
)

BLOCKS = {
    "block-of-pods": Case(
        [ingress(block(PODS))],
        {
            "web > me": OPEN,
            "village/db > me": OPEN,
            "outside > me": DENIED,
            "node-2 > me": DENIED,
        },
    ),
    "block-without-other-node": Case(
        [ingress(block(PODS, PODS_2))],
        {
            "web-1 > me": OPEN,
            "web-2 > me": DENIED,
            "village/web-1 > me": OPEN,
            "village/web-2 > me": DENIED,
        },
    ),
    "block-without-own-node": Case(
        [ingress(block(PODS, PODS_1))],
        {
            "web-1 > me": DENIED,
            "web-2 > me": OPEN,
            "village/web-1 > me": DENIED,
            "village/web-2 > me": OPEN,
            "node-1 > me": OPEN,
        },
    ),
    "block-without-two-pods": Case(
        [ingress(block(PODS, "@web-1/32", "@village/db-2/32"))],
        {
            "web-1 > me": DENIED,
            "web-2 > me": OPEN,
            "village/db-1 > me": OPEN,
            "village/db-2 > me": DENIED,
            "bare > me": OPEN,
        },
    ),
    "block-of-one-pod": Case(
        [ingress(block("@db-2/32"))],
        {
            "db-1 > me": DENIED,
            "db-2 > me": OPEN,
            "web > me": DENIED,
        },
    ),
    "block-of-what-another-excepts": Case(
        [ingress(block(PODS, PODS_2)), ingress(block("@web-2/32"))],
        {
            "web-1 > me": OPEN,
            "web-2 > me": OPEN,
            "db-1 > me": OPEN,
            "db-2 > me": DENIED,
        },
    ),
    "block-of-underlay": Case(
        [ingress(block(UNDERLAY))],
        {
            "outside > me": OPEN,
            "node-2 > me": OPEN,
            "web > me": DENIED,
        },
    ),
    "block-without-outside": Case(
        [ingress(block(UNDERLAY, "@outside/32"))],
        {
            "outside > me": DENIED,
            "node-2 > me": OPEN,
            "web > me": DENIED,
        },
    ),
    "block-of-everything": Case(
        [ingress(block("0.0.0.0/0"))],
        {
            "web > me": OPEN,
            "village/db > me": OPEN,
            "outside > me": OPEN,
            "node-2 > me": OPEN,
        },
    ),
    "block-of-everything-but-pods": Case(
        [ingress(block("0.0.0.0/0", PODS))],
        {
            "outside > me": OPEN,
            "node-2 > me": OPEN,
            "web > me": DENIED,
            "village/db > me": DENIED,
        },
    ),
    "block-or-pods": Case(
        [ingress(DB, block(PODS_2))],
        {
            "db > me": OPEN,
            "web-1 > me": DENIED,
            "web-2 > me": OPEN,
            "village/db-1 > me": DENIED,
            "village/db-2 > me": OPEN,
        },
    ),
    "block-and-pods-with-ports": Case(
        [ingress(block(PODS_2), ports=["80"]), ingress(WEB, ports=["81"])],
        {
            "web-1 > me": DENIED,
            "web-1 > me:81": PASSED,
            "web-2 > me": OPEN,
            "web-2 > me:81": PASSED,
            "bare-2 > me": OPEN,
            "bare-2 > me:81": DENIED,
        },
    ),
    "block-of-nobody": Case(
        [ingress(block(NOBODY))],
        {
            "web > me": DENIED,
            "outside > me": DENIED,
            "node-1 > me": OPEN,
        },
    ),
    "block-of-one-node": Case(
        [ingress(block("@node-2/32"))],
        {
            "node-2 > me": OPEN,
            "outside > me": DENIED,
            "web > me": DENIED,
        },
    ),
}
