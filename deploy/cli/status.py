"""`stentor status`: is everything as it must be, and if not, what is not.

Every doubt is a sentence in ``problems``; without any the exit code is 0. What nodes are compared with is
read first, then the services are given :data:`HEALTH_SECONDS` to answer, then the nodes' records are read:
a node has that long to realise what was published before it counts as behind.
"""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from deploy.cli.cluster import Cluster, read_cluster
from deploy.cli.connection import Connection, find_target, open_bus
from deploy.cli.errors import FAILED
from deploy.cli.output import Format, counted, say, say_json, say_table, styled
from deploy.cli.policies import kept
from deploy.cli.shapes import NodeItem, Revisions, StatusReport
from shared.bus import Bus
from shared.contract.names import Bucket, health_subject
from shared.contract.node import Realised, ServiceHealth

HEALTH_SECONDS = 0.7
CONTROL_SERVICES = ("identity", "policy", "lb")
NODE_SERVICE = "datapath"
FULL = 0.9
"""Share of a map's capacity from which on it is a problem."""


def report(cluster: Cluster, *, services: Sequence[ServiceHealth]) -> StatusReport:
    """The report on what was read."""
    latest = latest_revisions(cluster)
    realised = cluster.realised_by_node()
    refused = [status for status in cluster.policy_status.values.values() if not status.accepted]
    problems = [
        *_service_problems(services, nodes=cluster.node_names()),
        *_publication_problems(cluster),
        *(
            problem
            for node in cluster.node_names()
            for problem in _node_problems(node, cluster=cluster, record=realised.get(node), latest=latest)
        ),
        *endpoint_problems(cluster),
        *(
            f"policy {status.policy.namespace}/{status.policy.name} is refused: "
            + "; ".join(f"{error.field}: {error.reason}" for error in status.errors)
            + kept(status)
            for status in refused
        ),
        *(f"cannot read {text}" for text in cluster.unreadable()),
    ]
    return StatusReport(
        cluster=cluster.name,
        well=not problems,
        latest=latest,
        services=tuple(sorted(services, key=lambda health: (health.service, health.node, health.instance))),
        nodes=tuple(_node_item(node, realised.get(node)) for node in cluster.node_names()),
        identities=len(cluster.identities.values),
        endpoints=len(cluster.endpoints.values),
        policies=len(cluster.policy_status.values),
        policies_refused=len(refused),
        problems=tuple(problems),
    )


def _service_problems(services: Sequence[ServiceHealth], *, nodes: Sequence[str]) -> list[str]:
    problems = []
    answering = {(health.service, health.node) for health in services}
    for service in CONTROL_SERVICES:
        if not any(name == service for name, _ in answering):
            problems.append(f"service {service} does not answer: nothing new of it reaches the nodes")
    for node in nodes:
        if (NODE_SERVICE, node) not in answering:
            problems.append(
                f"service {NODE_SERVICE} of node {node} does not answer: traffic goes on as last realised"
            )
    for health in services:
        if not health.ready:
            where = f" of node {health.node}" if health.node else ""
            reasons = "; ".join(health.reasons) or "it gives no reason"
            problems.append(f"service {health.service}{where} is not ready: {reasons}")
    return problems


def _publication_problems(cluster: Cluster) -> list[str]:
    problems = []
    for service, snapshot in (("policy", cluster.policy), ("lb", cluster.services)):
        if not snapshot.commit:
            problems.append(f"service {service} has not published anything yet")
    if not cluster.node_names():
        problems.append("no node is known: the identity service has published none and none has reported")
    return problems


def _node_problems(node: str, *, cluster: Cluster, record: Realised | None, latest: Revisions) -> list[str]:
    if record is None:
        return [f"node {node}: its datapath has not reported yet"]
    if node not in cluster.enforcing_nodes():
        return []
    problems = [] if record.enforcing else ["does not enforce"]
    problems += behind(record, latest=latest)
    for bucket, held in (
        (Bucket.POLICY, record.policy_revision),
        (Bucket.SERVICES, record.services_revision),
    ):
        reached = cluster.reached[bucket]
        # A restored or emptied bucket counts from the beginning again.
        if held > reached:
            problems.append(
                f"holds {bucket} revision {held}, but the bucket is only at {reached}: "
                "NATS has lost its data and the node keeps its last state"
            )
    for name, use in sorted(record.maps.items()):
        if use.capacity and use.entries >= FULL * use.capacity:
            problems.append(f"map {name} is nearly full: {use.entries} of {use.capacity} entries")
    problems += record.problems
    return [f"node {node}: {problem}" for problem in problems]


def behind(record: Realised, *, latest: Revisions) -> list[str]:
    """What a node's kernel does not hold yet."""
    return [
        f"has realised {name} revision {held}, the latest is {wanted}"
        for name, held, wanted in (
            ("policy", record.policy_revision, latest.policy),
            ("services", record.services_revision, latest.services),
            ("ipcache", record.ipcache_revision, latest.ipcache),
        )
        if held < wanted
    ]


def latest_revisions(cluster: Cluster) -> Revisions:
    """What every node is to realise."""
    return Revisions(
        policy=cluster.policy.commit, services=cluster.services.commit, ipcache=cluster.ipcache.revision
    )


def endpoint_problems(cluster: Cluster) -> list[str]:
    """Pods whose policy their node does not enforce yet."""
    held = {
        (node, state.namespace, state.pod): state
        for node, record in cluster.realised_by_node().items()
        for state in record.endpoints
    }
    enforcing = set(cluster.enforcing_nodes()) & set(cluster.realised_by_node())
    problems = []
    for endpoint in cluster.endpoints.values.values():
        state = held.get((endpoint.node, endpoint.namespace, endpoint.name))
        if endpoint.node in enforcing and (state is None or not state.ready):
            why = "unknown to" if state is None else "not ready on"
            problems.append(
                f"endpoint {endpoint.namespace}/{endpoint.name} is {why} its node {endpoint.node}"
            )
    return sorted(problems)


def _node_item(node: str, record: Realised | None) -> NodeItem:
    if record is None:
        record = Realised(node=node, time="", instance="", enforcing=False)
    return NodeItem(
        node=node,
        reported=bool(record.instance),
        enforcing=record.enforcing,
        time=record.time,
        revisions=Revisions(
            policy=record.policy_revision,
            services=record.services_revision,
            ipcache=record.ipcache_revision,
        ),
        endpoints=len(record.endpoints),
        endpoints_ready=sum(state.ready for state in record.endpoints),
        maps=record.maps,
        drift_repaired=record.drift_repaired,
    )


def say_report(made: StatusReport) -> None:
    """The report for people."""
    problems = counted(len(made.problems), "problem", "problems")
    well = styled("well", "green") if made.well else styled(problems, "bold red")
    say(styled(f"cluster {made.cluster}: ").append(well))
    say()
    say_table(
        ("SERVICE", "NODE", "READY", "UPTIME", "MEMORY", "DETAIL"),
        [
            (
                health.service,
                health.node or "-",
                styled("yes", "green") if health.ready else styled("no", "red"),
                duration(health.uptime_seconds),
                f"{health.resident_bytes / 2**20:.0f} MiB",
                " ".join(f"{name}={count}" for name, count in sorted(health.detail.items())),
            )
            for health in made.services
        ],
        empty="no service answers.",
    )
    say()
    latest = made.latest
    say_table(
        ("NODE", "ENFORCING", "POLICY", "SERVICES", "IPCACHE", "ENDPOINTS", "FULLEST MAP"),
        [
            (
                item.node,
                ("yes" if item.enforcing else "no") if item.reported else "unknown",
                f"{item.revisions.policy}/{latest.policy}",
                f"{item.revisions.services}/{latest.services}",
                f"{item.revisions.ipcache}/{latest.ipcache}",
                f"{item.endpoints_ready}/{item.endpoints}",
                _fullest(item),
            )
            for item in made.nodes
        ],
        empty="no node is known.",
    )
    say()
    refused = f" ({made.policies_refused} refused)" if made.policies_refused else ""
    counts = (
        counted(made.identities, "identity", "identities"),
        counted(made.endpoints, "endpoint", "endpoints"),
        counted(made.policies, "policy", "policies"),
    )
    say(", ".join(counts) + refused)
    for problem in made.problems:
        say(styled("problem: ", "red").append(styled(problem)))


def duration(seconds: float) -> str:
    """A duration in its largest whole unit: ``45s``, ``12m``, ``3h``, ``8d``."""
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:.0f}{unit}"
    return f"{seconds:.0f}s"


def _fullest(item: NodeItem) -> str:
    shares = [(use.entries / use.capacity, name, use) for name, use in item.maps.items() if use.capacity]
    if not shares:
        return "-"
    share, name, use = max(shares, key=lambda entry: entry[:2])
    return f"{name} {share:.0%} ({use.entries}/{use.capacity})"


async def gather(bus: Bus) -> StatusReport:
    """Read everything and ask every service."""
    before = await read_cluster(bus)
    services = await bus.ask(
        health_subject(cluster=bus.cluster), as_type=ServiceHealth, seconds=HEALTH_SECONDS
    )
    return report(await before.with_realised_now(bus), services=services)


def status(connection: Connection, *, output: Format) -> int:
    """Print the report; 1 when there are problems."""
    target = find_target(connection)

    async def run() -> StatusReport:
        async with open_bus(target.bus) as bus:
            return await gather(bus)

    made = asyncio.run(run())
    if output is Format.JSON:
        say_json(made)
    else:
        say_report(made)
    return 0 if made.well else FAILED
