"""Named ports: which names egress rules call, and what they mean for an identity's pods.

A name means a number of the destination pod, another one in each. Of a subject the numbers are part of its
ingress set; of a peer they are elements of its signature, for names that egress rules in force call.
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping

from services.policy.ids import Element, Signature
from services.policy.model import Policy, PortName
from shared.contract.base import Identity, Protocol
from shared.contract.identity import IdentityRecord
from shared.index import discard

_MARK = "port"

Numbers = Mapping[PortName, int]
"""What names mean."""


def numbers_of(record: IdentityRecord) -> dict[PortName, int]:
    """The named ports of an identity's pods."""
    return {PortName(port.protocol, port.name): port.port for port in record.named_ports}


def element(name: PortName, number: int) -> Element:
    """The element "has this port by this name"."""
    return Element(f"{_MARK}:{name.protocol}:{name.name}:{number}")


def bound(signature: Iterable[Element]) -> dict[PortName, int]:
    """What the elements of a signature say of named ports."""
    found = {}
    for each in signature:
        mark, _, rest = each.partition(":")
        if mark == _MARK:
            protocol, name, number = rest.split(":")
            found[PortName(Protocol(protocol), name)] = int(number)
    return found


class CalledNames:
    """Names that egress rules in force call, and the identities that have ports by them."""

    def __init__(self) -> None:
        self._callers: Counter[PortName] = Counter()
        self._numbers: dict[Identity, dict[PortName, int]] = {}
        self._owners: defaultdict[PortName, set[Identity]] = defaultdict(set)

    def add(self, record: IdentityRecord) -> None:
        """Enter an identity that is not there."""
        self._numbers[record.id] = numbers_of(record)
        for name in self._numbers[record.id]:
            self._owners[name].add(record.id)

    def remove(self, identity: Identity) -> None:
        """Take an identity out."""
        for name in self._numbers.pop(identity, ()):
            discard(self._owners, name, identity)

    def acquire(self, policy: Policy) -> set[Identity]:
        """Hold the names that a policy calls; returns the identities whose signature changed."""
        changed: set[Identity] = set()
        for name in called(policy):
            if not self._callers[name]:
                changed |= self._owners.get(name, set())
            self._callers[name] += 1
        return changed

    def release(self, policy: Policy) -> set[Identity]:
        """Let go of them; returns the identities whose signature changed."""
        changed: set[Identity] = set()
        for name in called(policy):
            self._callers[name] -= 1
            if not self._callers[name]:
                del self._callers[name]
                changed |= self._owners.get(name, set())
        return changed

    def numbers(self, identity: Identity) -> Numbers:
        """All named ports of an identity, called or not."""
        return self._numbers.get(identity, {})

    def signature(self, identity: Identity) -> Signature:
        """An identity's elements for the names that are called."""
        return frozenset(
            element(name, number) for name, number in self.numbers(identity).items() if name in self._callers
        )

    def is_live(self, one: Element) -> bool:
        """Whether an element is of a name that is called."""
        return any(name in self._callers for name in bound((one,)))


def called(policy: Policy) -> Iterator[PortName]:
    """The names that a policy's egress rules call."""
    for rule in policy.egress.rules if policy.egress is not None else ():
        yield from rule.names
