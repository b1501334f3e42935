"""NetworkPolicy as the Kubernetes API reference has it: one expectation a line, on one node and across nodes.

Every case is a pod of its own and the policies that select it. All cases are in force at the same time, and
all lines are tried at the same time: first without any policy, where each must pass, then with them, and then
with clients that were not there when the policies came.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import pytest

from deploy.lab import client
from tests.packet.agents import ALLOWED_SECONDS, Try, job, tried, tried_in
from tests.packet.labs import Lab, eventually
from tests.packet.manifests import (
    Object,
    block,
    from_namespaces,
    from_pods,
    matching,
    network_policy,
    pod,
    policy_port,
)

CITY, VILLAGE = "city", "village"
"""Cases are in the city; the village has the label ``kind=rural``."""

OPEN, PASSED, DENIED = "open", "refused", "denied"
"""Passed: it came through, and nobody listens there."""

DENIED_SECONDS = 1.0
"""Patience where nothing is to come: the processes that try all start at the same time."""

PODS, PODS_1, PODS_2 = "10.244.0.0/16", "10.244.1.0/24", "10.244.2.0/24"
"""Addresses of all pods, and of those of each node."""
UNDERLAY = "172.30.0.0/24"
"""Addresses of the nodes and of the host outside."""
SERVED = ["80", "53/UDP"]
"""Ports on which every pod answers."""

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
    ``me`` is the case's pod. In policies ``@web-1`` stands for the address of that pod.
    """

    policies: Sequence[Object]
    lines: Mapping[str, str]
    node: str = "node-1"
    labels: Mapping[str, str] = {}


def ingress(*peers: Object, ports: Sequence[str] = ()) -> Object:
    """A policy with one rule."""
    return {"ingress": [_rule("from", peers, ports)]}


def egress(*peers: Object, ports: Sequence[str] = ()) -> Object:
    """The same, of egress alone."""
    return {"policyTypes": ["Egress"], "egress": [_rule("to", peers, ports)]}


def _rule(word: str, peers: Sequence[Object], ports: Sequence[str]) -> Object:
    rule: Object = {}
    if peers:
        rule[word] = list(peers)
    if ports:
        rule["ports"] = [policy_port(port) for port in ports]
    return rule


WEB, DB = from_pods(app="web"), from_pods(app="db")
RURAL = from_namespaces(kind="rural")


def pods_where(*expressions: tuple[str, ...]) -> Object:
    """A peer."""
    return {"podSelector": matching(*expressions)}


ABSENT_AND_EMPTY = {
    "nothing-said": Case(
        [{}],
        {
            "web > me": DENIED,
            "web > me:53/UDP": DENIED,
            "web > me:ping": DENIED,
            "bare > me": DENIED,
            "village/db > me": DENIED,
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
            "web > me:ping": OPEN,
            "village/db > me": OPEN,
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
            "outside > me": DENIED,
        },
    ),
    "every-namespace": Case(
        [ingress({"namespaceSelector": {}})],
        {
            "web > me": OPEN,
            "bare > me": OPEN,
            "village/db > me": OPEN,
            "outside > me": DENIED,
            "node-2 > me": DENIED,
        },
    ),
    "namespace-by-name": Case(
        [ingress(from_namespaces(**{"kubernetes.io/metadata.name": VILLAGE}))],
        {
            "village/web > me": OPEN,
            "web > me": DENIED,
        },
    ),
    "pods-of-namespaces": Case(
        [ingress({**RURAL, **WEB})],
        {
            "village/web > me": OPEN,
            "village/db > me": DENIED,
            "web > me": DENIED,
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
        [{"ingress": [_rule("from", [WEB], ["80"]), _rule("from", [DB], ["81"])]}],
        {
            "web > me": OPEN,
            "web > me:81": DENIED,
            "db > me": DENIED,
            "db > me:81": PASSED,
            "bare > me": DENIED,
        },
    ),
}

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
}

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
}

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
}

EGRESS = {
    "egress-to-nobody": Case(
        [{"policyTypes": ["Egress"]}],
        {
            "me > db": DENIED,
            "me > db:53/UDP": DENIED,
            "me > db:ping": DENIED,
            "me > village/db": DENIED,
            "me > outside": DENIED,
            "me > node-1:9": PASSED,
            "me > node-2:9": DENIED,
            "web > me": OPEN,
            "outside > me": OPEN,
        },
    ),
    "empty-egress": Case(
        [{"policyTypes": ["Egress"], "egress": []}],
        {
            "me > db": DENIED,
            "me > outside": DENIED,
            "web > me": OPEN,
        },
    ),
    "egress-empty-rule": Case(
        [{"policyTypes": ["Egress"], "egress": [{}]}],
        {
            "me > db": OPEN,
            "me > db:81": PASSED,
            "me > db:53/UDP": OPEN,
            "me > village/db:ping": OPEN,
            "me > outside": PASSED,
            "me > node-2:9": PASSED,
            "web > me": OPEN,
        },
    ),
    "egress-empty-to": Case(
        [{"policyTypes": ["Egress"], "egress": [{"to": [], "ports": [{"port": 80}]}]}],
        {
            "me > db": OPEN,
            "me > village/web": OPEN,
            "me > outside": PASSED,
            "me > db:81": DENIED,
            "me > db:53/UDP": DENIED,
        },
    ),
    "egress-to-pods": Case(
        [egress(DB)],
        {
            "me > db": OPEN,
            "me > db:ping": OPEN,
            "me > web": DENIED,
            "me > village/db": DENIED,
            "me > outside": DENIED,
            "me > node-1:9": PASSED,
            "me > node-2:9": DENIED,
            "web > me": OPEN,
        },
    ),
    "egress-to-namespaces": Case(
        [egress(RURAL)],
        {
            "me > village/web": OPEN,
            "me > village/db": OPEN,
            "me > web": DENIED,
        },
    ),
    "egress-to-pods-of-namespaces": Case(
        [egress({**RURAL, **DB})],
        {
            "me > village/db": OPEN,
            "me > village/web": DENIED,
            "me > db": DENIED,
        },
    ),
    "egress-to-ports": Case(
        [egress(DB, ports=["80", "53/UDP", "90-91"])],
        {
            "me > db": OPEN,
            "me > db:53/UDP": OPEN,
            "me > db:89": DENIED,
            "me > db:90": PASSED,
            "me > db:91": PASSED,
            "me > db:92": DENIED,
            "me > db:53": DENIED,
            "me > db:ping": DENIED,
            "me > web": DENIED,
        },
    ),
    "egress-to-block-without-other-node": Case(
        [egress(block(PODS, PODS_2))],
        {
            "me > db-1": OPEN,
            "me > db-2": DENIED,
            "me > village/web-1": OPEN,
            "me > village/web-2": DENIED,
            "me > outside": DENIED,
        },
    ),
    "egress-to-block-without-own-node": Case(
        [egress(block(PODS, PODS_1))],
        {
            "me > db-1": DENIED,
            "me > db-2": OPEN,
            "me > node-1:9": PASSED,
        },
    ),
    "egress-to-underlay": Case(
        [egress(block(UNDERLAY))],
        {
            "me > outside": PASSED,
            "me > outside:ping": OPEN,
            "me > node-2:9": PASSED,
            "me > db": DENIED,
        },
    ),
    "egress-without-outside": Case(
        [egress(block("0.0.0.0/0", "@outside/32"))],
        {
            "me > outside": DENIED,
            "me > outside:ping": DENIED,
            "me > node-2:9": PASSED,
            "me > db": OPEN,
        },
    ),
}

TYPES = {
    "egress-rules-without-types": Case(
        [{"egress": [{"to": [DB]}]}],
        {
            "me > db": OPEN,
            "me > web": DENIED,
            "web > me": DENIED,
            "db > me": DENIED,
        },
    ),
    "ingress-rules-without-types": Case(
        [{"ingress": [{"from": [WEB]}], "egress": []}],
        {
            "web > me": OPEN,
            "db > me": DENIED,
            "me > db": OPEN,
        },
    ),
    "egress-rules-of-an-ingress-policy": Case(
        [{"policyTypes": ["Ingress"], "ingress": [{"from": [WEB]}], "egress": [{"to": [DB]}]}],
        {
            "me > web": OPEN,
            "me > outside": PASSED,
            "web > me": OPEN,
            "db > me": DENIED,
        },
    ),
    "ingress-rules-of-an-egress-policy": Case(
        [{"policyTypes": ["Egress"], "ingress": [{"from": [WEB]}], "egress": [{"to": [DB]}]}],
        {
            "db > me": OPEN,
            "outside > me": OPEN,
            "me > db": OPEN,
            "me > web": DENIED,
        },
    ),
    "both-types-and-nothing": Case(
        [{"policyTypes": ["Ingress", "Egress"]}],
        {
            "web > me": DENIED,
            "me > db": DENIED,
            "node-1 > me": OPEN,
            "me > node-1:9": PASSED,
        },
    ),
}

CALLER = ingress(from_pods(case="caller"))
GUARD = {"guard": "yes"}

BOTH_NEEDED = {
    "caller": Case(
        [egress(from_pods(**GUARD), ports=["80"])],
        {
            "me > guard-near": OPEN,
            "me > guard-far": OPEN,
            "me > guard-near:81": DENIED,
            "me > guard-shut": DENIED,
            "me > guard-unnamed": DENIED,
        },
    ),
    "guard-near": Case(
        [CALLER],
        {
            "egress-to-nobody > me": DENIED,
            "web > me": DENIED,
        },
        labels=GUARD,
    ),
    "guard-far": Case(
        [CALLER],
        {
            "egress-to-nobody > me": DENIED,
            "web > me": DENIED,
        },
        labels=GUARD,
        node="node-2",
    ),
    "guard-shut": Case(
        [ingress(WEB)],
        {
            "web > me": OPEN,
            "egress-to-nobody > me": DENIED,
        },
        labels=GUARD,
        node="node-2",
    ),
    "guard-unnamed": Case(
        [CALLER],
        {
            "web > me": DENIED,
        },
    ),
}

CASES: dict[str, Case] = {
    **ABSENT_AND_EMPTY,
    **PEERS,
    **EXPRESSIONS,
    **PORTS,
    **BLOCKS,
    **EGRESS,
    **TYPES,
    **BOTH_NEEDED,
}


class Line(NamedTuple):
    """One expectation."""

    case: str
    text: str
    outcome: str

    def __str__(self) -> str:
        return f"{self.case}: {self.text} is {self.outcome}"

    def tries(self) -> Iterator[tuple[str, str, str]]:
        """Client, server and port of each connection that it is about."""
        client, _, rest = self.text.partition(" > ")
        server, _, port = rest.partition(":")
        for one in self._places(client):
            for other in self._places(server):
                yield one, other, port or "80"

    def _places(self, name: str) -> list[str]:
        if name.replace(LATE, "") in CLIENTS:
            return [f"{name}-1", f"{name}-2"]
        return [self.case if name == "me" else name]

    def late(self) -> Line:
        """The same with clients that come late; for a line without, itself."""
        return self._replace(text=" > ".join(map(_late, self.text.split(" > "))))


def _late(end: str) -> str:
    name, *port = end.partition(":")
    *home, pod = name.rpartition("/")
    return "".join((*home, LATE, pod, *port)) if name in CLIENTS else end


LINES = [Line(name, *line) for name, case in CASES.items() for line in case.lines.items()]
LATE_LINES = [line.late() for line in LINES if line.late() != line]


class Place(NamedTuple):
    """A pod, or a host: then with the name of its network namespace instead of a pod's."""

    ip: str
    pod: str = ""
    namespace: str = ""
    host: str = ""


Outcomes = dict[Line, dict[str, str]]
"""What came of each connection of a line, by its ends."""


async def outcomes_of(
    lab: Lab, places: Mapping[str, Place], lines: Iterable[Line], *, patience: float | None = None
) -> Outcomes:
    """Tries all lines at once; without ``patience`` as patiently as what is expected wants."""
    wanted: dict[str, list[tuple[Line, str, dict[str, Any]]]] = {}
    for line in lines:
        needed = patience or (DENIED_SECONDS if line.outcome == DENIED else ALLOWED_SECONDS)
        for source, target, port in line.tries():
            attempt = job_of(places[target].ip, port, patience=needed)
            wanted.setdefault(source, []).append((line, target, attempt))
    found: Outcomes = {}

    async def ask(source: str, attempts: list[tuple[Line, str, dict[str, Any]]]) -> None:
        place, jobs = places[source], [attempt for _, _, attempt in attempts]
        if place.pod:
            tries = await tried(lab, place.pod, *jobs, namespace=place.namespace)
        else:
            tries = await tried_in(place.host, *jobs)
        for (line, target, _), each in zip(attempts, tries, strict=True):
            outcome = judged(each, source=place, target=places[target])
            found.setdefault(line, {})[f"{source} > {target}"] = outcome

    await asyncio.gather(*(ask(*each) for each in wanted.items()))
    return found


def job_of(ip: str, port: str, *, patience: float) -> dict[str, Any]:
    """A connection, a datagram, or an echo."""
    if port == "ping":
        return job("ping", ip, patience=patience)
    number, _, protocol = port.partition("/")
    return job("udp" if protocol == "UDP" else "new", ip, int(number), patience=patience)


def judged(each: Try, *, source: Place, target: Place) -> str:
    """The outcome, or what is wrong with an answer."""
    if each.outcome != OPEN or "pod" not in each.answer:
        return each.outcome
    if each.pod != target.pod:
        return f"answered by {each.pod}"
    return OPEN if each.client == source.ip else f"seen as {each.client}"


def policies_of(name: str, places: Mapping[str, Place]) -> list[Object]:
    """The policies of a case, with addresses for names."""
    text = json.dumps(CASES[name].policies)
    for place, (ip, *_) in places.items():
        text = text.replace(f"@{place}/", f"{ip}/")
    return [
        network_policy(f"{name}-{number}", namespace=CITY, subject={"case": name}, **spec)
        for number, spec in enumerate(json.loads(text))
    ]


@pytest.fixture(scope="module")
def places(lab: Lab) -> Iterator[dict[str, Place]]:
    """All pods and hosts that lines speak of, without any policy."""
    cases = [
        pod(name, namespace=CITY, node=case.node, ports=SERVED, case=name, **case.labels)
        for name, case in CASES.items()
    ]
    plan = client.record(lab.name).plan
    hosts = {host.name: Place(ip=host.ips[0], host=host.namespace) for host in (*plan.nodes, *plan.outside)}
    hosts["outside"] = hosts.pop("outside-1")
    village, city = client_pods(VILLAGE), client_pods(CITY)
    with (
        lab.lasting_namespace(VILLAGE, *village, kind="rural"),
        lab.lasting_namespace(CITY, *city, *cases),
    ):
        yield {**hosts, **places_of(lab, *village, *city, *cases)}


def client_pods(home: str, *, prefix: str = "", **more: str) -> list[Object]:
    """The clients of a namespace, on both nodes."""
    found = []
    for client_name, labels in CLIENTS.items():
        where, _, name = client_name.rpartition("/")
        if (where or CITY) == home:
            found += [
                pod(f"{prefix}{name}-{n}", namespace=home, node=f"node-{n}", ports=SERVED, **labels, **more)
                for n in (1, 2)
            ]
    return found


def places_of(lab: Lab, *pods: Object) -> dict[str, Place]:
    """Where running pods are, by the names that lines have for them."""
    found = {}
    for name, home in ((each["metadata"]["name"], each["metadata"]["namespace"]) for each in pods):
        place = Place(ip=lab.ip(name, namespace=home), pod=name, namespace=home)
        found[name if home == CITY else f"{home}/{name}"] = place
    return found


@pytest.fixture(scope="module")
def without_policies(lab: Lab, places: dict[str, Place]) -> Outcomes:
    """What comes of each line while nothing is forbidden."""
    return asyncio.run(outcomes_of(lab, places, LINES, patience=ALLOWED_SECONDS))


@pytest.fixture(scope="module")
def with_policies(lab: Lab, places: dict[str, Place], without_policies: Outcomes) -> Outcomes:
    """What comes of each line under all policies, which stay in force."""

    async def enforce() -> Outcomes:
        await lab.apply(*(policy for name in CASES for policy in policies_of(name, places)))
        await lab.policies_in_force()
        return await outcomes_of(lab, places, LINES)

    return asyncio.run(enforce())


@pytest.fixture(scope="module")
def with_late_clients(lab: Lab, places: dict[str, Place], with_policies: Outcomes) -> Outcomes:
    """What comes of lines when their clients come after the policies."""
    pods = [each for home in (CITY, VILLAGE) for each in client_pods(home, prefix=LATE, late="yes")]

    async def come() -> Outcomes:
        await lab.apply(*pods)
        for home in (CITY, VILLAGE):
            await lab.pods_ready(namespace=home)
        return await outcomes_of(lab, {**places, **places_of(lab, *pods)}, LATE_LINES)

    return asyncio.run(come())


def test_without_policies_every_line_passes(without_policies: Outcomes) -> None:
    closed = {
        str(line): found
        for line, found in without_policies.items()
        if not set(found.values()) <= ({OPEN, PASSED} if line.outcome == DENIED else {line.outcome})
    }
    assert closed == {}


@pytest.mark.parametrize("line", LINES, ids=str)
def test_line(with_policies: Outcomes, line: Line) -> None:
    found = with_policies[line]
    assert found == dict.fromkeys(found, line.outcome)


@pytest.mark.parametrize("line", LATE_LINES, ids=str)
def test_line_with_late_clients(with_late_clients: Outcomes, line: Line) -> None:
    found = with_late_clients[line]
    assert found == dict.fromkeys(found, line.outcome)


RELABELLED = [
    Line("namespaces", "village/web > me", DENIED),
    Line("pods-of-namespaces", "village/web > me", DENIED),
    Line("pods-or-namespaces", "village/db > me", DENIED),
    Line("namespace-expressions", "village/web > me", OPEN),
    Line("egress-to-namespaces", "me > village/web", DENIED),
    Line("every-namespace", "village/db > me", OPEN),
    Line("namespace-by-name", "village/web > me", OPEN),
]
"""What changes, and what does not, when the village is no longer rural."""


async def test_a_namespaces_label_decides_about_its_pods_anew(
    lab: Lab, places: dict[str, Place], with_policies: Outcomes
) -> None:
    async def are(lines: Sequence[Line]) -> bool:
        found = await outcomes_of(lab, places, lines, patience=DENIED_SECONDS)
        return all(set(found[line].values()) == {line.outcome} for line in lines)

    before = [Line(case, text, CASES[case].lines[text]) for case, text, _ in RELABELLED]
    try:
        await lab.kubectl("label", "namespace", VILLAGE, "kind=urban", "--overwrite")
        await eventually(lambda: are(RELABELLED))
    finally:
        await lab.kubectl("label", "namespace", VILLAGE, "kind=rural", "--overwrite")
    await eventually(lambda: are(before))
