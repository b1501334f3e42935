"""What the bucket ``policy`` holds: the mirror that every plan starts from.

Own puts are entered when they are acknowledged; their echoes in the followed stream, which are no newer
than :attr:`Published.known`, change nothing. Anything newer was written by another replica or by hand, and
is believed, because readers see it too.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from typing import Self

from services.policy.blocks import Prefix
from services.policy.compiler import address_key, identity_key, prefix_key
from shared.bus import Batch
from shared.contract.base import ClassId, Message, SetId
from shared.contract.names import COMMIT_KEY
from shared.contract.policy import (
    POLICY_TYPES,
    AddressClass,
    CidrClass,
    Commit,
    IdentityPolicy,
    PolicySet,
)
from shared.contract.reserved import Reserved
from shared.index import discard

Member = IdentityPolicy | AddressClass | CidrClass
"""What has a class."""


def set_key(id: SetId) -> str:
    """Key of a set in the bucket ``policy``."""
    return f"set.{id}"


class Published:
    """A mirror of the bucket."""

    def __init__(self) -> None:
        self.sets: dict[SetId, PolicySet] = {}
        self.identities: dict[str, IdentityPolicy] = {}
        self.addresses: dict[str, AddressClass] = {}
        self.prefixes: dict[str, CidrClass] = {}
        self.commit: Commit | None = None
        self.revision = 0
        """Of the last commit; 0 when nothing was ever published."""
        self.known = 0
        """Sequence number of the stream up to which the mirror is true."""
        self._places: dict[Prefix, CidrClass] = {}
        self.unreadable: set[str] = set()
        """Keys whose values cannot be decoded or are another key's: to be put anew or deleted."""
        self.expected: Mapping[str, Message | None] = {}
        """Items of the publication under way: their echoes may arrive before the acknowledgement."""
        self.class_users: Counter[ClassId] = Counter()
        self.rows = 0
        """Of all sets, without default rows."""
        self._sets_of: defaultdict[ClassId, set[SetId]] = defaultdict(set)

    @classmethod
    def of(cls, batch: Batch[Message]) -> Self:
        """The mirror of a snapshot."""
        mirror = cls()
        for entry in batch.entries:
            mirror.enter(entry.key, entry.value, revision=entry.revision)
        mirror.enter_unreadable(error.key for error in batch.errors)
        mirror.known = batch.revision
        return mirror

    def holds_the_same(self, other: Published) -> bool:
        """Whether both mirrors are of the same contents."""
        return (
            self.sets == other.sets
            and self.identities == other.identities
            and self.addresses == other.addresses
            and self.prefixes == other.prefixes
            and self.revision == other.revision
            and self.unreadable == other.unreadable
        )

    @property
    def is_committed(self) -> bool:
        """Nothing follows the last commit: no publication broke off, and nobody else wrote."""
        return self.commit is not None and self.known == self.revision

    def member(self, key: str) -> Member | None:
        """The identity, address or prefix under a key."""
        return self.identities.get(key) or self.addresses.get(key) or self.prefixes.get(key)

    def holds(self, key: str) -> Message | None:
        """The value under a key other than ``commit``."""
        if key.startswith("set."):
            return self.sets.get(SetId(key.removeprefix("set.")))
        return self.member(key)

    def sets_with_row(self, classes: Iterable[ClassId]) -> set[SetId]:
        """The sets that have a row for any of the classes."""
        return set().union(*(self._sets_of.get(id, ()) for id in classes))

    def class_of(self, identity: int) -> ClassId | None:
        """The published class of an identity, which its addresses have without entries of their own."""
        record = self.identities.get(identity_key(identity))
        return record.peer_class if record is not None else None

    def class_around(self, cidr: str) -> ClassId | None:
        """The published class that the addresses of a prefix have without an entry of its own."""
        place = Prefix.of_cidr(cidr)
        for length in range(place.length - 1, -1, -1):
            if (found := self._places.get(place.shortened(length))) is not None:
                return found.peer_class
        return self.class_of(Reserved.WORLD)

    def is_redundant(self, key: str) -> bool:
        """Whether deleting an address or prefix would change no class."""
        match self.member(key):
            case AddressClass() as address:
                return address.peer_class == self.class_of(address.identity)
            case CidrClass() as prefix:
                return prefix.peer_class == self.class_around(prefix.cidr)
            case _:
                return False

    def enter(self, key: str, value: Message | None, *, revision: int) -> bool:
        """A key has a value, or None when it was deleted; True when that was not known."""
        self.known = max(self.known, revision)
        if value is not None and not _belongs(key, value):
            self.enter_unreadable([key])
            return True
        readable = key not in self.unreadable
        self.unreadable.discard(key)
        expected = key in self.expected and value == self.expected[key]
        if isinstance(value, Commit) or key == COMMIT_KEY:
            changed = value != self.commit
            self.commit = value if isinstance(value, Commit) else None
            self.revision = revision if self.commit is not None else 0
            return changed and not expected
        if readable and value == self.holds(key):
            return False
        if key.startswith("set."):
            self._enter_set(SetId(key.removeprefix("set.")), value)
        else:
            self._enter_member(key, value)
        return not expected

    def enter_unreadable(self, keys: Iterable[str]) -> None:
        """Keys hold what cannot be decoded. What was known of them goes on being planned from."""
        for key in keys:
            if key == COMMIT_KEY:
                self.commit = None
            elif key.partition(".")[0] in POLICY_TYPES:
                self.unreadable.add(key)

    def _enter_set(self, id: SetId, value: Message | None) -> None:
        old = self.sets.pop(id, None)
        before = old.rows.keys() if old is not None else set()
        after = value.rows.keys() if isinstance(value, PolicySet) else set()
        for peer_class in before - after:
            discard(self._sets_of, peer_class, id)
        for peer_class in after - before:
            self._sets_of[peer_class].add(id)
        self.rows += len(after) - len(before)
        if isinstance(value, PolicySet):
            self.sets[id] = value

    def _enter_member(self, key: str, value: Message | None) -> None:
        old = self.member(key)
        if old is not None:
            self._count(old, -1)
        for table in (self.identities, self.addresses, self.prefixes):
            table.pop(key, None)
        if isinstance(old, CidrClass):
            del self._places[Prefix.of_cidr(old.cidr)]
        match value:
            case IdentityPolicy():
                self.identities[key] = value
            case AddressClass():
                self.addresses[key] = value
            case CidrClass():
                self.prefixes[key] = value
                self._places[Prefix.of_cidr(value.cidr)] = value
            case _:
                return
        self._count(value, 1)

    def _count(self, member: Member, by: int) -> None:
        self.class_users[member.peer_class] += by
        if not self.class_users[member.peer_class]:
            del self.class_users[member.peer_class]


def _belongs(key: str, value: Message) -> bool:
    """Whether this is the key of what the value speaks of; others are not ours and may be anything."""
    try:
        match value:
            case PolicySet():
                return key == set_key(value.id)
            case IdentityPolicy():
                return key == identity_key(value.identity)
            case AddressClass():
                return key == address_key(value.ip)
            case CidrClass():
                return key == prefix_key(value.cidr)
            case _:
                return key == COMMIT_KEY
    except ValueError:
        return False
