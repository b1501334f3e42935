"""NetworkPolicy as the Kubernetes API reference has it: one expectation a line, on one node and across nodes.

Every case is a pod of its own and the policies that select it. All cases are in force at the same time, and
all lines are tried at the same time: first without any policy, where each must pass, then with them, and then
with clients that were not there when the policies came.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from typing import Any, NamedTuple

import pytest

from deploy.lab import client
from shared.contract.names import policy_status_key
from tests.packet.agents import Try, job, tried, tried_in
from tests.packet.labs import Lab, eventually
from tests.packet.manifests import Object, network_policy, on_host_network, pod
from tests.packet.policy_cases.case import (
    ALLOWED_SECONDS,
    CITY,
    CLIENTS,
    DENIED,
    DENIED_SECONDS,
    LATE,
    OPEN,
    PASSED,
    SERVED,
    VILLAGE,
)
from tests.packet.policy_cases.together import CASES

pytestmark = pytest.mark.timeout(300)
"""The set-up of the first test starts the pods of all cases."""


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


KINDS = {"": "new", "UDP": "udp", "SCTP": "sctp"}
"""Of jobs, by the protocol that a line names."""


def job_of(ip: str, port: str, *, patience: float) -> dict[str, Any]:
    """A connection, a datagram, an association, or an echo."""
    if port == "ping":
        return job("ping", ip, patience=patience)
    number, _, protocol = port.partition("/")
    return job(KINDS[protocol], ip, int(number), patience=patience)


def judged(each: Try, *, source: Place, target: Place) -> str:
    """The outcome, or what is wrong with an answer."""
    if each.outcome != OPEN or "pod" not in each.answer:
        return each.outcome
    if each.pod != target.pod:
        return f"answered by {each.pod}"
    return OPEN if each.client == source.ip else f"seen as {each.client}"


def policies_of(name: str, places: Mapping[str, Place]) -> list[Object]:
    """The policies of a case, with addresses for names."""
    case = CASES[name]
    text = json.dumps(case.policies)
    for place, (ip, *_) in places.items():
        text = text.replace(f"@{place}/", f"{ip}/")
    return [
        network_policy(
            f"{name}-{number}", namespace=case.ruled_from or case.home, subject={"case": name}, **spec
        )
        for number, spec in enumerate(json.loads(text))
    ]


@pytest.fixture(scope="module")
def places(lab: Lab) -> Iterator[dict[str, Place]]:
    """All pods and hosts that lines speak of, without any policy."""
    plan = client.record(lab.name).plan
    hosts = {host.name: Place(ip=host.ips[0], host=host.namespace) for host in (*plan.nodes, *plan.outside)}
    hosts["outside"] = hosts.pop("outside-1")
    pods = {home: [*client_pods(home), *case_pods(home)] for home in homes()}
    with ExitStack() as namespaces:
        for home, each in pods.items():
            labels = {"kind": "rural"} if home == VILLAGE else {}
            namespaces.enter_context(lab.lasting_namespace(home, *each, **labels))
        yield {**hosts, **places_of(lab, *(each for there in pods.values() for each in there))}


def homes() -> list[str]:
    """The namespaces of all pods."""
    return sorted({CITY, VILLAGE, *(case.home for case in CASES.values())})


def case_pods(home: str) -> list[Object]:
    """The pods of a namespace that cases are about."""
    found = []
    for name, case in CASES.items():
        if case.home == home:
            made = pod(name, namespace=home, node=case.node, ports=SERVED, case=name, **case.labels)
            found.append(on_host_network(made) if case.host_network else made)
    return found


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
        found[name if home == CITY or name in CASES else f"{home}/{name}"] = place
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


BY_ADDRESS = (
    "block-of-pods",
    "block-of-one-pod",
    "block-of-underlay",
    "block-of-one-node",
    "block-of-everything",
    "agents-by-address",
    "egress-to-block-of-pods",
    "egress-to-one-pod",
    "egress-to-underlay",
    "egress-to-one-node",
    "egress-to-agents-by-address",
)


@pytest.mark.parametrize("case", BY_ADDRESS)
def test_an_ip_block_selects_the_pods_and_nodes_whose_addresses_it_has(
    with_policies: Outcomes, case: str
) -> None:
    """``ipBlock`` is about addresses, whoever has them.

    Pods and nodes, of this node and another, are let in and reached by a rule whose only peer is a block with
    their addresses, and those that it does not have are not.
    """
    (policy,) = CASES[case].policies
    rules = policy["egress" if "egress" in policy else "ingress"]
    peers = [peer for rule in rules for peer in (*rule.get("from", ()), *rule.get("to", ()))]
    assert [list(peer) for peer in peers] == [["ipBlock"]]
    lines = [line for line in LINES if line.case == case]
    assert {OPEN, PASSED} & {line.outcome for line in lines}
    assert [line for line in lines if set(with_policies[line].values()) != {line.outcome}] == []


@pytest.mark.parametrize(("agent", "node"), [("agent-near", "node-1"), ("agent-far", "node-2")])
async def test_a_host_network_pod_is_its_node_and_no_policys_subject(
    lab: Lab, places: dict[str, Place], with_policies: Outcomes, agent: str, node: str
) -> None:
    """What its own cases say of traffic is so because no policy finds it: its labels select nobody."""
    shown = await lab.get("pod", agent, "-n", CITY)
    assert shown["metadata"]["labels"]["case"] == agent
    assert shown["status"]["podIP"] == places[agent].ip == places[node].ip
    cluster = await lab.cluster()
    subjects = {
        case: cluster.policy_status.values[
            policy_status_key(kind="NetworkPolicy", namespace=CITY, name=f"{case}-0")
        ].subjects
        for case in (agent, "agents-by-label")
    }
    assert subjects == {agent: 0, "agents-by-label": 1}
    assert [each for each in cluster.endpoints.values.values() if each.name == agent] == []


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
