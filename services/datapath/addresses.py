"""What the maps ``ipcache`` and ``cidrs`` are to hold: whose addresses are, and which classes they are in.

Like :mod:`services.datapath.desire`, of which it is a part, it touches no kernel: it calls ``want`` of the
mirrors. An address is not entered with an identity whose class is not known yet: a pod with new labels keeps
the identity that it had, of which commits go on telling the class; whoever is new at an address has nothing,
but see :meth:`Addresses.begin`. Nor is one entered outside the pods' addresses for which the commit's classes
hold.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from ipaddress import ip_address
from itertools import chain
from operator import attrgetter
from typing import TypeVar

from services.datapath.committed import Change, Committed
from services.datapath.desired import prefix_entries
from services.datapath.endpoints import LocalEndpoint
from services.datapath.kernel.layout import PEER, packed, unpacked
from services.datapath.kernel.state import KernelState
from services.datapath.space import Space
from shared.bus import Batch
from shared.contract.base import Message
from shared.contract.identity import IpEntry, NodeRecord
from shared.contract.policy import AddressClass, CidrClass, Commit, IdentityPolicy
from shared.contract.reserved import FIRST_ALLOCATED, Reserved

V = TypeVar("V", bound=Message)


class Addresses:
    """See the module."""

    def __init__(
        self,
        kernel: KernelState,
        *,
        node: str,
        policy: Committed[Message],
        local: Mapping[str, LocalEndpoint],
    ) -> None:
        """``policy`` is what is committed, ``local`` this node's pods; both belong to the caller."""
        self.nodes: dict[str, NodeRecord] = {}
        self.ipcache: dict[str, IpEntry] = {}
        self._kernel = kernel
        self._node = node
        self._policy = policy
        self._local = local
        self._host_addresses: frozenset[str] = frozenset()
        self._settled = False
        self._began = False
        self._doubted: set[str] = set()
        self._unclaimed = {
            unpacked(key, version=family.family.version)
            for family in kernel.families
            for key in family.ipcache.known()
        }
        self._own_classes: dict[str, AddressClass] = {}
        self._prefix_classes: dict[str, CidrClass] = {}
        self._space_cidrs: tuple[str, ...] | None = None
        self._space: Space | None = None
        self._withheld: dict[int, set[str]] = {}

    def waits(self, ip: str, identity: int) -> bool:
        """Whether an address is to have an identity whose class there is not known yet."""
        return ip in self._withheld.get(identity, ())

    @property
    def is_outdated(self) -> bool:
        """Some address still has an identity that the last commit knows no more, or not for long.

        What that identity has must not be taken away before this node hears of the address's next one.
        """
        return self._policy.spoken and any(map(self._is_left_behind, chain(*self._withheld.values())))

    def _is_left_behind(self, ip: str) -> bool:
        held = self._kernel.of(ip).ipcache.wanted(packed(ip))
        if held is None or ip in self._own_classes:
            return False
        policy = self._policy.values.get(f"identity.{PEER.unpack(held)[1]}")
        return not isinstance(policy, IdentityPolicy) or policy.gone

    def take_nodes(self, batch: Batch[NodeRecord]) -> None:
        """Follows bucket ``nodes``."""
        batch.merge_into(self.nodes)
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
            return after is None or owner(before) != owner(after)
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

    def set_own(self, addresses: Iterable[str]) -> None:
        """The addresses of this node's own interfaces: whatever the ipcache says, they are the host's.

        Unless they are of local pods: some clouds give a node the addresses of its pods, too.
        """
        before, self._host_addresses = self._host_addresses, frozenset(addresses)
        self._want_addresses(before | self._host_addresses)

    def _want_addresses(self, ips: Iterable[str]) -> None:
        for ip in ips:
            self._want_address(ip)

    def _want_address(self, ip: str) -> None:
        entry = self.ipcache.get(ip)
        own = ip in self._host_addresses and not any(ip in pod.ips for pod in self._local.values())
        if own or (entry is not None and entry.node == self._node and not entry.pod):
            if entry is not None:
                self._release(ip, entry.identity)
            self._want_identity(ip, Reserved.HOST)
            return
        if entry is None:
            if ip in self._unclaimed:
                self._keep(ip)
            else:
                self._want_identity(ip, None)
            return
        peer_class = self._class_at(ip, entry.identity)
        if peer_class is None:
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
        override = self._own_classes.get(ip)
        # What is no address of this node's any more is not let past policies as one.
        if identity == Reserved.HOST or self._is_outside(ip, identity):
            self._want_identity(ip, None)
        elif override is not None:
            # Perhaps of an identity that the commit knows already, and this node has not heard of.
            self._want_identity(ip, identity, peer_class=int(override.peer_class, 16))
        elif f"identity.{identity}" in self._policy.values:
            self._want_identity(ip, identity)

    def _class_at(self, ip: str, identity: int) -> int | None:
        """The class of an identity at an address, 0: as everywhere; None as long as it is not known."""
        if f"identity.{identity}" not in self._policy.values or self._is_outside(ip, identity):
            return None
        override = self._own_classes.get(ip)
        if override is None:
            return 0
        return int(override.peer_class, 16) if override.identity == identity else None

    def _is_outside(self, ip: str, identity: int) -> bool:
        """Whether an identity's own class does not hold at an address, as it has blocks that may lack it."""
        if self._space is None or identity < FIRST_ALLOCATED or ip in self._own_classes:
            return False
        return not self._space.holds(ip)

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
        if not self._policy.spoken:
            return
        pod_cidrs = {cidr for node in self.nodes.values() for cidr in node.pod_cidrs}
        if not self._settled or not self.nodes:
            pod_cidrs.update(self._held_pod_cidrs())
        wanted = prefix_entries(pod_cidrs, self._prefix_classes.values())
        for family in self._kernel.families:
            family.cidrs.want_exactly(wanted[family.family.version])

    def _held_pod_cidrs(self) -> Iterator[str]:
        for family in self._kernel.families:
            for key in family.cidrs.known():
                value = family.cidrs.get(key)
                if value is not None and PEER.unpack(value)[1] == Reserved.UNMANAGED:
                    length, address = family.family.prefix.unpack(key)
                    yield f"{unpacked(address, version=family.family.version)}/{length}"

    def take_commit(self, change: Change[Message], *, first: bool) -> None:
        """Follows commits of bucket ``policy``, of which ``first`` is the first."""
        is_new_space = self._take_space()
        touched = _take(change, AddressClass, into=self._own_classes, name=attrgetter("ip"))
        for value in change.put.values():
            if isinstance(value, IdentityPolicy):
                touched |= self._withheld.get(value.identity, set())
        if is_new_space:
            touched.update(self.ipcache)
        if is_new_space or first:
            touched |= self._unclaimed
        self._want_addresses(touched)
        if self.ipcache:
            self.begin()
        if _take(change, CidrClass, into=self._prefix_classes, name=attrgetter("cidr")) or first:
            self._want_cidrs()

    def _take_space(self) -> bool:
        """Before any address is judged by it; True when it is another one."""
        commit = self._policy.commit
        cidrs = commit.pod_space if isinstance(commit, Commit) else None
        if cidrs == self._space_cidrs:
            return False
        self._space_cidrs, self._space = cidrs, None if cidrs is None else Space(cidrs)
        return True


def _take(
    change: Change[Message], as_type: type[V], *, into: dict[str, V], name: Callable[[V], str]
) -> set[str]:
    """Takes over what a commit says of one kind; returns the names concerned."""
    gone = {name(value) for value in change.removed.values() if isinstance(value, as_type)}
    come = {name(value): value for value in change.put.values() if isinstance(value, as_type)}
    for each in gone:
        into.pop(each, None)
    into |= come
    return gone | come.keys()


def owner(entry: IpEntry) -> tuple[str, str, str]:
    """The node, and a pod's namespace and name."""
    return entry.node, entry.namespace, entry.pod


def _ip_of(key: str) -> str:
    parts = key.split("-")
    return ".".join(parts) if len(parts) == 4 else str(ip_address(":".join(parts)))
