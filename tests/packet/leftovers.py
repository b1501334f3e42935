"""What the nodes' kernels hold, compared with the cluster: nothing missing, nothing left over."""

from __future__ import annotations

from ipaddress import ip_address
from typing import Any

from services.datapath.kernel.layout import ENDPOINT, FRONTEND, IPV4, PEER, ROW_KEY, ROW_SIZE, U32, U64
from shared.contract.policy import IdentityPolicy
from shared.contract.reserved import Reserved
from shared.contract.service import ServiceRecord
from tests.packet.labs import Lab

ADDRESS = IPV4.address_size


async def differences(lab: Lab, *, doubting: bool = False) -> list[str]:
    """Where API server, buckets and kernels do not say the same, as sentences.

    ``doubting``: kernels may know addresses that nobody has. A node that has missed something (because it
    was away, or NATS lost what it had stored) keeps those for a while; see :mod:`shared.bus.patience`.
    """
    cluster = await lab.cluster()
    pods = {
        item["status"]["podIP"]: item
        for item in (await lab.get("pods", "-A"))["items"]
        if item["status"].get("podIP")
    }
    found: list[str] = []

    def same(what: str, held: Any, wanted: Any) -> None:
        if held != wanted:
            found.append(f"{what}: {held!r}, and it must be {wanted!r}")

    endpoints = {ip: each for each in cluster.endpoints.values.values() for ip in each.ips}
    entries = {each.ip: each for each in cluster.ipcache.values.values()}
    same("endpoints published", _names(endpoints.values()), {_name(item) for item in pods.values()})
    same("addresses of pods", {ip for ip, entry in entries.items() if entry.pod}, set(pods))
    for ip, item in pods.items():
        if ip in entries and ip in endpoints:
            same(f"pod at {ip}", f"{entries[ip].namespace}/{entries[ip].pod}", _name(item))
            same(f"identity at {ip}", entries[ip].identity, endpoints[ip].identity)
    policies = [each for each in cluster.policy.values.values() if isinstance(each, IdentityPolicy)]
    sets_of = {int(each.identity): {each.ingress, each.egress} - {None} for each in policies}
    services = [each for each in cluster.services.values.values() if isinstance(each, ServiceRecord)]
    frontends = {
        (ip, port.port, port.protocol.number): sum(backend.ready for backend in port.backends)
        for each in services
        for ip in each.cluster_ips
        for port in each.ports
    }
    for node in lab.nodes:
        with lab.map(node, "endpoints4", key=ADDRESS, value=ENDPOINT.size) as held:
            on_node = {ip for ip, item in pods.items() if item["spec"]["nodeName"] == node}
            same(f"{node}: endpoints", {_ip(key) for key, _ in held.items()}, on_node)
        with lab.map(node, "ipcache4", key=ADDRESS, value=PEER.size) as held:
            own = lab.node_ip(node)
            wanted = {ip: int(entry.identity) for ip, entry in entries.items()} | {own: int(Reserved.HOST)}
            known = {_ip(key): PEER.unpack(value)[1] for key, value in held.items()}
            kept = known.keys() & wanted if doubting else known
            same(f"{node}: ipcache", {ip: known[ip] for ip in kept}, wanted)
        with lab.map(node, "identity_class", key=U32.size, value=U64.size) as held:
            classes = {int(each.identity): int(each.peer_class, 16) for each in policies}
            kernel = {U32.unpack(key)[0]: U64.unpack(value)[0] for key, value in held.items()}
            same(f"{node}: classes", kernel, classes)
        with lab.map(node, "policy_rows", key=ROW_KEY.size, value=ROW_SIZE) as held:
            owners = (int(entries[ip].identity) for ip in on_node if ip in entries)
            sets = {int(id, 16) for owner in owners for id in sets_of.get(owner, ()) if id is not None}
            same(f"{node}: policy sets", {ROW_KEY.unpack(key)[0] for key, _ in held.items()}, sets)
        with lab.map(node, "frontends4", key=IPV4.frontend_key.size, value=FRONTEND.size) as held:
            unpacked = (
                (IPV4.frontend_key.unpack(key), FRONTEND.unpack(value)) for key, value in held.items()
            )
            counts = {
                (_ip(ip), int.from_bytes(port, "big"), protocol): count
                for (ip, port, protocol), (_, count, _) in unpacked
                if protocol
            }
            same(f"{node}: frontends and their backends", counts, frontends)
    return found


def _ip(packed: bytes) -> str:
    return str(ip_address(packed))


def _name(item: dict[str, Any]) -> str:
    return f"{item['metadata']['namespace']}/{item['metadata']['name']}"


def _names(endpoints: Any) -> set[str]:
    return {f"{each.namespace}/{each.name}" for each in endpoints}
