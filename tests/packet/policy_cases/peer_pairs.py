"""Two peers in one rule, of every two kinds there are: what either selects is allowed, in both directions."""

from __future__ import annotations

from itertools import combinations

from tests.packet.manifests import Object, block
from tests.packet.policy_cases.case import DENIED, OPEN, PODS, PODS_2, RURAL, WEB, Case

EVERY_POD: Object = {"podSelector": {}}
EVERY_NAMESPACE: Object = {"namespaceSelector": {}}

OTHERS = ("web-1", "db-2", "bare-1", "village/web-2", "village/db-1", "outside")

KINDS: dict[str, tuple[Object, str]] = {
    "all": (EVERY_POD, "web-1 db-2 bare-1"),
    "web": (WEB, "web-1"),
    "any": (EVERY_NAMESPACE, "web-1 db-2 bare-1 village/web-2 village/db-1"),
    "any-all": ({**EVERY_NAMESPACE, **EVERY_POD}, "web-1 db-2 bare-1 village/web-2 village/db-1"),
    "any-web": ({**EVERY_NAMESPACE, **WEB}, "web-1 village/web-2"),
    "rural": (RURAL, "village/web-2 village/db-1"),
    "rural-all": ({**RURAL, **EVERY_POD}, "village/web-2 village/db-1"),
    "rural-web": ({**RURAL, **WEB}, "village/web-2"),
    "block": (block(PODS), "web-1 db-2 bare-1 village/web-2 village/db-1"),
    "except": (block(PODS, PODS_2), "web-1 bare-1 village/db-1"),
}
"""Peers, and which of the others they select."""


def _pair(one: str, other: str) -> Case:
    peers = [KINDS[one][0], KINDS[other][0]]
    selected = {*KINDS[one][1].split(), *KINDS[other][1].split()}
    outcomes = {each: OPEN if each in selected else DENIED for each in OTHERS}
    return Case(
        [{"policyTypes": ["Ingress", "Egress"], "ingress": [{"from": peers}], "egress": [{"to": peers}]}],
        {
            **{f"{each} > me": outcome for each, outcome in outcomes.items()},
            **{f"me > {each}": outcome for each, outcome in outcomes.items()},
        },
    )


PEER_PAIRS = {f"{one}-or-{other}": _pair(one, other) for one, other in combinations(KINDS, 2)}
