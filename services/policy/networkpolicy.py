"""The front end for ``networking.k8s.io/v1`` NetworkPolicy: object -> validated model, or a refusal.

A refused object is refused whole and touches no other. Rules of a direction that ``policyTypes`` leaves
out are read, so that their faults are told, and then not enforced.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from services.policy.errors import PolicyRefused
from services.policy.faults import Faults
from services.policy.model import (
    DirectionRules,
    LabelSelector,
    PodTerm,
    Policy,
    Rule,
    direction_rules,
    pod_selector,
)
from services.policy.peers import read_peers
from services.policy.ports import parts, read_ports
from services.policy.raw import RawEgressRule, RawIngressRule, RawNetworkPolicy, RawSpec
from services.policy.selectors import read_selector
from shared.contract.policy import MOST_RANGES, PolicyRef
from shared.labels import LabelFilter

KIND = "NetworkPolicy"
TIER = 0
_TYPES = frozenset(("Ingress", "Egress"))
_AT = re.compile(r"(?P<reason>.*) - at `\$\.?(?P<field>.*)`", re.DOTALL)


def policy_ref(*, namespace: str, name: str) -> PolicyRef:
    """The reference to a NetworkPolicy."""
    return PolicyRef(kind=KIND, namespace=namespace, name=name)


def read_network_policy(
    data: Mapping[str, Any], *, namespace: str, name: str, selectable: LabelFilter
) -> Policy:
    """A NetworkPolicy as the API server sends it; raises :class:`PolicyRefused` with every fault found."""
    ref = policy_ref(namespace=namespace, name=name)
    faults = Faults()
    try:
        raw = msgspec.convert(data, type=RawNetworkPolicy)
    except msgspec.ValidationError as error:
        _structural(str(error), faults=faults)
        raise PolicyRefused(policy=ref, errors=faults.errors) from error
    spec = raw.spec or RawSpec()
    pods = LabelSelector()
    if spec.pod_selector is not None:
        pods = read_selector(spec.pod_selector, path="spec.podSelector", faults=faults, selectable=selectable)
    ingress = _read_rules(spec.ingress, side="ingress", ref=ref, faults=faults, selectable=selectable)
    egress = _read_rules(spec.egress, side="egress", ref=ref, faults=faults, selectable=selectable)
    types = _read_types(spec, faults=faults)
    if faults.errors:
        raise PolicyRefused(policy=ref, errors=faults.errors)
    return Policy(
        ref=ref,
        uid=raw.metadata.uid,
        resource_version=raw.metadata.resource_version,
        tier=TIER,
        subject=pod_selector(PodTerm(namespace=namespace, pods=pods)),
        ingress=ingress if "Ingress" in types else None,
        egress=egress if "Egress" in types else None,
        spec=data.get("spec") or {},
    )


def _read_rules(
    raw: Sequence[RawIngressRule | RawEgressRule] | None,
    *,
    side: str,
    ref: PolicyRef,
    faults: Faults,
    selectable: LabelFilter,
) -> DirectionRules:
    word = "from" if side == "ingress" else "to"
    rules: list[Rule] = []
    for index, item in enumerate(raw or ()):
        path = f"spec.{side}[{index}]"
        peers = read_peers(
            item.peers, path=f"{path}.{word}", namespace=ref.namespace, faults=faults, selectable=selectable
        )
        ports = read_ports(item.ports, path=f"{path}.ports", faults=faults)
        rules.append(Rule(index=index, peers=peers, ports=ports.ranges, names=ports.names))
    ranges = parts(port for rule in rules for port in rule.ports or ())
    # A name may divide a range.
    ranges += 2 * len({name for rule in rules for name in rule.names})
    if ranges > MOST_RANGES:
        faults.add(
            f"spec.{side}",
            f"its rules divide the ports into {ranges} ranges, and nodes have room for {MOST_RANGES}",
            remedy="name fewer ports, or wider ranges",
        )
    return direction_rules(tuple(rules), ref=ref, tier=TIER)


def _read_types(spec: RawSpec, *, faults: Faults) -> frozenset[str]:
    if not spec.policy_types:
        # As the API server defaults it: always Ingress, and Egress when there are egress rules.
        return frozenset(("Ingress", "Egress")) if spec.egress else frozenset(("Ingress",))
    for index, item in enumerate(spec.policy_types):
        if item not in _TYPES:
            faults.add(f"spec.policyTypes[{index}]", f"{item!r} is unknown", remedy="use Ingress or Egress")
    return frozenset(spec.policy_types)


def _structural(text: str, *, faults: Faults) -> None:
    match = _AT.fullmatch(text)
    field, reason = (match["field"], match["reason"]) if match else ("", text)
    faults.add(
        field or "(object)", reason, remedy="write the field as networking.k8s.io/v1 NetworkPolicy defines it"
    )
