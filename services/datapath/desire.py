"""Turns what the buckets say into what the kernel's maps are to hold, doing work for what changed only.

Nothing here touches the kernel: :class:`Desire` calls ``want`` of the mirrors, and somebody else applies.
Two joins keep packets from meeting half a truth: that of addresses with classes
(:mod:`services.datapath.addresses`); and an endpoint does not become ready before its policy sets and its own
address are known, but keeps the identity that it had until then, and gets the policy of that.
"""

from __future__ import annotations

from dataclasses import dataclass

from services.datapath.addresses import Addresses, owner
from services.datapath.committed import Change, Committed
from services.datapath.endpoints import LocalEndpoint
from services.datapath.frontends import Frontends
from services.datapath.kernel.layout import (
    ENDPOINT,
    ENDPOINT_READY,
    SET_NOT_READY,
    U32,
    U64,
    packed,
    set_number,
)
from services.datapath.kernel.state import FamilyState, KernelState
from services.datapath.setrows import SetRows, WhenFull
from shared.bus import Batch
from shared.contract.base import Message
from shared.contract.identity import EndpointRecord
from shared.contract.names import pod_key
from shared.contract.node import UnfitSet
from shared.contract.policy import IdentityPolicy, PolicySet


@dataclass(frozen=True)
class Readiness:
    """Whether an endpoint's policy is known; if not, ``reason`` says what is missing and who gives it."""

    identity: int = 0
    ingress_set: int = SET_NOT_READY
    egress_set: int = SET_NOT_READY
    reason: str = ""


class Desire:
    """What this node's kernel is to hold."""

    def __init__(self, *, node: str, kernel: KernelState, when_full: WhenFull = WhenFull.CLOSED) -> None:
        self.endpoints: dict[str, EndpointRecord] = {}
        self.policy: Committed[Message] = Committed()
        self.local: dict[str, LocalEndpoint] = {}
        """Pods of this node, by the name of their host-side interface."""
        self.unknown_links: dict[str, int] = {}
        """Own links (name to ifindex) of pods of which nothing can be read any more: they keep the identity
        that the kernel has for them, and get the policy of that."""
        self.sets: dict[str, PolicySet] = {}
        """Policy sets by id; those that are gone stay until their last events have been told."""
        self.problems: dict[str, str] = {}
        """Sentences about what cannot be realised, by object."""
        self.addresses = Addresses(kernel, node=node, policy=self.policy, local=self.local)
        self.services = Frontends(kernel, node=node, problems=self.problems)
        self._node = node
        self._kernel = kernel
        self._leaving: set[str] = set()
        self._when_full = when_full
        self._last_wanted: dict[FamilyState, dict[bytes, bytes]] = {}
        self._rows = SetRows(kernel.rows, published=self._published_set, when_full=when_full)

    @property
    def unfit_sets(self) -> tuple[UnfitSet, ...]:
        """The sets of local pods that do not fit into the kernel as they are published."""
        return tuple(unfit for _, unfit in sorted(self._rows.unfit.items()))

    # -- policy ------------------------------------------------------------------------------------

    def take_policy(self, batch: Batch[Message]) -> bool:
        """Follows bucket ``policy``; True when a commit is to be applied."""
        first = not self.policy.spoken
        change = self.policy.take(batch)
        if change is None:
            return False
        if first:
            # What an earlier process left in the kernel is compared with the first commit as a whole.
            self._kernel.classes.want_exactly({})
        self._take_sets(change)
        self._want_classes(change)
        self.addresses.take_commit(change, first=first)
        return True

    def _take_sets(self, change: Change[Message]) -> None:
        for set_id in self._leaving:
            if f"set.{set_id}" not in self.policy.values:
                self.sets.pop(set_id, None)
        self._leaving = {value.id for value in change.removed.values() if isinstance(value, PolicySet)}
        for value in change.put.values():
            if isinstance(value, PolicySet):
                self.sets[value.id] = value

    def _want_classes(self, change: Change[Message]) -> None:
        for value in change.removed.values():
            if isinstance(value, IdentityPolicy):
                self._kernel.classes.want(U32.pack(value.identity), None)
        for value in change.put.values():
            if isinstance(value, IdentityPolicy):
                self._kernel.classes.want(U32.pack(value.identity), U64.pack(int(value.peer_class, 16)))

    # -- local endpoints ---------------------------------------------------------------------------

    def take_endpoints(self, batch: Batch[EndpointRecord]) -> None:
        """Follows this node's part of bucket ``endpoints``."""
        batch.merge_into(self.endpoints)

    def readiness(self, endpoint: LocalEndpoint) -> Readiness:
        """What is known of a local endpoint's policy."""
        record = self.endpoints.get(pod_key(node=self._node, namespace=endpoint.namespace, pod=endpoint.pod))
        if record is None or (endpoint.uid and record.uid != endpoint.uid):
            return Readiness(
                reason=f"the identity of pod {endpoint.name} is not published: is identity running, "
                f"and is the pod bound to node {self._node}?"
            )
        policy = self.policy.values.get(f"identity.{record.identity}")
        if not isinstance(policy, IdentityPolicy) or policy.gone:
            return Readiness(
                reason=f"the policy of identity {record.identity} (pod {endpoint.name}) is not published: "
                "is the policy service running?"
            )
        for set_id in (policy.ingress, policy.egress):
            if set_id is not None and f"set.{set_id}" not in self.policy.values:
                return Readiness(reason=f"policy set {set_id} of pod {endpoint.name} is not published")
        for ip in endpoint.ips:
            entry = self.addresses.ipcache.get(ip)
            mine = (self._node, endpoint.namespace, endpoint.pod)
            if entry is None or owner(entry) != mine or entry.identity != record.identity:
                return Readiness(
                    reason=f"address {ip} of pod {endpoint.name} is not published in the ipcache: "
                    "the identity service has not taken in this node's claim"
                )
            if self.addresses.waits(ip, record.identity):
                return Readiness(
                    reason=f"the class of address {ip} of pod {endpoint.name} is not published: "
                    "is the policy service running?"
                )
        return Readiness(
            identity=record.identity,
            ingress_set=set_number(policy.ingress),
            egress_set=set_number(policy.egress),
        )

    def want_local(self) -> None:
        """Wants endpoints for the local pods, and the rows of their sets.

        A pod whose policy is unknown keeps the identity that it had, and has the policy of that. Nothing is
        said of rows before the first commit.
        """
        wanted = {family: self._left_alone(family) for family in self._kernel.families}
        for endpoint in self.local.values():
            ready = self.readiness(endpoint)
            for ip in endpoint.ips:
                family, key = self._kernel.of(ip), packed(ip)
                value = ENDPOINT.pack(
                    ready.ingress_set,
                    ready.egress_set,
                    endpoint.host_ifindex,
                    ready.identity,
                    0 if ready.reason else ENDPOINT_READY,
                )
                if ready.reason:
                    kept = self._kept(ip, endpoint)
                    value = value if kept is None else self._with_sets(kept)
                wanted[family][key] = value
        if self.policy.spoken:
            self._want_rows(wanted)
        for family, entries in wanted.items():
            family.endpoints.want_exactly(entries)

    def _want_rows(self, wanted: dict[FamilyState, dict[bytes, bytes]]) -> None:
        """Wants the rows of the sets of ``wanted`` endpoints, and changes those that are to do without."""
        asked = {
            number
            for family in self._kernel.families
            for value in family.endpoints.values()
            for number in ENDPOINT.unpack(value)[:2]
        }
        self._rows.choose(_sets_of(wanted), asked=asked)
        if self._rows.unfit and self._when_full is WhenFull.KEEP:
            for family, entries in wanted.items():
                before = self._last_wanted.get(family, {})
                for key, value in entries.items():
                    # What this process wanted, for somebody else may have changed the kernel since.
                    entries[key] = self._kept_sets(value, held=before.get(key) or family.endpoints.get(key))
        self._rows.want(_sets_of(wanted), asked=asked)
        self._last_wanted = wanted

    def _kept_sets(self, value: bytes, *, held: bytes | None) -> bytes:
        """An endpoint with what it has in the kernel in place of sets that do not fit."""
        new, old = ENDPOINT.unpack(value), ENDPOINT.unpack(held or value)
        # Of another pod, which had this address before, nothing is kept.
        if old[2] != new[2]:
            return value
        unfit = self._rows.unfit
        kept = (before if after in unfit else after for after, before in zip(new[:2], old[:2], strict=True))
        return ENDPOINT.pack(*kept, *new[2:])

    @property
    def lingering(self) -> bool:
        """Once all is applied, there are rows that nobody asks for any more: to be looked at again."""
        return self._rows.lingering

    def in_kernel(self, endpoint: LocalEndpoint) -> bool:
        """The kernel is known to hold an entry of this endpoint."""
        return any(self._kept(ip, endpoint) for ip in endpoint.ips)

    def _published_set(self, number: int) -> PolicySet | None:
        value = self.policy.values.get(f"set.{number:016x}")
        return value if isinstance(value, PolicySet) else None

    def _left_alone(self, family: FamilyState) -> dict[bytes, bytes]:
        if not self.unknown_links:
            return {}
        left: dict[bytes, bytes] = {}
        links = set(self.unknown_links.values())
        for key in family.endpoints.known():
            value = family.endpoints.get(key)
            if value is None or ENDPOINT.unpack(value)[2] not in links:
                continue
            left[key] = self._with_sets(value)
        return left

    def _with_sets(self, held: bytes) -> bytes:
        """An endpoint with the sets that the last commit gives to the identity that it has."""
        _, _, ifindex, identity, flags = ENDPOINT.unpack(held)
        policy = self.policy.values.get(f"identity.{identity}")
        if not isinstance(policy, IdentityPolicy):
            return held
        return ENDPOINT.pack(set_number(policy.ingress), set_number(policy.egress), ifindex, identity, flags)

    def _kept(self, ip: str, endpoint: LocalEndpoint) -> bytes | None:
        held = self._kernel.of(ip).endpoints.get(packed(ip))
        if held is None or ENDPOINT.unpack(held)[2] != endpoint.host_ifindex:
            return None
        return held


def _sets_of(endpoints: dict[FamilyState, dict[bytes, bytes]]) -> set[int]:
    values = (value for entries in endpoints.values() for value in entries.values())
    return {number for value in values for number in ENDPOINT.unpack(value)[:2]}
