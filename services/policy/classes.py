"""Peer classes: signatures by id, and which classes the published rows speak of."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Iterable

from services.policy.errors import HashCollision
from services.policy.ids import NO_SELECTOR, RESERVED_IDS, Element, Signature, class_id
from shared.contract.base import ClassId
from shared.index import discard


class ClassesByElement:
    """Classes by the elements of their signatures."""

    def __init__(self) -> None:
        self._classes: defaultdict[Element, set[ClassId]] = defaultdict(set)

    def add(self, id: ClassId, signature: Signature) -> None:
        """A class."""
        for element in signature:
            self._classes[element].add(id)

    def remove(self, id: ClassId, signature: Signature) -> None:
        """Forget a class."""
        for element in signature:
            discard(self._classes, element, id)

    def with_any(self, choose: Callable[[Collection[Element]], Iterable[Element]]) -> set[ClassId]:
        """Classes whose signatures have any of the elements that are chosen."""
        return set().union(*(self._classes[element] for element in choose(self._classes)))


class ClassTable:
    """Signatures that are known by their class ids.

    A class is *held* while published rows must speak of it. A held class may be unknown: it was published
    before this process started, with selectors that exist no more.
    """

    def __init__(self) -> None:
        self.held: set[ClassId] = set()
        self._signatures: dict[ClassId, Signature] = {}
        self._ids: dict[Signature, ClassId] = {}
        self._by_element = ClassesByElement()
        self.learned: set[ClassId] = set()
        """Held classes whose signatures became known since :meth:`hold`: sets may lack rows for them."""

    def id_of(self, signature: Signature) -> ClassId:
        """The class of a signature, which is known from now on."""
        id = self._ids.get(signature)
        if id is None:
            id = class_id(signature)
            known = self._signatures.get(id)
            if id in RESERVED_IDS or known is not None:
                raise HashCollision(what="peer class", id=id, elements=signature ^ (known or NO_SELECTOR))
            self._ids[signature] = id
            self._signatures[id] = signature
            if id in self.held:
                self.learned.add(id)
                self._by_element.add(id, signature)
        return id

    def signature(self, id: ClassId) -> Signature | None:
        """The signature of a class, None when it is not known."""
        return self._signatures.get(id)

    def held_with(self, choose: Callable[[Collection[Element]], Iterable[Element]]) -> set[ClassId]:
        """Held classes whose known signatures have any of the elements that are chosen."""
        return self._by_element.with_any(choose)

    def hold(self, ids: set[ClassId]) -> None:
        """These classes are held; signatures of others are forgotten."""
        for id in self.held - ids:
            self._by_element.remove(id, self._signatures.get(id, NO_SELECTOR))
        for id in ids - self.held:
            self._by_element.add(id, self._signatures.get(id, NO_SELECTOR))
        self.held = set(ids)
        self.learned.clear()
        self.forget()

    def forget(self) -> None:
        """Forget the signatures of classes that are not held."""
        for id in self._signatures.keys() - self.held:
            del self._ids[self._signatures.pop(id)]
