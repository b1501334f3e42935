"""Turns what the buckets say into what the kernel's maps are to hold, doing work for what changed only.

Nothing here touches the kernel: :class:`Desire` calls ``want`` of the mirrors, and somebody else applies.
Two joins keep packets from meeting half a truth: an address is not entered with an identity whose peer
class is not known yet (a pod with new labels keeps the identity that it had, of which commits go on telling
the class and the policy; whoever is new at an address has nothing, but see :meth:`Desire.begin`), nor outside
the pods' addresses for which the commit's classes hold; and an endpoint does not become ready before its
policy sets and its own address are known.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import ip_address
from itertools import chain

from services.datapath.committed import Change, Committed
from services.datapath.desired import prefix_entries
from services.datapath.endpoints import LocalEndpoint
from services.datapath.frontends import Frontends
from services.datapath.kernel.layout import (
    ENDPOINT,
    ENDPOINT_READY,
    PEER,
    SET_NOT_READY,
    U32,
    U64,
    packed,
    set_number,
    unpacked,
)
from services.datapath.kernel.state import FamilyState, KernelState
from services.datapath.setrows import SetRows, WhenFull
from services.datapath.space import Space
from shared.bus import Batch
from shared.contract.base import M, Message
from shared.contract.identity import EndpointRecord, IpEntry, NodeRecord
from shared.contract.names import pod_key
from shared.contract.node import UnfitSet
from shared.contract.policy import AddressClass, CidrClass, Commit, IdentityPolicy, PolicySet
from shared.contract.reserved import FIRST_ALLOCATED, Reserved


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
        self.nodes: dict[str, NodeRecord] = {}
        self.ipcache: dict[str, IpEntry] = {}
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
        self.services = Frontends(kernel, node=node, problems=self.problems)
        self._node = node
        self._kernel = kernel
        self._own_addresses: frozenset[str] = frozenset()
        self._settled = False
        self._began = False
        self._doubted: set[str] = set()
        self._unclaimed = {
            unpacked(key, version=family.family.version)
            for family in kernel.families
            for key in family.ipcache.known()
        }
        self._leaving: set[str] = set()
        self._address_classes: dict[str, AddressClass] = {}
        self._cidr_classes: dict[str, CidrClass] = {}
        self._pod_space: Space | None = None
        self._withheld: dict[int, set[str]] = {}
        self._when_full = when_full
        self._last_wanted: dict[FamilyState, dict[bytes, bytes]] = {}
        self._rows = SetRows(kernel.rows, published=self._published_set, when_full=when_full)

    @property
    def unfit_sets(self) -> tuple[UnfitSet, ...]:
        """The sets of local pods that do not fit into the kernel as they are published."""
        return tuple(unfit for _, unfit in sorted(self._rows.unfit.items()))

    @property
    def is_outdated(self) -> bool:
        """Some address still has an identity that the last commit knows no more, or not for long.

        What that identity has must not be taken away before this node hears of the address's next one.
        """
        return self.policy.spoken and any(map(self._is_left_behind, chain(*self._withheld.values())))

    def _is_left_behind(self, ip: str) -> bool:
        held = self._kernel.of(ip).ipcache.wanted(packed(ip))
        if held is None or ip in self._address_classes:
            return False
        policy = self.policy.values.get(f"identity.{PEER.unpack(held)[1]}")
        return not isinstance(policy, IdentityPolicy) or policy.gone

    # -- addresses ---------------------------------------------------------------------------------

    def take_nodes(self, batch: Batch[NodeRecord]) -> None:
        """Follows bucket ``nodes``."""
        _merge(self.nodes, batch)
        self._want_cidrs()

    def take_ipcache(self, batch: Batch[IpEntry]) -> None:
        """Follows bucket ``ipcache``."""
        touched = {_ip_of(entry.key) for entry in batch.entries}
        if batch.snapshot:
            touched |= self.ipcache.keys()
            kept = {_ip_of(error.key) for error in batch.errors}
            for ip in self.ipcache.keys() - kept:
                del self.ipcache[ip]
        for entry in batch.entries:
            ip, after = _ip_of(entry.key), entry.value
            before = self.ipcache.pop(ip, None)
            if before is not None:
                self._release(ip, before.identity)
            if after is not None:
                self.ipcache[ip] = after
            if self._passes_on(ip, before, after):
                # The class of who has it now may not be known yet, and the predecessor's is not theirs.
                if before is None and not self._began:
                    self._doubted.add(ip)
                else:
                    self._want_identity(ip, None)
        self._unclaimed -= touched
        self._want_addresses(touched)

    def _passes_on(self, ip: str, before: IpEntry | None, after: IpEntry | None) -> bool:
        """Whether an address has, or may have, another owner than the kernel knows."""
        if before is not None:
            return after is None or _owner(before) != _owner(after)
        held = self._kernel.of(ip).ipcache.get(packed(ip))
        return after is not None and held is not None and PEER.unpack(held)[1] != after.identity

    def begin(self) -> None:
        """What an earlier process left no longer stands for an address whose owner may have changed since.

        Until this call, or the first commit after the addresses were read, it does: a pod that got new
        labels meanwhile has an identity whose class comes with a commit, and would be cut off until then.
        """
        self._began = True
        doubted, self._doubted = self._doubted, set()
        for ip in doubted:
            self._want_identity(ip, None)
        self._want_addresses(doubted)

    def settle(self) -> None:
        """Lets go of what an earlier process left in the kernel and no bucket has spoken of since."""
        self._settled = True
        unclaimed, self._unclaimed = self._unclaimed, set()
        self._want_addresses(unclaimed)
        self._want_cidrs()

    def take_endpoints(self, batch: Batch[EndpointRecord]) -> None:
        """Follows this node's part of bucket ``endpoints``."""
        _merge(self.endpoints, batch)

    def set_own_addresses(self, addresses: Iterable[str]) -> None:
        """The addresses of this node's own interfaces: whatever the ipcache says, they are the host's.

        Unless they are of local pods: some clouds give a node the addresses of its pods, too.
        """
        before, self._own_addresses = self._own_addresses, frozenset(addresses)
        self._want_addresses(before | self._own_addresses)

    def _want_addresses(self, ips: Iterable[str]) -> None:
        for ip in ips:
            self._want_address(ip)

    def _want_address(self, ip: str) -> None:
        entry = self.ipcache.get(ip)
        own = ip in self._own_addresses and not any(ip in pod.ips for pod in self.local.values())
        if own or (entry is not None and entry.node == self._node and not entry.pod):
            if entry is not None:
                self._release(ip, entry.identity)
            self._want_identity(ip, Reserved.HOST)
            return
        if entry is None and ip not in self._unclaimed:
            self._want_identity(ip, None)
            return
        peer_class = None if entry is None else self._class_at(ip, entry.identity)
        if entry is None or peer_class is None:
            if entry is not None:
                self._withheld.setdefault(entry.identity, set()).add(ip)
            self._keep(ip)
            return
        self._release(ip, entry.identity)
        self._want_identity(ip, entry.identity, peer_class=peer_class)

    def _keep(self, ip: str) -> None:
        """The address stays with the identity that it has, of which a commit may make another class."""
        held = self._kernel.of(ip).ipcache.wanted(packed(ip))
        if held is None:
            return
        _, identity = PEER.unpack(held)
        override = self._address_classes.get(ip)
        # What is no address of this node's any more is not let past policies as one.
        if identity == Reserved.HOST or self._is_outside(ip, identity):
            self._want_identity(ip, None)
        elif override is not None:
            # Perhaps of an identity that the commit knows already, and this node has not heard of.
            self._want_identity(ip, identity, peer_class=int(override.peer_class, 16))
        elif f"identity.{identity}" in self.policy.values:
            self._want_identity(ip, identity)

    def _class_at(self, ip: str, identity: int) -> int | None:
        """The class of an identity at an address, 0: as everywhere; None as long as it is not known."""
        if f"identity.{identity}" not in self.policy.values or self._is_outside(ip, identity):
            return None
        override = self._address_classes.get(ip)
        if override is None:
            return 0
        return int(override.peer_class, 16) if override.identity == identity else None

    def _is_outside(self, ip: str, identity: int) -> bool:
        """Whether an identity's own class does not hold at an address, as it has blocks that may lack it."""
        known = self._pod_space is None or identity < FIRST_ALLOCATED or ip in self._address_classes
        return not known and not self._pod_space_holds(ip)

    def _pod_space_holds(self, ip: str) -> bool:
        return self._pod_space is None or self._pod_space.holds(ip)

    def _want_identity(self, ip: str, identity: int | None, *, peer_class: int = 0) -> None:
        value = None if identity is None else PEER.pack(peer_class, identity)
        self._kernel.of(ip).ipcache.want(packed(ip), value)

    def _release(self, ip: str, identity: int) -> None:
        """The address is no longer withheld for an identity whose class is unknown."""
        withheld = self._withheld.get(identity, set())
        withheld.discard(ip)
        if not withheld:
            self._withheld.pop(identity, None)

    def _want_cidrs(self) -> None:
        if not self.policy.spoken:
            return
        pod_cidrs = {cidr for node in self.nodes.values() for cidr in node.pod_cidrs}
        if not self._settled or not self.nodes:
            pod_cidrs.update(self._held_pod_cidrs())
        wanted = prefix_entries(pod_cidrs, self._cidr_classes.values())
        for family in self._kernel.families:
            family.cidrs.want_exactly(wanted[family.family.version])

    def _held_pod_cidrs(self) -> Iterator[str]:
        for family in self._kernel.families:
            for key in family.cidrs.known():
                value = family.cidrs.get(key)
                if value is not None and PEER.unpack(value)[1] == Reserved.UNMANAGED:
                    length, address = family.family.prefix.unpack(key)
                    yield f"{unpacked(address, version=family.family.version)}/{length}"

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
        is_new_space = self._take_pod_space()
        self._want_classes(change)
        self._want_address_classes(change)
        if is_new_space:
            self._want_addresses((*self.ipcache, *self._unclaimed))
        if self.ipcache:
            self.begin()
        if first:
            self._want_addresses(tuple(self._unclaimed))
        if self._take_cidr_classes(change) or first:
            self._want_cidrs()
        return True

    def _take_sets(self, change: Change[Message]) -> None:
        for set_id in self._leaving:
            if f"set.{set_id}" not in self.policy.values:
                self.sets.pop(set_id, None)
        self._leaving = {value.id for value in change.removed.values() if isinstance(value, PolicySet)}
        for value in change.put.values():
            if isinstance(value, PolicySet):
                self.sets[value.id] = value

    def _take_cidr_classes(self, change: Change[Message]) -> bool:
        gone = [value.cidr for value in change.removed.values() if isinstance(value, CidrClass)]
        come = {value.cidr: value for value in change.put.values() if isinstance(value, CidrClass)}
        for cidr in gone:
            self._cidr_classes.pop(cidr, None)
        self._cidr_classes |= come
        return bool(gone or come)

    def _take_pod_space(self) -> bool:
        """Before any address is judged by it; True when it is another one."""
        space = self.policy.commit.pod_space if isinstance(self.policy.commit, Commit) else None
        before, self._pod_space = self._pod_space, None if space is None else Space(space)
        return self._pod_space != before

    def _want_classes(self, change: Change[Message]) -> None:
        for value in change.removed.values():
            if isinstance(value, IdentityPolicy):
                self._kernel.classes.want(U32.pack(value.identity), None)
        for value in change.put.values():
            if isinstance(value, IdentityPolicy):
                self._kernel.classes.want(U32.pack(value.identity), U64.pack(int(value.peer_class, 16)))
                self._want_addresses(tuple(self._withheld.get(value.identity, ())))

    def _want_address_classes(self, change: Change[Message]) -> None:
        touched = set()
        for value in change.removed.values():
            if isinstance(value, AddressClass):
                self._address_classes.pop(value.ip, None)
                touched.add(value.ip)
        for value in change.put.values():
            if isinstance(value, AddressClass):
                self._address_classes[value.ip] = value
                touched.add(value.ip)
        self._want_addresses(touched)

    # -- local endpoints ---------------------------------------------------------------------------

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
            entry = self.ipcache.get(ip)
            owner = (self._node, endpoint.namespace, endpoint.pod)
            if entry is None or _owner(entry) != owner or entry.identity != record.identity:
                return Readiness(
                    reason=f"address {ip} of pod {endpoint.name} is not published in the ipcache: "
                    "the identity service has not taken in this node's claim"
                )
            if ip in self._withheld.get(record.identity, ()):
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


def _owner(entry: IpEntry) -> tuple[str, str, str]:
    return entry.node, entry.namespace, entry.pod


def _merge(into: dict[str, M], batch: Batch[M]) -> None:
    if batch.snapshot:
        kept = {error.key for error in batch.errors}
        for key in into.keys() - kept:
            del into[key]
    for entry in batch.entries:
        if entry.value is None:
            into.pop(entry.key, None)
        else:
            into[entry.key] = entry.value


def _ip_of(key: str) -> str:
    parts = key.split("-")
    return ".".join(parts) if len(parts) == 4 else str(ip_address(":".join(parts)))
