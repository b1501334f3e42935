"""One publication: from what is published towards what is desired, in one step that breaks nothing.

Readers apply a commit in the order rows added, classes flipped (new entries of prefixes and addresses, then
identities; taking away an entry is a flip too), subjects' sets flipped, rows and sets deleted; and a reader
may come from any commit that is not released yet. So this holds for every publication:

* each member (identity, address, prefix) flips to a class that says the same as its published class to every
  *old* set (published, not desired, not released) and the same as its desired class to every desired set.
  That is its desired signature with those selectors of its published class that only old sets ask for;
* a member that comes, or an address whose pod got other labels, has no published class to go by. Its class
  is what the own selectors make of it of those old sets that this process has compiled;
* old sets get the rows of new classes from their own selectors, like others. Those that this process has not
  compiled, as they are older than it, get for the class a member flips to the row of the class it comes from;
  and where two members would meet in one class but such sets tell them apart, or say something else of the
  class already, the published class itself becomes part of the new signature;
* what is not desired any more stays until it is released. An address or prefix entry is retired only while
  it says what is said without it, so it does not matter whether it leaves before or after other flips.

Once nothing old is left, the same step leads to the desired state exactly.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import NamedTuple

import msgspec

from services.policy.blocks import Prefix
from services.policy.classes import ClassesByElement, ClassTable
from services.policy.compiler import Compiler
from services.policy.ids import NO_SELECTOR, Element, Signature, was
from services.policy.oldsets import OldSets
from services.policy.published import Member, Published, set_key
from services.policy.sets import CompiledSet
from shared.contract.base import ClassId, Identity, Message, SetId
from shared.contract.policy import AddressClass, CidrClass, IdentityPolicy, PolicySet, Row


class Move(NamedTuple):
    """How a member is to change its class."""

    published: ClassId | None
    """None: it had none."""
    desired: Signature
    meets: Signature = NO_SELECTOR
    """Of a member that is new to the old sets: those of their selectors that match it."""
    late: bool = False
    """Whether it is new to them."""


def class_name(id: ClassId) -> str:
    """The name of a class for retirement."""
    return f"class.{id}"


@dataclass(frozen=True, slots=True)
class Context:
    """What a draft is made from; nothing of it is changed."""

    desired: Compiler
    published: Published
    classes: ClassTable
    compiled: Mapping[SetId, CompiledSet]
    """Published sets that this process has compiled."""
    told_apart: Mapping[SetId, Signature]
    """Elements that earlier drafts made for an old set."""
    complete: frozenset[SetId]
    """Published sets that have a row for every held class which needs one."""
    needed: frozenset[SetId]
    """Old sets that identities go on having, as their new ones cannot be stored."""
    released: Callable[[str], bool]


@dataclass(slots=True)
class Draft:
    """A publication without its commit."""

    sets: dict[SetId, PolicySet | None] = field(default_factory=dict)
    members: dict[str, Member | None] = field(default_factory=dict)
    held: set[ClassId] = field(default_factory=set)
    """Classes of which the rows will speak."""
    waiting: set[str] = field(default_factory=set)
    """Keys that are not as desired yet."""
    told_apart: set[Element] = field(default_factory=set)
    """New elements that all old sets ask for."""
    withheld: set[SetId] = field(default_factory=set)
    """Sets that cannot be stored as they are to be."""
    needed: set[SetId] = field(default_factory=set)
    """Sets of identities that keep what they have because of that."""

    @property
    def items(self) -> list[tuple[str, Message | None]]:
        """Puts and then deletions in the order in which they are to be stored."""
        puts = [(key, member) for key, member in self.members.items() if member is not None]
        gone = [key for key, member in self.members.items() if member is None]
        return [
            *((set_key(id), value) for id, value in sorted(self.sets.items()) if value is not None),
            *sorted(puts, key=_put_order),
            *((key, None) for key in sorted(gone)),
            *((set_key(id), None) for id, value in sorted(self.sets.items()) if value is None),
        ]


def draft(context: Context, scope: Iterable[str] | None) -> Draft:
    """The next publication; only members in ``scope`` are looked at, all of them when it is None."""
    return _Drafter(context).draft(scope)


class _Drafter:
    def __init__(self, context: Context) -> None:
        self._context = context
        self._desired = context.desired
        self._published = context.published
        self._classes = context.classes
        self._result = Draft()
        self._old = self._old_sets()
        self._apart: set[ClassId] = set()
        """Classes of which old sets go on saying what they say of the class that members come from."""
        self._late: set[ClassId] = set()
        """Classes of members that are new to old sets."""

    def draft(self, scope: Iterable[str] | None) -> Draft:
        published, desired = self._published, self._desired
        everything = (
            desired.identities, desired.addresses, desired.prefixes,
            published.identities, published.addresses, published.prefixes,
        )  # fmt: skip
        keys = set().union(*everything) if scope is None else set(scope)
        keys |= {key for key in published.unreadable if not key.startswith("set.")}
        staying = {key for key in keys if self._stays(key)}
        self._result.waiting |= staying
        for key in staying & published.identities.keys():
            self._bury(key, published.identities[key])
        keys -= staying
        targets = self._targets({key: move for key in keys if (move := self._move(key)) is not None})
        self._put_members(keys, targets)
        self._put_sets(targets)
        return self._result

    def _bury(self, key: str, identity: IdentityPolicy) -> None:
        """A pod that gets the identity anew must not begin with sets of before."""
        if not identity.gone:
            self._result.members[key] = msgspec.structs.replace(identity, gone=True)

    def _stays(self, key: str) -> bool:
        """Whether the key is of a peer that is gone, and has to stay as it is until released."""
        published = self._published.member(key)
        if published is None or self._is_desired(key) or self._context.released(key):
            return False
        match published:
            case IdentityPolicy():
                return True
            case AddressClass():
                # An address that is another's by now is not waited for: readers withhold it until then.
                return self._desired.identity_at(published.ip) is None
            case CidrClass():
                return False

    def _old_sets(self) -> OldSets:
        context = self._context
        found: dict[SetId, PolicySet] = {}
        for id, value in self._published.sets.items():
            if id in self._desired.sets:
                continue
            # An identity that is gone was retired no later than its sets, so none is left without them.
            if context.released(set_key(id)) and id not in context.needed:
                self._result.sets[id] = None
            else:
                found[id] = value
        return OldSets(
            found,
            compiled=context.compiled,
            told_apart=context.told_apart,
            desired=context.desired,
            published=context.published,
            classes=context.classes,
        )

    def _move(self, key: str) -> Move | None:
        """None when there is no such member, or is to be none."""
        published = self._published.member(key)
        if (identity := self._desired.identities.get(key)) is not None:
            if published is not None:
                return Move(published.peer_class, identity.signature)
            meets = self._old.match(Identity(int(key.removeprefix("identity."))))
            return Move(None, identity.signature, meets, late=True)
        if (address := self._desired.addresses.get(key)) is not None:
            if isinstance(published, AddressClass) and published.identity == address.identity:
                return Move(published.peer_class, address.signature)
            return self._late_address(address.ip, address.identity, address.signature)
        if (prefix := self._desired.prefixes.get(key)) is not None:
            return Move(
                published.peer_class if published else self._published.class_around(prefix.cidr),
                prefix.signature,
            )
        if self._context.released(key):
            return None
        match published:
            case AddressClass():
                return self._move_exception(published)
            case CidrClass():
                return Move(published.peer_class, self._desired.prefix_signature(published.cidr))
            case _:
                return None

    def _move_exception(self, published: AddressClass) -> Move | None:
        """Of an address that is to have no class of its own in the end."""
        identity = self._desired.identity_at(published.ip)
        if identity is None:
            return None
        signature = self._desired.address_signature(published.ip, identity) or NO_SELECTOR
        if identity == published.identity:
            return Move(published.peer_class, signature)
        # It goes on being set apart from its new identity as long as old sets set it apart.
        if self._old.match_at(published.ip, identity) == self._old.match(identity):
            return None
        return self._late_address(published.ip, identity, signature)

    def _late_address(self, ip: str, identity: Identity, signature: Signature) -> Move:
        meets = self._old.match_at(ip, identity)
        return Move(self._published.class_of(identity), signature, meets, late=True)

    def _targets(self, moves: Mapping[str, Move]) -> dict[str, tuple[ClassId | None, ClassId]]:
        """Where each member comes from and flips to."""
        distinct = set(moves.values())
        for move in distinct:
            self._classes.id_of(move.desired)  # so that published classes with desired signatures are known
        chosen = {move: self._next_signature(move) for move in distinct}
        if self._old.sets:
            self._tell_apart(chosen)
        ids = {move: self._classes.id_of(signature) for move, signature in chosen.items()}
        for key, move in moves.items():
            if chosen[move] != move.desired:
                self._result.waiting.add(key)
            if move.late:
                self._late.add(ids[move])
        return {key: (move.published, ids[move]) for key, move in moves.items()}

    def _next_signature(self, move: Move) -> Signature:
        signature = move.desired | move.meets
        known = self._classes.signature(move.published) if move.published is not None else None
        return signature if known is None else signature.union(self._old.ask(known - move.desired))

    def _tell_apart(self, chosen: dict[Move, Signature]) -> None:
        for move, signature in chosen.items():
            if move.published is None:
                continue
            if self._old.say_the_same(move.published, signature, late=move.late):
                continue
            element = was(move.published, sequence=self._published.known)
            chosen[move] = signature | {element}
            if not move.late:
                self._apart.add(self._classes.id_of(chosen[move]))
            self._result.told_apart.add(element)

    def _put_members(self, keys: set[str], targets: Mapping[str, tuple[ClassId | None, ClassId]]) -> None:
        for key in keys:
            target = targets.get(key)
            value = None if target is None else self._member(key, target[1])
            published = self._published.member(key)
            if value != published or key in self._published.unreadable:
                self._result.members[key] = value
            if value is not None and not self._is_desired(key):
                self._result.waiting.add(key)

    def _is_desired(self, key: str) -> bool:
        desired = self._desired
        return key in desired.identities or key in desired.addresses or key in desired.prefixes

    def _member(self, key: str, peer_class: ClassId) -> Member | None:
        if (identity := self._desired.identities.get(key)) is not None:
            return IdentityPolicy(
                identity=Identity(int(key.removeprefix("identity."))),
                peer_class=peer_class,
                ingress=identity.ingress,
                egress=identity.egress,
            )
        if (address := self._desired.addresses.get(key)) is not None:
            return AddressClass(ip=address.ip, identity=address.identity, peer_class=peer_class)
        if (prefix := self._desired.prefixes.get(key)) is not None:
            return CidrClass(cidr=prefix.cidr, peer_class=peer_class)
        match self._published.member(key):
            case AddressClass() as old:
                identity_now = self._desired.identity_at(old.ip) or old.identity
                return AddressClass(ip=old.ip, identity=identity_now, peer_class=peer_class)
            case CidrClass() as old:
                return CidrClass(cidr=old.cidr, peer_class=peer_class)
            case _:
                return None

    def _put_sets(self, targets: Mapping[str, tuple[ClassId | None, ClassId]]) -> None:
        used = self._used_after()
        held = self._classes.held
        dead = {id for id in held - used if self._context.released(class_name(id))}
        # One that was learned and is not used yet would be forgotten as learned: it has its rows now.
        born = (used - held) | (self._classes.learned - dead)
        self._result.held = (held - dead) | born
        flips = {(old, new) for old, new in targets.values() if old is not None and old != new}
        fresh = _Born({id: self._classes.signature(id) or NO_SELECTOR for id in born})
        for id, value in self._old.sets.items():
            rows = {peer: row for peer, row in value.rows.items() if peer not in dead}
            copied = born
            if (known := self._old.compiled.get(id)) is not None:
                copied = born & (self._apart - self._late)
                rows = {peer: row for peer, row in rows.items() if peer not in born} | fresh.rows(known)
            for old, new in flips:
                if new in copied:
                    _copy_row(value.rows, rows, old=old, new=new)
            self._put_set(_with_rows(value, rows))
        desired = self._desired.sets
        whole = desired.keys() - (self._published.sets.keys() & self._context.complete)
        for id in whole:
            self._put_set(self._whole(desired[id], fresh, dead=dead))
        changed = self._desired.sets_asking(fresh.elements) | self._published.sets_with_row(dead)
        for id in (changed & desired.keys()) - whole:
            old_set = self._published.sets[id]
            rows = {peer: row for peer, row in old_set.rows.items() if peer not in dead}
            self._put_set(_with_rows(old_set, rows | fresh.rows(desired[id])))
        for key in self._published.unreadable:
            id = SetId(key.removeprefix("set."))
            if key.startswith("set.") and id not in self._result.sets and id not in self._old.sets:
                live = desired.get(id)
                self._result.sets[id] = None if live is None else self._whole(live, fresh, dead=dead)

    def _used_after(self) -> set[ClassId]:
        users = Counter(self._published.class_users)
        for key, value in self._result.members.items():
            published = self._published.member(key)
            if published is not None:
                users[published.peer_class] -= 1
            if value is not None:
                users[value.peer_class] += 1
        return {id for id, count in users.items() if count > 0}

    def _whole(self, compiled: CompiledSet, born: _Born, *, dead: set[ClassId]) -> PolicySet:
        known = self._classes.held_with(compiled.asked.of) - dead
        signatures = {id: self._classes.signature(id) or NO_SELECTOR for id in known}
        rows: dict[ClassId, Row] = {}
        if (published := self._published.sets.get(compiled.id)) is not None:
            for id, row in published.rows.items():
                if id in self._result.held and self._classes.signature(id) is None:
                    rows[id] = row
        rows |= _rows(compiled, signatures) | born.rows(compiled)
        return PolicySet(
            id=compiled.id,
            direction=compiled.direction,
            policies=compiled.policies,
            rules=compiled.rules,
            default=compiled.default,
            rows=dict(sorted(rows.items())),
        )

    def _put_set(self, value: PolicySet) -> None:
        if value != self._published.sets.get(value.id) or set_key(value.id) in self._published.unreadable:
            self._result.sets[value.id] = value


class _Born:
    """Classes that rows are to speak of from now on."""

    def __init__(self, signatures: Mapping[ClassId, Signature]) -> None:
        self.elements = NO_SELECTOR.union(*signatures.values())
        self._signatures = signatures
        self._by_element = ClassesByElement()
        for id, signature in signatures.items():
            self._by_element.add(id, signature)

    def rows(self, compiled: CompiledSet) -> dict[ClassId, Row]:
        """A set's rows for them, where they differ from its default row."""
        asked_for = self._by_element.with_any(compiled.asked.of)
        return _rows(compiled, {id: self._signatures[id] for id in asked_for})


def _rows(compiled: CompiledSet, signatures: Mapping[ClassId, Signature]) -> dict[ClassId, Row]:
    found = ((id, compiled.row(signature)) for id, signature in signatures.items())
    return {id: row for id, row in found if row is not None}


def _copy_row(
    source: Mapping[ClassId, Row], target: dict[ClassId, Row], *, old: ClassId, new: ClassId
) -> None:
    if (row := source.get(old)) is not None:
        target[new] = row
    else:
        target.pop(new, None)


def _with_rows(value: PolicySet, rows: Mapping[ClassId, Row]) -> PolicySet:
    return PolicySet(
        id=value.id,
        direction=value.direction,
        policies=value.policies,
        rules=value.rules,
        default=value.default,
        rows=dict(sorted(rows.items())),
    )


def _put_order(item: tuple[str, Member]) -> tuple[int, int, str]:
    """Exceptions first: longest prefixes, then addresses, then the identities that they are exceptions to."""
    key, member = item
    match member:
        case CidrClass():
            return (0, -Prefix.of_cidr(member.cidr).length, key)
        case AddressClass():
            return (1, 0, key)
        case _:
            return (2, 0, key)
