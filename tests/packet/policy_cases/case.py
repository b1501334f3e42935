"""What a case is made of: who is in the lab, what can come of a connection, and policies said in short."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from tests.packet.manifests import Object, from_namespaces, from_pods, matching, policy_port

CITY, VILLAGE = "city", "village"
"""Cases are in the city unless they say otherwise; the village has the label ``kind=rural``."""

OPEN, PASSED, DENIED = "open", "refused", "denied"
"""Passed: it came through, and nobody listens there."""

DENIED_SECONDS = 1.0
"""Patience where nothing is to come: the processes that try all start at the same time."""
ALLOWED_SECONDS = 20.0
"""Patience where an answer must come: it may be one of a thousand, on a machine that has other work too."""

PODS, PODS_1, PODS_2 = "10.244.0.0/16", "10.244.1.0/24", "10.244.2.0/24"
"""Addresses of all pods, and of those of each node."""
UNDERLAY = "172.30.0.0/24"
"""Addresses of the nodes and of the host outside."""
NOBODY = "0.0.0.0/31"
"""Addresses that nobody has."""
SERVED = ("http=80", "admin=8080", "dns=53/UDP", "log=5353/UDP", "signal=80/SCTP", "link=2905/SCTP")
"""What every pod declares. It answers on all but SCTP, which its kernel may lack: that passes at most."""

CLIENTS: dict[str, dict[str, str]] = {
    "web": {"app": "web", "tier": "front"},
    "db": {"app": "db"},
    "bare": {},
    "village/web": {"app": "web", "tier": "front"},
    "village/db": {"app": "db"},
}
"""Each is two pods: ``web-1`` on node-1 and ``web-2`` on node-2. What is said of ``web`` is said of both."""
LATE = "late-"
"""Before the names of clients that come after the policies, to which a label more makes them new."""


class Case(NamedTuple):
    """Policies about one pod, and what comes of them.

    A line is ``client > server``, port 80 unless it ends with another, like ``:53/UDP``, or with ``:ping``.
    ``me`` is the case's pod; other cases' pods have their cases' names. In policies ``@web-1`` stands for the
    address of that pod.
    """

    policies: Sequence[Object]
    lines: Mapping[str, str]
    node: str = "node-1"
    labels: Mapping[str, str] = {}
    home: str = CITY
    ruled_from: str = ""
    """The namespace of the policies; without, the pod's own."""
    host_network: bool = False


def ingress(*peers: Object, ports: Sequence[str] = ()) -> Object:
    """A policy with one rule."""
    return {"ingress": [rule("from", peers, ports)]}


def egress(*peers: Object, ports: Sequence[str] = ()) -> Object:
    """The same, of egress alone."""
    return {"policyTypes": ["Egress"], "egress": [rule("to", peers, ports)]}


def rule(word: str, peers: Sequence[Object], ports: Sequence[str]) -> Object:
    """A rule; ``word`` is ``from`` or ``to``."""
    made: Object = {}
    if peers:
        made[word] = list(peers)
    if ports:
        made["ports"] = [policy_port(port) for port in ports]
    return made


WEB, DB = from_pods(app="web"), from_pods(app="db")
RURAL = from_namespaces(kind="rural")


def pods_where(*expressions: tuple[str, ...]) -> Object:
    """A peer."""
    return {"podSelector": matching(*expressions)}


def namespaces_where(*expressions: tuple[str, ...]) -> Object:
    """A peer."""
    return {"namespaceSelector": matching(*expressions)}
