"""Puts what the API server and NATS tell into the compiler, and remembers what was refused and why.

A snapshot replaces all of its kind. A policy that cannot be enforced as written is out of force from then
on, whole, and no other policy is touched. A record of a bucket that makes no sense is left out, and the last
one that did stays.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from ipaddress import ip_address, ip_network

from services.policy.compiler import Compiler
from services.policy.errors import PolicyRefused
from services.policy.networkpolicy import policy_ref, read_network_policy
from shared.bus import Batch
from shared.contract.base import Identity
from shared.contract.identity import IdentityRecord, IpEntry, NodeRecord
from shared.contract.names import ip_key
from shared.contract.node import Realised
from shared.contract.policy import PolicyRef
from shared.kubernetes import ObjectBatch, ObjectChange
from shared.labels import LabelFilter

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Refused:
    """A policy object that is out of force."""

    uid: str
    resource_version: str
    refusal: PolicyRefused


class Inputs:
    """Each ``take_`` method takes one batch."""

    def __init__(self, compiler: Compiler, *, selectable: LabelFilter) -> None:
        self.refused: dict[PolicyRef, Refused] = {}
        self.nodes: set[str] = set()
        """Keys of the nodes of the cluster."""
        self.realised: dict[str, int] = {}
        """Policy revision that each node's kernel holds, by the node's key."""
        self._compiler = compiler
        self._selectable = selectable
        self._ips: dict[str, str] = {}

    def take_policies(self, batch: ObjectBatch) -> None:
        """NetworkPolicies of all namespaces."""
        if batch.snapshot:
            present = {policy_ref(namespace=each.namespace, name=each.name) for each in batch.objects}
            for ref in (self._compiler.policies.keys() | self.refused.keys()) - present:
                self._forget(ref)
        for change in batch.objects:
            self._take_policy(change)

    def take_identities(self, batch: Batch[IdentityRecord]) -> None:
        """Bucket ``identities``."""
        if batch.snapshot:
            named = {entry.key for entry in batch.entries} | {error.key for error in batch.errors}
            self._compiler.keep_identities({Identity(int(key)) for key in named if key.isdigit()})
        for entry in batch.entries:
            if not entry.key.isdigit():
                continue
            identity = Identity(int(entry.key))
            if entry.value is None:
                self._compiler.remove_identity(identity)
            elif entry.value.id == identity:
                self._compiler.set_identity(entry.value)
            else:
                log.warning("identities %s: ignored, the record is of %d", entry.key, entry.value.id)

    def take_addresses(self, batch: Batch[IpEntry]) -> None:
        """Bucket ``ipcache``."""
        if batch.snapshot:
            named = {entry.key for entry in batch.entries} | {error.key for error in batch.errors}
            for key in self._ips.keys() - named:
                self._compiler.remove_address(self._ips.pop(key))
        for entry in batch.entries:
            if entry.value is None:
                if (ip := self._ips.pop(entry.key, None)) is not None:
                    self._compiler.remove_address(ip)
            elif _is_address(entry.value.ip) and ip_key(entry.value.ip) == entry.key:
                ip = self._ips[entry.key] = str(ip_address(entry.value.ip))
                self._compiler.set_address(ip, entry.value.identity)
            else:
                log.warning("ipcache %s: ignored, the record is of %r", entry.key, entry.value.ip)

    def take_nodes(self, batch: Batch[NodeRecord]) -> None:
        """Bucket ``nodes``."""
        if batch.snapshot:
            present = {entry.key for entry in batch.entries} | {error.key for error in batch.errors}
            for key in self.nodes - present:
                self._remove_node(key)
        for entry in batch.entries:
            if entry.value is None:
                self._remove_node(entry.key)
                continue
            self.nodes.add(entry.key)
            if all(map(_is_network, entry.value.pod_cidrs)):
                self._compiler.set_node(entry.key, entry.value.pod_cidrs)
            else:
                log.warning("nodes %s: pod CIDRs %s ignored", entry.key, ", ".join(entry.value.pod_cidrs))

    def take_realised(self, batch: Batch[Realised]) -> None:
        """Bucket ``realised``."""
        if batch.snapshot:
            self.realised.clear()
        for entry in batch.entries:
            if entry.value is None:
                self.realised.pop(entry.key, None)
            else:
                self.realised[entry.key] = entry.value.policy_revision

    def least_realised(self, *, known: int) -> int:
        """The least policy revision that every node of the cluster holds; 0 while no node is known.

        A revision beyond ``known``, the bucket's last, is of a bucket that was lost and says nothing.
        """
        held = (self.realised.get(node, 0) for node in self.nodes)
        return min((revision if revision <= known else 0 for revision in held), default=0)

    def _take_policy(self, change: ObjectChange) -> None:
        ref = policy_ref(namespace=change.namespace, name=change.name)
        if change.object is None:
            self._forget(ref)
            return
        try:
            policy = read_network_policy(
                change.object, namespace=change.namespace, name=change.name, selectable=self._selectable
            )
        except PolicyRefused as refusal:
            self._compiler.remove_policy(ref)
            metadata = change.object.get("metadata") or {}
            self.refused[ref] = Refused(
                uid=str(metadata.get("uid", "")),
                resource_version=change.resource_version,
                refusal=refusal,
            )
        else:
            self.refused.pop(ref, None)
            self._compiler.set_policy(policy)

    def _forget(self, ref: PolicyRef) -> None:
        self.refused.pop(ref, None)
        self._compiler.remove_policy(ref)

    def _remove_node(self, key: str) -> None:
        self.nodes.discard(key)
        self._compiler.set_node(key, ())


def _is_address(text: str) -> bool:
    try:
        ip_address(text)
    except ValueError:
        return False
    return True


def _is_network(text: str) -> bool:
    try:
        ip_network(text, strict=False)
    except ValueError:
        return False
    return True
