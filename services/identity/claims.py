"""Whether a datapath's claim to pod addresses is believed. Pure.

A claim is a node's word, so it may speak only of pods that the API server bound to that node and of
addresses that the node was given: those in its podCIDRs, or without any those that are neither in another
node's nor a node's own (whether another pod has one, :mod:`services.identity.addresses` decides). What the
API server has not told yet is waited for, never guessed.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from ipaddress import ip_address
from typing import NamedTuple

from services.identity.addresses import is_assignable
from services.identity.objects import Node, Pod
from shared.contract.identity import Claim
from shared.contract.names import pod_key


class Standing(Enum):
    """What is to be done with a claim."""

    VALID = "valid"
    """Its addresses are the pod's."""
    PENDING = "pending"
    """An object it speaks of is not known yet, or no longer."""
    INVALID = "invalid"
    """It contradicts the API server and is ignored."""


class Judgement(NamedTuple):
    """A claim's standing; ``reason`` says why it is invalid, for people."""

    standing: Standing
    ips: tuple[str, ...] = ()
    """Canonical addresses of a valid claim."""
    reason: str = ""


PENDING = Judgement(Standing.PENDING)


def judge(
    claim: Claim, *, key: str, pod: Pod | None, node: Node | None, nodes: Iterable[Node] = ()
) -> Judgement:
    """The standing of the claim under ``key``; ``pod`` and ``node`` are those it names, None unknown.

    ``nodes`` are all there are.
    """
    if key != pod_key(node=claim.node, namespace=claim.namespace, pod=claim.pod):
        # The key's first token is what the node's NATS permissions vouch for, so the content must agree.
        return _invalid(f"it lies under the key {key}, which is another pod's or node's")
    try:
        addresses = tuple(ip_address(ip) for ip in claim.ips)
    except ValueError as error:
        return _invalid(str(error))
    for address in addresses:
        if not is_assignable(str(address)):
            return _invalid(f"{address} is no address a pod can have")
    if pod is None or not pod.node:
        return PENDING
    if pod.node != claim.node:
        return _invalid(f"node {claim.node} claims it, but the pod is bound to node {pod.node}")
    if claim.uid and claim.uid != pod.uid:
        return _invalid(f"it was made for the pod's uid {claim.uid}, but the pod is {pod.uid}")
    if pod.host_network:
        return _invalid("the pod uses the host's network")
    if node is None:
        return PENDING
    for address in addresses:
        if node.pod_cidrs and not any(address in cidr for cidr in node.pod_cidrs):
            cidrs = ", ".join(map(str, node.pod_cidrs))
            return _invalid(f"{address} is outside the podCIDRs of node {node.name} ({cidrs})")
        for other in () if node.pod_cidrs else nodes:
            if any(address in cidr for cidr in other.pod_cidrs):
                return _invalid(f"{address} is in the podCIDRs of node {other.name}")
            if str(address) in other.addresses:
                return _invalid(f"{address} is an address of node {other.name}")
    return Judgement(Standing.VALID, tuple(dict.fromkeys(map(str, addresses))))


def _invalid(reason: str) -> Judgement:
    return Judgement(Standing.INVALID, reason=reason)
