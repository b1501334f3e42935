"""Which address blocks match which addresses and prefixes, and which match every pod.

Every ``cidr`` and ``except`` in force is a prefix of its own; the longest one around an address decides, so
a longest-prefix-match table with all of them answers for every address. Prefixes are never left out even
where they have the class of the next shorter one: then each entry can change alone.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import NamedTuple, Self

from services.policy.errors import HashCollision
from services.policy.ids import RESERVED_IDS, Element, Signature
from services.policy.model import BlockSelector, BlockTerm
from shared.index import discard

BITS = {4: 32, 6: 128}


class Prefix(NamedTuple):
    """An address prefix as numbers; an address is a prefix of full length."""

    version: int
    length: int
    network: int

    @classmethod
    def of_cidr(cls, cidr: str) -> Self:
        """From text such as ``10.0.0.0/8``."""
        network = ip_network(cidr)
        return cls(network.version, network.prefixlen, int(network.network_address))

    @classmethod
    def of_ip(cls, ip: str) -> Self:
        """From an address."""
        address = ip_address(ip)
        return cls(address.version, address.max_prefixlen, int(address))

    @property
    def text(self) -> str:
        """Such as ``10.0.0.0/8``."""
        return str((IPv4Network if self.version == 4 else IPv6Network)((self.network, self.length)))

    def shortened(self, length: int) -> Prefix:
        """The prefix of ``length`` bits around this one."""
        shift = BITS[self.version] - length
        return Prefix(self.version, length, self.network >> shift << shift)

    def covers(self, other: Prefix) -> bool:
        """Whether ``other`` lies inside."""
        return (
            self.version == other.version
            and self.length <= other.length
            and other.shortened(self.length).network == self.network
        )


class Block(NamedTuple):
    """A block as prefixes."""

    cidr: Prefix
    excepts: tuple[Prefix, ...]

    @classmethod
    def of(cls, term: BlockTerm) -> Self:
        """From its text."""
        return cls(Prefix.of_cidr(term.cidr), tuple(map(Prefix.of_cidr, term.excepts)))

    def covers(self, prefix: Prefix) -> bool:
        """Whether every address of ``prefix`` is in the block."""
        return self.cidr.covers(prefix) and not any(
            item.covers(prefix) or prefix.covers(item) for item in self.excepts
        )


@dataclass(slots=True)
class _InForce:
    term: BlockTerm
    block: Block
    holders: int = 1


class Blocks:
    """Address blocks in force."""

    def __init__(self) -> None:
        self._in_force: dict[Element, _InForce] = {}
        self._includes: defaultdict[Prefix, set[Element]] = defaultdict(set)
        self._excludes: defaultdict[Prefix, set[Element]] = defaultdict(set)
        self._texts: dict[Prefix, str] = {}
        self._lengths: dict[int, tuple[int, ...]] = {4: (), 6: ()}

    def __contains__(self, id: Element) -> bool:
        return id in self._in_force

    def __len__(self) -> int:
        return len(self._in_force)

    def check(self, selector: BlockSelector) -> None:
        """Raise HashCollision if the block cannot be held."""
        known = self._in_force.get(selector.id)
        if selector.id in RESERVED_IDS or (known is not None and known.term != selector.term):
            raise HashCollision(what="peer selector", id=selector.id, elements=(selector.id,))

    def acquire(self, selector: BlockSelector) -> bool:
        """Hold a block; True when it was not in force before."""
        self.check(selector)
        known = self._in_force.get(selector.id)
        if known is not None:
            known.holders += 1
            return False
        block = Block.of(selector.term)
        cidr, excepts = block
        self._in_force[selector.id] = _InForce(selector.term, block)
        self._includes[cidr].add(selector.id)
        self._texts[cidr] = selector.term.cidr
        for prefix, text in zip(excepts, selector.term.excepts, strict=True):
            self._excludes[prefix].add(selector.id)
            self._texts[prefix] = text
        self._count_lengths()
        return True

    def release(self, selector: BlockSelector) -> bool:
        """Let go of a block; True when it is not in force any more."""
        known = self._in_force[selector.id]
        known.holders -= 1
        if known.holders:
            return False
        del self._in_force[selector.id]
        cidr, excepts = known.block
        discard(self._includes, cidr, selector.id)
        for prefix in excepts:
            discard(self._excludes, prefix, selector.id)
        for prefix in (cidr, *excepts):
            if prefix not in self._includes and prefix not in self._excludes:
                self._texts.pop(prefix, None)
        self._count_lengths()
        return True

    def matching(self, place: Prefix) -> Signature:
        """Blocks that hold ``place``: an address, or what longer prefixes in force leave of a prefix."""
        found: set[Element] = set()
        left_out: set[Element] = set()
        for length in self._lengths[place.version]:
            if length > place.length:
                break
            around = place.shortened(length)
            found |= self._includes.get(around, frozenset())
            left_out |= self._excludes.get(around, frozenset())
        return frozenset(found - left_out)

    def prefixes(self) -> Iterator[tuple[str, Signature]]:
        """Every prefix that divides addresses, with the blocks that match in it beside longer ones."""
        for prefix, text in self._texts.items():
            yield text, self.matching(prefix)

    def covering(self, space: Iterable[Prefix]) -> Signature:
        """Blocks that hold all of ``space``; none when it is empty or of two address families."""
        prefixes = tuple(space)
        if len({prefix.version for prefix in prefixes}) != 1:
            return frozenset()
        return frozenset(id for id, known in self._in_force.items() if all(map(known.block.covers, prefixes)))

    def _count_lengths(self) -> None:
        lengths: dict[int, set[int]] = {4: set(), 6: set()}
        for prefix in self._texts:
            lengths[prefix.version].add(prefix.length)
        self._lengths = {version: tuple(sorted(found)) for version, found in lengths.items()}
