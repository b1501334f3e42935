"""`stentor identity list`, `service list` and `endpoint list`: what the buckets hold, sorted by name."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from typing import TypeVar

from deploy.cli.cluster import Cluster, read_cluster
from deploy.cli.connection import Connection, find_target, open_bus
from deploy.cli.output import Format, say_json, say_table, styled
from deploy.cli.shapes import EndpointItem, IdentityItem, ServiceItem, ServicePortItem
from shared.contract.policy import IdentityPolicy
from shared.contract.service import ServiceRecord

T = TypeVar("T")


def read_items(connection: Connection, make: Callable[[Cluster], T]) -> T:
    """What ``make`` makes of the cluster as it is now."""
    target = find_target(connection)

    async def run() -> T:
        async with open_bus(target.bus) as bus:
            return make(await read_cluster(bus))

    return asyncio.run(run())


def identity_items(cluster: Cluster) -> list[IdentityItem]:
    """All identities, by number."""
    used = Counter(record.identity for record in cluster.endpoints.values.values())
    records = sorted(cluster.identities.values.values(), key=lambda record: record.id)
    return [
        IdentityItem(
            id=record.id, namespace=record.namespace, labels=record.labels, endpoints=used[record.id]
        )
        for record in records
    ]


def endpoint_items(cluster: Cluster) -> list[EndpointItem]:
    """All endpoints, by namespace and name."""
    ready = {
        (node, state.namespace, state.pod)
        for node, record in cluster.realised_by_node().items()
        for state in record.endpoints
        if state.ready
    }
    compiled = {
        entry.identity: entry for entry in cluster.policy.values.values() if isinstance(entry, IdentityPolicy)
    }

    def decided(identity: int, direction: str) -> str:
        entry = compiled.get(identity)  # type: ignore[call-overload]
        if entry is None:
            return "pending"
        return "open" if (entry.ingress if direction == "ingress" else entry.egress) is None else "policy"

    records = sorted(cluster.endpoints.values.values(), key=lambda record: (record.namespace, record.name))
    return [
        EndpointItem(
            namespace=record.namespace,
            name=record.name,
            node=record.node,
            ips=record.ips,
            identity=record.identity,
            ready=(record.node, record.namespace, record.name) in ready,
            ingress=decided(record.identity, "ingress"),
            egress=decided(record.identity, "egress"),
        )
        for record in records
    ]


def service_items(cluster: Cluster) -> list[ServiceItem]:
    """All Services that have frontends, by namespace and name."""
    records = [record for record in cluster.services.values.values() if isinstance(record, ServiceRecord)]
    return [
        ServiceItem(
            namespace=record.namespace,
            name=record.name,
            kind=record.kind,
            addresses=(*record.cluster_ips, *record.external_ips, *record.load_balancer_ips),
            ports=tuple(
                ServicePortItem(
                    name=port.name,
                    protocol=port.protocol,
                    port=port.port,
                    node_port=port.node_port,
                    backends=len(port.backends),
                    ready_backends=sum(backend.ready for backend in port.backends),
                )
                for port in record.ports
            ),
        )
        for record in sorted(records, key=lambda record: (record.namespace, record.name))
    ]


def identity_list(connection: Connection, *, output: Format) -> int:
    """Print all identities."""
    items = read_items(connection, identity_items)
    if output is Format.JSON:
        say_json(items)
        return 0
    rows = [(str(item.id), item.namespace, str(item.endpoints), " ".join(item.labels)) for item in items]
    say_table(("ID", "NAMESPACE", "ENDPOINTS", "LABELS"), rows, empty="no identity is known.")
    return 0


def endpoint_list(connection: Connection, *, output: Format) -> int:
    """Print all endpoints."""
    items = read_items(connection, endpoint_items)
    if output is Format.JSON:
        say_json(items)
        return 0
    rows = [
        (
            item.namespace,
            item.name,
            item.node,
            addresses(item.ips),
            str(item.identity),
            item.ingress,
            item.egress,
            styled("yes", "green") if item.ready else styled("no", "red"),
        )
        for item in items
    ]
    columns = ("NAMESPACE", "NAME", "NODE", "IP", "IDENTITY", "INGRESS", "EGRESS", "READY")
    say_table(columns, rows, empty="no endpoint is known.")
    return 0


def service_list(connection: Connection, *, output: Format) -> int:
    """Print all Services, one line for each port."""
    items = read_items(connection, service_items)
    if output is Format.JSON:
        say_json(items)
        return 0
    rows = [
        (
            item.namespace,
            item.name,
            item.kind,
            addresses(item.addresses),
            f"{port.port}/{port.protocol}" + (f":{port.node_port}" if port.node_port else ""),
            port.name or "-",
            f"{port.ready_backends}/{port.backends}",
        )
        for item in items
        for port in item.ports
    ]
    columns = ("NAMESPACE", "NAME", "TYPE", "ADDRESSES", "PORT", "PORT NAME", "READY BACKENDS")
    say_table(columns, rows, empty="no Service is known.")
    return 0


def addresses(ips: Sequence[str]) -> str:
    """Addresses in a table's cell."""
    return ",".join(ips) or "-"
