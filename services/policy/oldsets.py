"""Sets on their way out: published, not desired, and not released yet, as nodes may still go by them.

Which of their selectors a peer's class must go on telling apart, and which rows they are to have for classes
that no row of theirs speaks of. A set that this process compiled answers by its own selectors, though none of
them may be in force any more; of others there are only the rows as they were published.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from services.policy.blocks import Block, Prefix
from services.policy.classes import ClassTable
from services.policy.compiler import Compiler
from services.policy.ids import NO_SELECTOR, Element, Signature
from services.policy.model import BlockSelector, PeerSelector, PodTerm
from services.policy.names import element
from services.policy.published import Published
from services.policy.sets import Asked, CompiledSet, SetsByElement
from shared.contract.base import ClassId, Identity, SetId
from shared.contract.policy import PolicySet, Row
from shared.contract.reserved import FIRST_ALLOCATED


class OldSets:
    """They, and what they ask. Nothing that it is given is changed."""

    def __init__(
        self,
        sets: Mapping[SetId, PolicySet],
        *,
        compiled: Mapping[SetId, CompiledSet],
        told_apart: Mapping[SetId, Signature],
        desired: Compiler,
        published: Published,
        classes: ClassTable,
    ) -> None:
        """``compiled`` has those that this process compiled, ``told_apart`` elements made for them by set."""
        self.sets = sets
        self.compiled = {id: compiled[id] for id in sets if id in compiled}
        self._desired = desired
        self._published = published
        self._classes = classes
        apart = NO_SELECTOR.union(*(told_apart.get(id, NO_SELECTOR) for id in sets))
        self._asked = [*(known.asked for known in self.compiled.values()), Asked(selectors=apart)]
        self._by_element = SetsByElement()
        self._pods: dict[Element, PodTerm] = {}
        self._blocks: dict[Element, Block] = {}
        for known in self.compiled.values():
            self._by_element.add(known)
            for selector in known.peers:
                self._add(selector)
        self._names = frozenset(name for known in self.compiled.values() for name in known.asked.names)

    def _add(self, selector: PeerSelector) -> None:
        if self._desired.is_live(selector.id):
            return
        if isinstance(selector, BlockSelector):
            self._blocks[selector.id] = Block.of(selector.term)
        else:
            self._pods[selector.id] = selector.term

    def ask(self, elements: Collection[Element]) -> Iterator[Element]:
        """Those elements that only these sets ask for, as far as this process knows; some more than once."""
        for asked in self._asked:
            yield from (each for each in asked.of(elements) if not self._desired.is_live(each))

    def match(self, identity: Identity) -> Signature:
        """Selectors that only these sets ask for and that match an identity, wherever its pods are."""
        if not self.compiled:
            return NO_SELECTOR
        space = self._desired.space if identity >= FIRST_ALLOCATED else frozenset()
        everywhere = (id for id, block in self._blocks.items() if space and all(map(block.covers, space)))
        return self._match_labels(identity).union(everywhere)

    def match_at(self, ip: str, identity: Identity) -> Signature:
        """The same at one of its addresses."""
        if not self.compiled:
            return NO_SELECTOR
        place = Prefix.of_ip(ip)
        return self._match_labels(identity).union(
            id for id, block in self._blocks.items() if block.covers(place)
        )

    def say_the_same(self, published: ClassId, signature: Signature, *, late: bool) -> bool:
        """Whether they say of a published class what they will say of the class of a signature.

        If a member is ``late``, what counts for those that this process compiled is what their own selectors
        say. A class that no row speaks of may be in use on a node that lags.
        """
        target = self._classes.id_of(signature)
        spoken = self._published.sets_with_row((published, target))
        if late or self._is_new(target):
            spoken |= self._by_element.asking(signature)
        own = self.compiled if late else {}
        return all(
            self._row(id, target, signature)
            == (own[id].row(signature) if id in own else self.sets[id].rows.get(published))
            for id in spoken & self.sets.keys()
        )

    def _row(self, id: SetId, target: ClassId, signature: Signature) -> Row | None:
        known = self.compiled.get(id)
        if known is not None and self._is_new(target):
            return known.row(signature)
        return self.sets[id].rows.get(target)

    def _is_new(self, target: ClassId) -> bool:
        return target not in self._classes.held or target in self._classes.learned

    def _match_labels(self, identity: Identity) -> Signature:
        labels = self._desired.labels(identity)
        if labels is None:
            return NO_SELECTOR
        names = (
            element(name, number)
            for name, number in self._desired.numbers(identity).items()
            if name in self._names
        )
        matching = (id for id, term in self._pods.items() if labels.match(term))
        return frozenset((*matching, *(each for each in names if not self._desired.is_live(each))))
