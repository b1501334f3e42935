"""`stentor policy list` and `policy show`: what became of each policy, and where it is in force."""

from __future__ import annotations

from typing import TYPE_CHECKING

from deploy.cli.cluster import Cluster
from deploy.cli.connection import Connection
from deploy.cli.errors import FAILED, Unmet
from deploy.cli.listings import read_items
from deploy.cli.output import Format, say, say_json, say_table, styled
from deploy.cli.shapes import PolicyDetail, PolicyItem, PolicyRule, PolicySubject
from shared.contract.base import ClassId, Identity, Protocol, SetId
from shared.contract.policy import (
    AddressClass,
    CidrClass,
    IdentityPolicy,
    PolicyRef,
    PolicySet,
    PolicyStatus,
    PortRange,
    Row,
)

if TYPE_CHECKING:
    from rich.text import Text

ANY_PORT = (0, 65535)


def realised_on(cluster: Cluster, *, revision: int) -> tuple[list[str], list[str]]:
    """Nodes whose kernel holds the revision, and nodes that do not yet."""
    records = cluster.realised_by_node()
    nodes = cluster.enforcing_nodes()
    done = [node for node in nodes if node in records and records[node].policy_revision >= revision]
    return done, [node for node in nodes if node not in done]


def version_in_force(status: PolicyStatus) -> str:
    """The version of the object that is enforced; empty when none is."""
    if status.in_force is not None:
        return status.in_force.resource_version
    return status.resource_version if status.accepted else ""


def kept(status: PolicyStatus) -> str:
    """What to add where a refusal is told: a refused edit withdraws nothing."""
    version = version_in_force(status)
    return f"; version {version} stays in force" if version and not status.accepted else ""


def policy_items(cluster: Cluster) -> list[PolicyItem]:
    """All policies, by kind, namespace and name."""
    statuses = sorted(cluster.policy_status.values.values(), key=lambda status: status.policy)
    return [_policy_item(cluster, status) for status in statuses]


def _policy_item(cluster: Cluster, status: PolicyStatus) -> PolicyItem:
    done, awaited = realised_on(cluster, revision=status.revision)
    return PolicyItem(
        kind=status.policy.kind,
        namespace=status.policy.namespace,
        name=status.policy.name,
        accepted=status.accepted,
        in_force=version_in_force(status),
        revision=status.revision,
        subjects=status.subjects,
        rules=status.rules,
        realised=len(done) if version_in_force(status) else 0,
        nodes=len(done) + len(awaited),
        errors=status.errors,
        problems=status.problems,
    )


def policy_detail(cluster: Cluster, *, namespace: str, name: str) -> PolicyDetail:
    """All that is known of one policy; raises :class:`Unmet` when the policy service knows none."""
    found = [
        status
        for status in cluster.policy_status.values.values()
        if (status.policy.namespace, status.policy.name) == (namespace, name)
    ]
    if not found:
        raise Unmet(
            f"policy {namespace}/{name}: the policy service knows none of this name; "
            "`stentor policy list` shows those it knows."
        )
    status = found[0]
    done, awaited = realised_on(cluster, revision=status.revision)
    return PolicyDetail(
        policy=_policy_item(cluster, status),
        resource_version=status.resource_version,
        realised_on=tuple(done if version_in_force(status) else ()),
        awaited_on=tuple(awaited if version_in_force(status) else ()),
        subjects=_subjects(cluster, status.policy),
        rules=_rules(cluster, status.policy),
    )


def _sets(cluster: Cluster, policy: PolicyRef) -> dict[SetId, PolicySet]:
    return {
        entry.id: entry
        for entry in cluster.policy.values.values()
        if isinstance(entry, PolicySet) and policy in entry.policies
    }


def _labels(cluster: Cluster, identity: Identity) -> tuple[str, ...]:
    record = cluster.identities.values.get(str(identity))
    return record.labels if record else ()


def _subjects(cluster: Cluster, policy: PolicyRef) -> tuple[PolicySubject, ...]:
    sets = _sets(cluster, policy)
    subjects = []
    for entry in cluster.policy.values.values():
        if not isinstance(entry, IdentityPolicy):
            continue
        mine = [sets[chosen] for chosen in (entry.ingress, entry.egress) if chosen in sets]
        if mine:
            subjects.append(
                PolicySubject(
                    identity=entry.identity,
                    labels=_labels(cluster, entry.identity),
                    directions=tuple(chosen.direction for chosen in mine),
                    policies=tuple(sorted({ref for chosen in mine for ref in chosen.policies})),
                )
            )
    return tuple(sorted(subjects, key=lambda subject: subject.identity))


def _rules(cluster: Cluster, policy: PolicyRef) -> tuple[PolicyRule, ...]:
    """The rows that this policy's rules decide, gathered by direction, rule, action and ports."""
    members = _members(cluster)
    gathered: dict[tuple[str, int, str, tuple[str, ...]], set[str]] = {}
    for policy_set in _sets(cluster, policy).values():
        rows: list[tuple[tuple[str, ...], Row]] = [
            (members.get(peer_class, ()), row) for peer_class, row in policy_set.rows.items()
        ]
        for peers, row in [*rows, (("all others",), policy_set.default)]:
            for (index, action), ports in _decided(policy_set, row, policy=policy).items():
                gathered.setdefault((policy_set.direction, index, action, ports), set()).update(peers)
    return tuple(
        PolicyRule(direction=direction, index=index, peers=tuple(sorted(peers)), ports=ports, action=action)
        for (direction, index, action, ports), peers in sorted(gathered.items())
        if peers
    )


def _decided(policy_set: PolicySet, row: Row, *, policy: PolicyRef) -> dict[tuple[int, str], tuple[str, ...]]:
    ports: dict[tuple[int, str], tuple[str, ...]] = {}
    whole = PortRange(protocol=Protocol.TCP, action=row.action, rule=row.rule)
    for found in (*row.ranges, whole):
        if found.rule is None:
            continue
        rule = policy_set.rules[found.rule]
        if policy_set.policies[rule.policy] == policy:
            key = (rule.index, str(found.action))
            ports[key] = (*ports.get(key, ()), "any" if found is whole else port_text(found))
    return ports


def _members(cluster: Cluster) -> dict[ClassId, tuple[str, ...]]:
    """What belongs to each peer class, as people name it."""
    members: dict[ClassId, tuple[str, ...]] = {}
    for entry in cluster.policy.values.values():
        match entry:
            case IdentityPolicy():
                text = ",".join(_labels(cluster, entry.identity)) or f"identity {entry.identity}"
            case CidrClass():
                text = entry.cidr
            case AddressClass():
                text = entry.ip
            case _:
                continue
        members[entry.peer_class] = (*members.get(entry.peer_class, ()), text)
    return members


def port_text(ports: PortRange) -> str:
    """``TCP 80``, ``UDP 5000-6000``, ``SCTP`` for all its ports."""
    if (ports.first, ports.last) == ANY_PORT:
        return str(ports.protocol)
    last = "" if ports.first == ports.last else f"-{ports.last}"
    return f"{ports.protocol} {ports.first}{last}"


def policy_list(connection: Connection, *, output: Format) -> int:
    """Print all policies."""
    items = read_items(connection, policy_items)
    if output is Format.JSON:
        say_json(items)
        return 0
    rows = [
        (
            item.kind,
            item.namespace or "-",
            item.name,
            _accepted(item),
            str(item.subjects),
            str(item.rules),
            str(item.revision),
            f"{item.realised} of {item.nodes}",
        )
        for item in items
    ]
    columns = ("KIND", "NAMESPACE", "NAME", "ACCEPTED", "SUBJECTS", "RULES", "REVISION", "REALISED")
    say_table(columns, rows, empty="no policy is known: every pod may talk to every other.")
    for item in items:
        for error in item.errors:
            say(f"{item.namespace}/{item.name}: {error.field}: {error.reason}; {error.remedy}", style="red")
        for problem in item.problems:
            say(f"{item.namespace}/{item.name}: {problem}", style="red")
    return 0


def _accepted(item: PolicyItem) -> Text:
    if item.accepted:
        return styled("yes", "green")
    return styled(f"refused, {item.in_force} in force" if item.in_force else "refused", "red")


def policy_show(connection: Connection, *, namespace: str, name: str, output: Format) -> int:
    """Print one policy; 1 when it was refused."""
    detail = read_items(connection, lambda cluster: policy_detail(cluster, namespace=namespace, name=name))
    if output is Format.JSON:
        say_json(detail)
    else:
        _say_detail(detail)
    return 0 if detail.policy.accepted else FAILED


def _say_detail(detail: PolicyDetail) -> None:
    item = detail.policy
    say(f"{item.kind} {item.namespace}/{item.name}", style="bold")
    if item.in_force:
        version = "" if item.accepted else f"version {item.in_force} stays "
        realised = f"realised on {item.realised} of {item.nodes} nodes"
        say(f"  {version}in force from revision {item.revision}, {realised}")
        if detail.awaited_on:
            say(f"  awaited on {', '.join(detail.awaited_on)}", style="yellow")
    for error in item.errors:
        say(f"  refused: {error.field}: {error.reason}; {error.remedy}", style="red")
    for problem in item.problems:
        say(f"  {problem}", style="red")
    say()
    say_table(
        ("SUBJECT", "DIRECTION", "LABELS"),
        [
            (str(subject.identity), ",".join(subject.directions), " ".join(subject.labels))
            for subject in detail.subjects
        ],
        empty="it selects no identity that exists now.",
    )
    say()
    say_table(
        ("DIRECTION", "RULE", "ACTION", "PORTS", "PEERS"),
        [
            (rule.direction, str(rule.index), rule.action, ", ".join(rule.ports), "; ".join(rule.peers))
            for rule in detail.rules
        ],
        empty="no rule of it matches a peer that exists now: it denies all that no other policy allows.",
    )
