"""Puts what the API server and NATS tell into the compiler, and remembers what was refused and why.

A snapshot replaces all of its kind. A policy object is taken whole or not at all, and no other policy is
touched. One that cannot be enforced as written leaves its last accepted version in force, if the same object
(by its uid) had one; that version is in the object's status, so it outlives this process. A record of a
bucket that makes no sense is left out, and the last one that did stays.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass, replace
from ipaddress import ip_address, ip_network

from services.policy.compiler import Compiler
from services.policy.errors import HashCollision, PolicyRefused
from services.policy.model import Policy
from services.policy.networkpolicy import policy_ref, read_network_policy
from shared.bus import Batch
from shared.contract.base import Identity
from shared.contract.identity import IdentityRecord, IpEntry, LabelRules, NodeRecord
from shared.contract.names import LABELS_KEY, ip_key
from shared.contract.node import Realised, UnfitSet
from shared.contract.policy import FieldError, PolicyRef, PolicyStatus
from shared.kubernetes import Object, ObjectBatch
from shared.labels import LabelFilter
from shared.runtime.intake import Changes, Entries

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Refused:
    """The version of a policy object that is not enforced, and why."""

    policy: PolicyRef
    uid: str
    resource_version: str
    errors: tuple[FieldError, ...]
    unfit: tuple[str, ...] = ()
    """Earlier versions that cannot be enforced either."""


class Inputs:
    """Each ``take_`` method takes one batch."""

    def __init__(self, compiler: Compiler, *, selectable: LabelFilter) -> None:
        self.refused: dict[PolicyRef, Refused] = {}
        """To be changed by this class alone."""
        self.nodes: set[str] = set()
        """Keys of the nodes of the cluster."""
        self.realised: dict[str, int] = {}
        """Policy revision that each node's kernel holds, by the node's key."""
        self._compiler = compiler
        self._selectable = selectable
        self._policies = Changes(lambda change: policy_ref(namespace=change.namespace, name=change.name))
        self._identities: Entries[IdentityRecord] = Entries()
        self._addresses: Entries[IpEntry] = Entries()
        self._nodes: Entries[NodeRecord] = Entries()
        self._settings: Entries[LabelRules] = Entries()
        self._realised: Entries[Realised] = Entries()
        self._ips: dict[str, str] = {}
        self._identity_has_spoken = False
        self._rules: LabelRules | None = None
        self._touched: set[PolicyRef] = set()
        self._unfit: dict[str, tuple[UnfitSet, ...]] = {}

    @property
    def objection(self) -> str:
        """Why nothing may be published at all, as a sentence; empty when it may."""
        if not self._identity_has_spoken:
            return "no node is published yet, and nodes are what the identity service publishes last"
        if self._rules is None:
            return "the identity service has not published which labels it leaves out"
        theirs, ours = set(self._rules.excluded), set(self._selectable.excluded)
        if theirs != ours:
            differing = ", ".join(sorted(theirs ^ ours))
            return (
                "the identity service leaves other labels out of identities than this one assumes "
                f"({differing}): start both with the same --exclude-label and --default-exclusions"
            )
        return ""

    # ---- policies

    def take_touched(self) -> set[PolicyRef]:
        """The policies of which something that their status tells may have changed since the last call."""
        touched, self._touched = self._touched, set()
        return touched | self._compiler.take_touched()

    def take_policies(self, batch: ObjectBatch) -> None:
        """NetworkPolicies of all namespaces."""
        for ref, object in self._policies.of(batch):
            self._touched.add(ref)
            if object is None:
                self.refused.pop(ref, None)
                self._compiler.remove_policy(ref)
            else:
                self._take_policy(ref, object)

    def restore(self, status_of: Callable[[PolicyRef], PolicyStatus | None]) -> None:
        """Put in force what the statuses say of refused objects, where it is later than what is known here.

        That is so after a restart, and when another replica has seen a version that this one has missed.
        """
        for ref, refused in self.refused.items():
            status = status_of(ref)
            if status is None or status.in_force is None or status.uid != refused.uid:
                continue
            accepted, known = status.in_force, self._compiler.policies.get(ref)
            if accepted.resource_version in (refused.resource_version, *refused.unfit):
                continue
            if known is not None and _age(known.resource_version) >= _age(accepted.resource_version):
                continue
            metadata = {"namespace": ref.namespace, "name": ref.name, "uid": status.uid}
            metadata["resourceVersion"] = accepted.resource_version
            try:
                self._compiler.set_policy(self._read(ref, {"metadata": metadata, "spec": accepted.spec}))
            except (PolicyRefused, HashCollision) as error:
                log.debug("the last accepted version cannot be enforced any more: %s", error)

    def resolve(self, collision: HashCollision) -> None:
        """Refuse, of the policies that brought a collision, the one that was written last.

        All replicas refuse the same one. Raises the collision when there is none to refuse.
        """
        last = self._written_last(collision)
        if last is None:
            raise collision
        self._compiler.remove_policy(last.ref)
        self._touched.add(last.ref)
        known = self.refused.get(last.ref)
        if known is None:
            self.refused[last.ref] = Refused(
                last.ref, last.uid, last.resource_version, (_collided(collision),)
            )
        else:
            self.refused[last.ref] = replace(known, unfit=(*known.unfit, last.resource_version))

    def _take_policy(self, ref: PolicyRef, object: Object) -> None:
        metadata = object.get("metadata") or {}
        uid = str(metadata.get("uid", ""))
        try:
            self._enforce(self._read(ref, object))
        except PolicyRefused as refusal:
            version = str(metadata.get("resourceVersion", ""))
            self.refused[ref] = Refused(ref, uid, version, refusal.errors)
            known = self._compiler.policies.get(ref)
            if known is not None and known.uid != uid:
                # What was accepted was another object of this name.
                self._compiler.remove_policy(ref)
        else:
            self.refused.pop(ref, None)

    def _read(self, ref: PolicyRef, object: Object) -> Policy:
        return read_network_policy(
            object, namespace=ref.namespace, name=ref.name, selectable=self._selectable
        )

    def _enforce(self, policy: Policy) -> None:
        while True:
            try:
                self._compiler.set_policy(policy)
            except HashCollision as collision:
                last = self._written_last(collision)
                if last is None or _order(last) < _order(policy) or last.ref == policy.ref:
                    raise PolicyRefused(policy=policy.ref, errors=(_collided(collision),)) from collision
                self.resolve(collision)
            else:
                return

    def _written_last(self, collision: HashCollision) -> Policy | None:
        return max(self._compiler.involved(collision), key=_order, default=None)

    # ---- buckets

    def take_identities(self, batch: Batch[IdentityRecord]) -> None:
        """Bucket ``identities``."""
        for entry in self._identities.of(batch):
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
        for entry in self._addresses.of(batch):
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
        for entry in self._nodes.of(batch):
            if entry.value is None:
                self.nodes.discard(entry.key)
                self._compiler.set_node(entry.key, ())
                continue
            self.nodes.add(entry.key)
            self._identity_has_spoken = True
            if all(map(_is_network, entry.value.pod_cidrs)):
                self._compiler.set_node(entry.key, entry.value.pod_cidrs)
            else:
                log.warning("nodes %s: pod CIDRs %s ignored", entry.key, ", ".join(entry.value.pod_cidrs))

    def take_settings(self, batch: Batch[LabelRules]) -> None:
        """Bucket ``settings``."""
        for entry in self._settings.of(batch):
            if entry.key == LABELS_KEY:
                self._rules = entry.value

    def take_realised(self, batch: Batch[Realised]) -> None:
        """Bucket ``realised``."""
        for entry in self._realised.of(batch):
            if entry.value is None:
                self.realised.pop(entry.key, None)
                self._take_unfit(entry.key, ())
            else:
                self.realised[entry.key] = entry.value.policy_revision
                self._take_unfit(entry.key, entry.value.unfit_sets)

    def problems(self, ref: PolicyRef) -> tuple[str, ...]:
        """What nodes say of a policy for which they have no room."""
        return tuple(
            sorted(
                {
                    f"node {node}: {unfit.reason}"
                    for node, sets in self._unfit.items()
                    for unfit in sets
                    if ref in unfit.policies
                }
            )
        )

    def _take_unfit(self, node: str, sets: tuple[UnfitSet, ...]) -> None:
        known = self._unfit.pop(node, ())
        if sets:
            self._unfit[node] = sets
        if sets != known:
            self._touched.update(ref for unfit in (*known, *sets) for ref in unfit.policies)

    def least_realised(self, *, known: int) -> int:
        """The least policy revision that every node of the cluster holds; 0 while no node is known.

        A revision beyond ``known``, the bucket's last, is of a bucket that was lost and says nothing.
        """
        held = (self.realised.get(node, 0) for node in self.nodes)
        return min((revision if revision <= known else 0 for revision in held), default=0)


def _age(version: str) -> int:
    """A resourceVersion to compare with others of its object; 0 for one that cannot be compared."""
    return int(version) if version.isdigit() else 0


def _order(policy: Policy) -> tuple[int, PolicyRef]:
    return _age(policy.resource_version), policy.ref


def _collided(collision: HashCollision) -> FieldError:
    return FieldError(
        field="spec",
        reason=f"a {collision.what} that it leads to has the id {collision.id}, as a different one has",
        remedy="change its selectors, its rules or its name in any way",
    )


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
