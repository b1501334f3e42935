"""The desired state: from policies, identities and addresses to classes and sets.

Pure and deterministic: the result depends on the inputs of the moment, not on their order. Every input
marks what it touches; :meth:`Compiler.refresh` brings the result up to date for that and reports the keys
of the ``policy`` bucket whose desired value changed. Nothing here knows what is published.

Reserved identities have a class like others, though no pod selector matches them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from typing import NamedTuple

from services.policy.blocks import Blocks, Prefix
from services.policy.errors import HashCollision
from services.policy.ids import NO_SELECTOR, Element, Signature
from services.policy.labels import LabelIndex, Labels, labels_of
from services.policy.matcher import Matcher
from services.policy.model import BlockSelector, PeerSelector, Policy
from services.policy.names import CalledNames, Numbers, bound, called
from services.policy.podspace import PodSpace
from services.policy.sets import CompiledSet, SetTable
from shared.contract.base import Direction, Identity, SetId
from shared.contract.identity import IdentityRecord
from shared.contract.names import cidr_key, ip_key
from shared.contract.policy import PolicyRef
from shared.contract.reserved import FIRST_ALLOCATED, Reserved
from shared.index import discard


class IdentityState(NamedTuple):
    """Desired value of ``identity.<number>``."""

    signature: Signature
    ingress: SetId | None
    egress: SetId | None


class AddressState(NamedTuple):
    """Desired value of ``address.<ip>``."""

    ip: str
    identity: Identity
    signature: Signature


class PrefixState(NamedTuple):
    """Desired value of ``cidr.<prefix>``."""

    cidr: str
    signature: Signature


@dataclass(frozen=True, slots=True)
class _Address:
    identity: Identity
    place: Prefix


def identity_key(identity: int) -> str:
    """Key of an identity in the bucket ``policy``."""
    return f"identity.{identity}"


def address_key(ip: str) -> str:
    """Key of an address in the bucket ``policy``."""
    return f"address.{ip_key(ip)}"


def prefix_key(cidr: str) -> str:
    """Key of a prefix in the bucket ``policy``."""
    return f"cidr.{cidr_key(cidr)}"


class Compiler:
    """Holds the inputs and the desired state. Not for use from several threads."""

    def __init__(self) -> None:
        self.identities: dict[str, IdentityState] = {}
        self.addresses: dict[str, AddressState] = {}
        self.prefixes: dict[str, PrefixState] = {}
        self._policies: dict[PolicyRef, Policy] = {}
        self._index = LabelIndex()
        self._peers = Matcher(self._index, what="peer selector")
        self._subjects = Matcher(self._index, what="subject selector")
        self._policies_of: defaultdict[Element, set[PolicyRef]] = defaultdict(set)
        self._names = CalledNames()
        self._blocks = Blocks()
        self._space = PodSpace()
        self._everywhere: Signature = NO_SELECTOR
        self._everywhere_of: frozenset[Prefix] = frozenset()
        self._sets = SetTable()
        self._known: dict[Identity, IdentityRecord] = {}
        self._addresses: dict[str, _Address] = {}
        self._addresses_of: defaultdict[Identity, set[str]] = defaultdict(set)
        self._dirty_identities: set[Identity] = {
            Identity(number) for number in Reserved if number is not Reserved.UNKNOWN
        }
        self._dirty_addresses: set[str] = set()
        self._blocks_changed = False
        self._space_changed = False
        self._changed: set[str] = set()
        self._touched: set[PolicyRef] = set()

    @property
    def sets(self) -> dict[SetId, CompiledSet]:
        """Sets that identities have; not to be changed."""
        return self._sets.sets

    def sets_asking(self, elements: Collection[Element]) -> set[SetId]:
        """The sets to which some of the elements make a difference."""
        return self._sets.asking(elements)

    @property
    def policies(self) -> dict[PolicyRef, Policy]:
        """Accepted policies; not to be changed."""
        return self._policies

    @property
    def pod_space(self) -> tuple[str, ...] | None:
        """The pods' addresses for which identities' signatures hold; None when that is any."""
        return tuple(sorted(prefix.text for prefix in self._everywhere_of)) if self._everywhere else None

    def take_touched(self) -> set[PolicyRef]:
        """Policies that came, went, changed or may select others than before, since the last call."""
        touched, self._touched = self._touched, set()
        return touched

    def subjects(self, policy: Policy) -> int:
        """How many identities a policy in force selects."""
        return len(self._subjects.members(policy.subject.id))

    def is_live(self, element: Element) -> bool:
        """Whether a peer selector belongs to a policy in force."""
        return element in self._peers or element in self._blocks or self._names.is_live(element)

    def involved(self, collision: HashCollision) -> list[Policy]:
        """The policies in force of which one less may undo the collision."""
        return [
            policy
            for policy in self._policies.values()
            if policy.ref in collision.policies
            or policy.subject.id in collision.elements
            or any(peer.id in collision.elements for peer in _peers_of(policy))
            or not bound(map(Element, collision.elements)).keys().isdisjoint(called(policy))
        ]

    def set_policy(self, policy: Policy) -> None:
        """Put a policy in force, in place of the one with the same reference.

        Raises :class:`HashCollision`, and nothing has changed then.
        """
        old = self._policies.get(policy.ref)
        if old == policy:
            return
        self._check(policy)
        self._policies[policy.ref] = policy
        self._touched.add(policy.ref)
        for selector in _peers_of(policy):
            self._acquire(selector)
        self._dirty_identities |= self._names.acquire(policy)
        self._subjects.acquire(policy.subject)
        if old is not None:
            self._withdraw(old)
        self._policies_of[policy.subject.id].add(policy.ref)
        self._dirty_identities |= self._subjects.members(policy.subject.id)

    def remove_policy(self, ref: PolicyRef) -> None:
        """Take a policy out of force; nothing happens if it is not."""
        old = self._policies.pop(ref, None)
        if old is not None:
            self._touched.add(ref)
            self._withdraw(old)

    def set_identity(self, record: IdentityRecord) -> None:
        """An identity exists."""
        if record.id < FIRST_ALLOCATED or self._known.get(record.id) == record:
            return
        self.remove_identity(record.id)
        self._known[record.id] = record
        labels = labels_of(record)
        self._index.add(record.id, labels)
        self._peers.add(record.id, labels)
        self._subjects.add(record.id, labels)
        self._names.add(record)
        self._dirty_identities.add(record.id)
        self._touch_policies_of(record.id)

    def remove_identity(self, identity: Identity) -> None:
        """An identity does not exist; nothing happens if it is not known."""
        if self._known.pop(identity, None) is not None:
            self._touch_policies_of(identity)
            self._index.remove(identity)
            self._peers.remove(identity)
            self._subjects.remove(identity)
            self._names.remove(identity)
            self._dirty_identities.add(identity)

    def _touch_policies_of(self, identity: Identity) -> None:
        for id in self._subjects.signature(identity):
            self._touched |= self._policies_of[id]

    def set_address(self, ip: str, identity: Identity) -> None:
        """An address of the ipcache."""
        old = self._addresses.get(ip)
        if old is not None and old.identity == identity:
            return
        self.remove_address(ip)
        place = Prefix.of_ip(ip)
        self._addresses[ip] = _Address(identity, place)
        self._addresses_of[identity].add(ip)
        self._dirty_addresses.add(ip)
        if identity >= FIRST_ALLOCATED:
            self._space.add(place)
            self._space_changed = True

    def remove_address(self, ip: str) -> None:
        """An address is not in the ipcache; nothing happens if it is not known."""
        old = self._addresses.pop(ip, None)
        if old is not None:
            discard(self._addresses_of, old.identity, ip)
            self._dirty_addresses.add(ip)
            if old.identity >= FIRST_ALLOCATED:
                self._space.discard(old.place)
                self._space_changed = True

    def set_node(self, node: str, pod_cidrs: Iterable[str]) -> None:
        """A node's pod CIDRs; none when it is gone."""
        self._space.set_node(node, pod_cidrs)
        self._space_changed = True

    def labels(self, identity: Identity) -> Labels | None:
        """The labels of an identity, None when it is not known or reserved."""
        return self._index.labels.get(identity)

    def numbers(self, identity: Identity) -> Numbers:
        """The named ports of an identity."""
        return self._names.numbers(identity)

    @property
    def space(self) -> frozenset[Prefix]:
        """The pods' addresses."""
        return self._space.prefixes

    def identity_at(self, ip: str) -> Identity | None:
        """The identity that the ipcache gives an address, if it holds it."""
        address = self._addresses.get(ip)
        return None if address is None else address.identity

    def address_signature(self, ip: str, identity: Identity) -> Signature | None:
        """The signature of an address, None when the ipcache does not give it to this identity."""
        address = self._addresses.get(ip)
        if address is None or address.identity != identity:
            return None
        return self._signature(identity) | self._blocks.matching(address.place)

    def prefix_signature(self, cidr: str) -> Signature:
        """The signature of the addresses of a prefix outside the ipcache."""
        return self._blocks.matching(Prefix.of_cidr(cidr))

    def refresh(self) -> set[str]:
        """Bring the desired state up to date; returns, once, the keys whose desired value changed.

        Raises :class:`HashCollision`; what was done until then counts, and the next one goes on from there.
        """
        if self._space_changed or self._blocks_changed:
            self._refresh_everywhere()
        if self._blocks_changed:
            self._refresh_prefixes()
            self._dirty_addresses.update(self._addresses)
        self._blocks_changed = self._space_changed = False
        self._refresh_identities()
        self._refresh_addresses()
        changed, self._changed = self._changed, set()
        return changed

    def _check(self, policy: Policy) -> None:
        terms: dict[Element, object] = {}
        for selector in _peers_of(policy):
            if terms.setdefault(selector.id, selector.term) != selector.term:
                raise HashCollision(what="peer selector", id=selector.id)
            if isinstance(selector, BlockSelector):
                self._blocks.check(selector)
            else:
                self._peers.check(selector)
        self._subjects.check(policy.subject)

    def _acquire(self, selector: PeerSelector) -> None:
        if isinstance(selector, BlockSelector):
            self._blocks_changed |= self._blocks.acquire(selector)
        else:
            self._dirty_identities |= self._peers.acquire(selector)

    def _withdraw(self, policy: Policy) -> None:
        self._dirty_identities |= self._subjects.members(policy.subject.id)
        self._subjects.release(policy.subject)
        self._dirty_identities |= self._names.release(policy)
        discard(self._policies_of, policy.subject.id, policy.ref)
        for selector in _peers_of(policy):
            if isinstance(selector, BlockSelector):
                self._blocks_changed |= self._blocks.release(selector)
            else:
                self._dirty_identities |= self._peers.release(selector)

    def _refresh_everywhere(self) -> None:
        space = self._space.prefixes
        if space == self._everywhere_of and not self._blocks_changed:
            return
        self._everywhere_of = space
        everywhere = self._blocks.covering(space)
        if everywhere != self._everywhere:
            self._everywhere = everywhere
            self._dirty_identities.update(self._known)

    def _refresh_prefixes(self) -> None:
        desired = {
            prefix_key(cidr): PrefixState(cidr, signature) for cidr, signature in self._blocks.prefixes()
        }
        self._changed |= {key for key, state in desired.items() if self.prefixes.get(key) != state}
        self._changed |= self.prefixes.keys() - desired.keys()
        self.prefixes = desired

    def _refresh_identities(self) -> None:
        found: dict[tuple[Signature, Direction], tuple[Policy, ...]] = {}
        while self._dirty_identities:
            identity = self._dirty_identities.pop()
            key = identity_key(identity)
            old = self.identities.get(key)
            try:
                state = self._identity_state(identity, found)
            except HashCollision:
                self._dirty_identities.add(identity)
                raise
            if old is not None:
                for id in (old.ingress, old.egress):
                    if id is not None:
                        self._sets.release(id)
            if state == old:
                continue
            self._changed.add(key)
            if state is None:
                del self.identities[key]
            else:
                self.identities[key] = state
            if old is None or state is None or old.signature != state.signature:
                self._dirty_addresses |= self._addresses_of.get(identity, set())

    def _identity_state(
        self, identity: Identity, found: dict[tuple[Signature, Direction], tuple[Policy, ...]]
    ) -> IdentityState | None:
        if identity < FIRST_ALLOCATED:
            return IdentityState(NO_SELECTOR, None, None)
        if identity not in self._known:
            return None
        selected_by = self._subjects.signature(identity)
        sets: dict[Direction, SetId] = {}
        for direction in (Direction.INGRESS, Direction.EGRESS):
            policies = found.get((selected_by, direction))
            if policies is None:
                policies = tuple(self._governing(selected_by, direction=direction))
                found[selected_by, direction] = policies
            if not policies:
                continue
            try:
                numbers = self._names.numbers(identity)
                sets[direction] = self._sets.acquire(policies, direction=direction, numbers=numbers)
            except HashCollision:
                for id in sets.values():
                    self._sets.release(id)
                raise
        return IdentityState(
            self._signature(identity) | self._everywhere,
            sets.get(Direction.INGRESS),
            sets.get(Direction.EGRESS),
        )

    def _signature(self, identity: Identity) -> Signature:
        """Without what follows from its addresses."""
        return self._peers.signature(identity) | self._names.signature(identity)

    def _governing(self, selected_by: Signature, *, direction: Direction) -> list[Policy]:
        refs = {ref for id in selected_by for ref in self._policies_of[id]}
        policies = (self._policies[ref] for ref in sorted(refs))
        return [policy for policy in policies if policy.governing(direction) is not None]

    def _refresh_addresses(self) -> None:
        dirty, self._dirty_addresses = self._dirty_addresses, set()
        if not len(self._blocks) and not self.addresses:
            return
        for ip in dirty:
            key = address_key(ip)
            state = self._address_state(ip)
            if state == self.addresses.get(key):
                continue
            self._changed.add(key)
            if state is None:
                del self.addresses[key]
            else:
                self.addresses[key] = state

    def _address_state(self, ip: str) -> AddressState | None:
        address = self._addresses.get(ip)
        if address is None:
            return None
        owner = self.identities.get(identity_key(address.identity))
        if owner is None:
            return None
        signature = self._signature(address.identity) | self._blocks.matching(address.place)
        return None if signature == owner.signature else AddressState(ip, address.identity, signature)


def _peers_of(policy: Policy) -> Iterator[PeerSelector]:
    for side in (policy.ingress, policy.egress):
        for rule in side.rules if side is not None else ():
            yield from rule.peers or ()
