"""Pods with ``hostNetwork``: each is its node, whatever its labels say, and no policy about pods is about it.

One runs on each node. ``near`` is on the node of the cases' pods, which no policy keeps from them.
"""

from __future__ import annotations

from tests.packet.manifests import Object, block, from_pods
from tests.packet.policy_cases.case import (
    DENIED,
    OPEN,
    PASSED,
    UNDERLAY,
    Case,
    egress,
    ingress,
)

LABELS = {"role": "agent"}
BY_LABEL = from_pods(**LABELS)
SHUT: Object = {"policyTypes": ["Ingress", "Egress"]}
UNTOUCHED = {
    "web > me": OPEN,
    "village/web > me": OPEN,
    "outside > me": OPEN,
    "me > db": OPEN,
    "me > outside": PASSED,
}

HOSTS = {
    "agent-near": Case([SHUT], UNTOUCHED, labels=LABELS, host_network=True),
    "agent-far": Case([SHUT], UNTOUCHED, labels=LABELS, host_network=True, node="node-2"),
    "agents-by-label": Case(
        [ingress(BY_LABEL)],
        {
            "agent-far > me": DENIED,
            "agent-near > me": OPEN,
            "bare > me": DENIED,
        },
    ),
    "agents-by-namespace": Case(
        [ingress({"namespaceSelector": {}})],
        {
            "agent-far > me": DENIED,
            "bare > me": OPEN,
        },
    ),
    "agents-by-address": Case(
        [ingress(block("@node-2/32"))],
        {
            "agent-far > me": OPEN,
            "bare > me": DENIED,
        },
    ),
    "agents-but-one-by-address": Case(
        [ingress(block(UNDERLAY, "@node-2/32"))],
        {
            "agent-far > me": DENIED,
            "agent-near > me": OPEN,
            "outside > me": OPEN,
        },
    ),
    "egress-to-agents-by-label": Case(
        [egress(BY_LABEL)],
        {
            "me > agent-far": DENIED,
            "me > agent-near": OPEN,
            "me > db": DENIED,
        },
    ),
    "egress-to-agents-by-address": Case(
        [egress(block("@agent-far/32"))],
        {
            "me > agent-far": OPEN,
            "me > agent-far:81": PASSED,
            "me > db": DENIED,
        },
    ),
}
