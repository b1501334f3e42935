"""`stentor policy trace`: what the compiled state says of one connection, and which rules decide.

It answers from what the nodes are given, not from the policy objects: the sets that govern both ends, the
rows for their classes, the ranges for the port. A default deny names the rules that come nearest to allowing
it, by what the rows tell of them: a rule that others hide everywhere, or that matches nobody now, is in none.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv6Address, ip_address, ip_network
from itertools import product

from deploy.cli.cluster import Cluster
from deploy.cli.connection import Connection
from deploy.cli.errors import FAILED, UnfitError, Unmet
from deploy.cli.listings import read_items
from deploy.cli.output import Format, say, say_json, styled
from deploy.cli.shapes import NearMiss, Trace, TraceRule, TraceStep
from shared.contract.base import ClassId, Direction, Protocol, SetId
from shared.contract.identity import IpEntry
from shared.contract.names import ip_key
from shared.contract.policy import (
    Action,
    AddressClass,
    CidrClass,
    IdentityPolicy,
    PolicySet,
    PortRange,
    Row,
)
from shared.contract.reserved import Reserved
from shared.contract.service import ServiceRecord

NEAREST = 3
"""How many near misses are named."""


@dataclass(frozen=True, kw_only=True)
class End:
    """One end of the connection, as nodes know it."""

    name: str
    ip: str
    entry: IpEntry | None
    """Of the ipcache; None for an address outside of the cluster."""
    peer_class: ClassId | None
    ingress: SetId | None
    egress: SetId | None

    @property
    def is_pod(self) -> bool:
        """Policies can select it."""
        return self.entry is not None and bool(self.entry.pod)

    def is_node_of(self, other: End) -> bool:
        """It is the node that the other end, a pod, runs on."""
        if self.entry is None or other.entry is None:
            return False
        return not self.entry.pod and self.entry.node == other.entry.node


def port_of(text: str) -> tuple[Protocol, int]:
    """``80``, ``80/TCP``, ``53/udp``; raises :class:`UnfitError`."""
    number, _, name = text.partition("/")
    try:
        protocol = Protocol(name.upper() or "TCP")
    except ValueError:
        raise UnfitError(f"--port {text}: {name!r} is no protocol: write 80, 80/TCP or 53/UDP.") from None
    if not (number.isascii() and number.isdigit()) or int(number) > 65535:
        raise UnfitError(f"--port {text}: {number!r} is no port: write 80, 80/TCP or 53/UDP.")
    return protocol, int(number)


def trace(cluster: Cluster, *, source: str, destination: str, protocol: Protocol, port: int) -> Trace:
    """What becomes of a connection.

    Raises :class:`Unmet` for an end that the cluster does not know, and when IPv4 and IPv6 fare differently.
    """
    pairs: dict[int, tuple[str, str]] = {}
    for mine, other in product(_addresses(cluster, source), _addresses(cluster, destination)):
        if ip_address(mine).version == ip_address(other).version:
            pairs.setdefault(ip_address(mine).version, (mine, other))
    if not pairs:
        raise Unmet(f"{source} and {destination} have no addresses of one family.")
    made = [
        _trace(
            cluster,
            _end(cluster, source, ip=mine),
            _end(cluster, destination, ip=other),
            protocol=protocol,
            port=port,
        )
        for mine, other in pairs.values()
    ]
    if len({each.allowed for each in made}) > 1:
        found = ", ".join(
            f"{mine} -> {other} is {'allowed' if each.allowed else 'denied'}"
            for (mine, other), each in zip(pairs.values(), made, strict=True)
        )
        raise Unmet(f"{found}: name the addresses to see why.")
    return made[0]


def _trace(cluster: Cluster, client: End, server: End, *, protocol: Protocol, port: int) -> Trace:
    steps = []
    if client.is_pod:
        steps.append(_step(cluster, Direction.EGRESS, client, server, protocol=protocol, port=port))
    if server.is_pod:
        steps.append(_step(cluster, Direction.INGRESS, server, client, protocol=protocol, port=port))
    return Trace(
        source=f"{client.name} ({client.ip})",
        destination=f"{server.name} ({server.ip})",
        port=f"{port}/{protocol}",
        allowed=all(step.allowed for step in steps),
        steps=tuple(steps),
    )


def _addresses(cluster: Cluster, text: str) -> tuple[str, ...]:
    try:
        address = ip_address(text)
    except ValueError:
        namespace, _, name = text.rpartition("/")
    else:
        if isinstance(address, IPv6Address) and (address.scope_id or address.ipv4_mapped):
            raise Unmet(f"{text}: no packet between pods has such an address; leave out scope and mapping.")
        ip = str(address)
        for service in cluster.services.values.values():
            if isinstance(service, ServiceRecord) and ip in service.cluster_ips:
                raise Unmet(
                    f"{ip} is the address of Service {service.namespace}/{service.name}: policy is asked "
                    "about its backends; name one of them and its port."
                )
        return (ip,)
    for endpoint in cluster.endpoints.values.values():
        if (endpoint.namespace, endpoint.name) == (namespace or "default", name):
            if not endpoint.ips:
                raise Unmet(f"pod {text} has no address yet.")
            return endpoint.ips
    raise Unmet(f"{text} is neither a pod that the cluster knows nor an address.")


def _end(cluster: Cluster, text: str, *, ip: str) -> End:
    entry = cluster.ipcache.values.get(ip_key(ip))
    identity = cluster.policy.values.get(f"identity.{entry.identity}") if entry else None
    policy = identity if isinstance(identity, IdentityPolicy) else None
    is_pod = entry is not None and bool(entry.pod)
    return End(
        name=f"{entry.namespace}/{entry.pod}" if entry and entry.pod else entry.node if entry else text,
        ip=ip,
        entry=entry,
        peer_class=_peer_class(cluster, ip=ip, entry=entry, policy=policy),
        ingress=policy.ingress if policy and is_pod else None,
        egress=policy.egress if policy and is_pod else None,
    )


def _peer_class(
    cluster: Cluster, *, ip: str, entry: IpEntry | None, policy: IdentityPolicy | None
) -> ClassId | None:
    if entry is not None:
        own = cluster.policy.values.get(f"address.{ip_key(ip)}")
        if isinstance(own, AddressClass) and own.identity == entry.identity:
            return own.peer_class
        return policy.peer_class if policy else None
    address = ip_address(ip)
    blocks = {
        ip_network(value.cidr).prefixlen: value.peer_class
        for value in cluster.policy.values.values()
        if isinstance(value, CidrClass) and address in ip_network(value.cidr)
    }
    if blocks:
        return blocks[max(blocks)]
    in_pod_cidr = any(
        address in ip_network(cidr) for node in cluster.nodes.values.values() for cidr in node.pod_cidrs
    )
    return _class_of(cluster, Reserved.UNMANAGED if in_pod_cidr else Reserved.WORLD)


def _class_of(cluster: Cluster, identity: Reserved) -> ClassId | None:
    policy = cluster.policy.values.get(f"identity.{identity.value}")
    return policy.peer_class if isinstance(policy, IdentityPolicy) else None


def _step(
    cluster: Cluster, direction: Direction, subject: End, peer: End, *, protocol: Protocol, port: int
) -> TraceStep:
    def made(
        *,
        allowed: bool,
        why: str,
        policies: PolicySet | None = None,
        rule: int | None = None,
        nearest: tuple[NearMiss, ...] = (),
    ) -> TraceStep:
        return TraceStep(
            direction=direction,
            subject=subject.name,
            peer=peer.name,
            allowed=allowed,
            why=why,
            policies=policies.policies if policies else (),
            rule=_rule(policies, rule) if policies and rule is not None else None,
            nearest=nearest,
        )

    set_id = subject.ingress if direction is Direction.INGRESS else subject.egress
    if subject.ip == peer.ip:
        return made(allowed=True, why="a pod always reaches itself")
    if peer.is_node_of(subject):
        return made(allowed=True, why="a node and its own pods always reach one another")
    if f"identity.{subject.entry.identity if subject.entry else 0}" not in cluster.policy.values:
        return made(allowed=False, why="its policy is not compiled yet")
    if set_id is None:
        return made(allowed=True, why=f"no policy selects it for {direction}")
    policies = cluster.policy.values.get(f"set.{set_id}")
    if not isinstance(policies, PolicySet):
        return made(allowed=False, why=f"its policy set {set_id} is not published")
    if peer.peer_class is None:
        return made(allowed=False, why="the peer's class is not known yet", policies=policies)
    row = policies.rows.get(peer.peer_class, policies.default)
    decided = _decided(row, protocol=protocol, port=port)
    if decided.rule is None and decided.action is Action.DENY:
        nearest = near_misses(policies, peer_class=peer.peer_class, protocol=protocol, port=port)
        return made(
            allowed=False,
            why=f"no {direction} rule of the policies that select it allows it",
            policies=policies,
            nearest=tuple(nearest)[:NEAREST],
        )
    allowed = decided.action in (Action.ALLOW, Action.AUDIT)
    return made(allowed=allowed, why=_WORDS[decided.action], policies=policies, rule=decided.rule)


_WORDS = {
    Action.ALLOW: "a rule allows it",
    Action.DENY: "a rule denies it",
    Action.AUDIT: "policy denies it but only audits",
    Action.REDIRECT: "a rule redirects it to a proxy, and there is none",
}


def _decided(row: Row, *, protocol: Protocol, port: int) -> PortRange:
    for found in row.ranges:
        if found.protocol == protocol and found.first <= port <= found.last:
            return found
    return PortRange(protocol=protocol, action=row.action, rule=row.rule)


def near_misses(
    policies: PolicySet, *, peer_class: ClassId, protocol: Protocol, port: int
) -> Iterator[NearMiss]:
    """Rules by how little of them is not met, with what that is."""
    mine = policies.rows.get(peer_class, policies.default)
    found: list[tuple[int, int, NearMiss]] = []
    for number in range(len(policies.rules)):
        everywhere = [
            item for row in (*policies.rows.values(), policies.default) for item in _of(row, number)
        ]
        here = list(_of(mine, number))
        misses = [] if here else ["peer"]
        ports = here or everywhere
        if ports and not any(item.protocol == protocol and item.first <= port <= item.last for item in ports):
            misses.append("port" if any(item.protocol == protocol for item in ports) else "protocol")
        if ports:
            rule = _rule(policies, number)
            found.append((len(misses), number, NearMiss(rule=rule, not_met=tuple(misses))))
    for _, _, miss in sorted(found, key=lambda item: item[:2]):
        yield miss


def _of(row: Row, number: int) -> Iterator[PortRange]:
    """What a rule decides in a row; all traffic as a range of every protocol."""
    yield from (item for item in row.ranges if item.rule == number)
    if row.rule == number:
        yield from (PortRange(protocol=protocol) for protocol in Protocol)


def _rule(policies: PolicySet, number: int) -> TraceRule:
    reference = policies.rules[number]
    policy = policies.policies[reference.policy]
    return TraceRule(kind=policy.kind, namespace=policy.namespace, name=policy.name, index=reference.index)


def rule_text(rule: TraceRule, direction: str) -> str:
    """``NetworkPolicy default/web spec.ingress[0]``."""
    return f"{rule.kind} {rule.namespace}/{rule.name} spec.{direction}[{rule.index}]"


def policy_trace(connection: Connection, *, source: str, destination: str, port: str, output: Format) -> int:
    """Print the trace; 1 when the connection is denied."""
    protocol, number = port_of(port)
    made = read_items(
        connection,
        lambda cluster: trace(
            cluster, source=source, destination=destination, protocol=protocol, port=number
        ),
    )
    if output is Format.JSON:
        say_json(made)
    else:
        _say_trace(made)
    return 0 if made.allowed else FAILED


def _say_trace(made: Trace) -> None:
    verdict = styled("allowed", "green") if made.allowed else styled("denied", "red")
    say(styled(f"{made.source} -> {made.destination} {made.port}: ").append(verdict))
    for step in made.steps:
        word = "allowed" if step.allowed else "denied"
        say(f"  {step.direction} of {step.subject}: {word}, {step.why}")
        if step.rule is not None:
            say(f"    by {rule_text(step.rule, step.direction)}")
        elif step.policies:
            names = ", ".join(f"{ref.kind} {ref.namespace}/{ref.name}" for ref in step.policies)
            say(f"    selected by {names}")
        for miss in step.nearest:
            what = " and ".join(miss.not_met)
            say(f"    nearest: {rule_text(miss.rule, step.direction)}, but for the {what}", style="dim")
    if not made.steps:
        say("  neither end is a pod: no policy is asked")
