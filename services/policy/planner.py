"""Plans publications one after another, and remembers between them what a single one cannot know.

:meth:`Planner.plan` changes nothing; :meth:`Planner.committed` does, once the publication is stored. When
storing fails half-way, the mirror must be read again and :meth:`Planner.adopt` starts anew from it.

A set that is too large to be stored stays as it is published: classes for which it lacks a row have its
default row, which lets in least. Where it is not published yet, identities keep the sets that they have.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import msgspec

from services.policy.classes import ClassTable
from services.policy.compiler import Compiler
from services.policy.draft import Context, Draft, class_name, draft
from services.policy.errors import HashCollision
from services.policy.ids import NO_SELECTOR, Signature
from services.policy.published import Published, set_key
from services.policy.retirement import Patience, Retirement
from services.policy.sets import CompiledSet
from shared.contract.base import Message, SetId
from shared.contract.names import COMMIT_KEY
from shared.contract.policy import Commit, IdentityPolicy


@dataclass(frozen=True, slots=True)
class Publication:
    """What to put, in order; the last item is the commit."""

    items: tuple[tuple[str, Message | None], ...]
    draft: Draft
    generation: int
    """Of the mirror that it was planned from."""


class Planner:
    """From the compiler's desired state and the mirror of the bucket to publications."""

    def __init__(
        self,
        desired: Compiler,
        *,
        patience: Patience,
        fits: Callable[[str, Message], bool] = lambda key, value: True,
    ) -> None:
        """``fits`` says whether a value can be stored."""
        self._desired = desired
        self._fits = fits
        self._retirement = Retirement(patience)
        self._classes = ClassTable()
        self._compiled: dict[SetId, CompiledSet] = {}
        self._told_apart: dict[SetId, Signature] = {}
        self._complete: frozenset[SetId] = frozenset()
        self._needed: frozenset[SetId] = frozenset()
        self._waiting: set[str] = set()
        self._changed: set[str] = set()
        self._all = True
        self._generation = 0
        self.published = Published()

    @property
    def pending(self) -> int:
        """How many retired things wait to be taken away."""
        return len(self._retirement)

    @property
    def classes(self) -> int:
        """How many classes the published rows speak of."""
        return len(self._classes.held)

    def adopt(self, published: Published) -> None:
        """Start from a mirror that was read anew, or changed by others.

        What is retired counts from then on: another writer may have had it in use meanwhile.
        """
        self._generation += 1
        self.published = published
        published.expected = {}
        self._retirement.update((), revision=0, now=0.0)
        self._complete = frozenset()
        self._all = True
        rows = {id for value in published.sets.values() for id in value.rows}
        self._classes.hold(rows | published.class_users.keys())

    def plan(self, *, realised: float, now: float, time: str) -> Publication | None:
        """The next publication, None when there is nothing to publish.

        ``realised`` is the least revision that every node has realised (0 without nodes), ``now`` the
        monotonic clock in seconds and ``time`` the wall clock for the commit, RFC 3339. Raises
        :class:`HashCollision`, and may be repeated without one of the policies that brought it.
        """
        self._changed |= self._desired.refresh()
        if self._is_as_planned(realised=realised, now=now):
            return None
        context = Context(
            desired=self._desired,
            published=self.published,
            classes=self._classes,
            compiled=self._compiled,
            told_apart=self._told_apart,
            complete=self._complete,
            needed=self._needed,
            released=lambda name: self._retirement.released(name, realised=realised, now=now),
        )
        try:
            made = draft(context, None if self._all else self._changed | self._waiting)
        except HashCollision:
            # Half of the classes may be those of a policy that is not to be.
            self._classes.forget()
            raise
        self._withhold(made)
        commit = self._commit(made, time=time)
        items = made.items
        if not items and self.published.is_committed and self._says_the_same(commit):
            self._remember(made, revision=self.published.revision, now=now)
            return None
        return Publication((*items, (COMMIT_KEY, commit)), made, self._generation)

    def sending(self, publication: Publication) -> None:
        """The publication is on its way: its echoes, which may overtake the acknowledgement, are no news."""
        self.published.expected = dict(publication.items)

    def committed(self, publication: Publication, *, revision: int, now: float) -> None:
        """The publication is stored; ``revision`` is the sequence number of its commit.

        If others wrote meanwhile, the mirror has to read what is there before the next plan.
        """
        if publication.generation != self._generation:
            self.adopt(self.published)
            return
        for key, value in publication.items:
            self.published.enter(key, value, revision=revision)
        self.published.expected = {}
        self._remember(publication.draft, revision=revision, now=now)

    def next_release(self, *, realised: float, now: float) -> float | None:
        """When a plan may find more to take away if nothing else happens; on the clock of ``now``."""
        return self._retirement.next_due(realised=realised, now=now)

    def _is_as_planned(self, *, realised: float, now: float) -> bool:
        """Nothing that a publication could change has changed since the last plan."""
        unchanged = not (self._all or self._changed or self._waiting or self.published.unreadable)
        return (
            unchanged
            and self.published.is_committed
            and len(self._complete) == len(self._desired.sets)
            and not self._retirement.any_released(realised=realised, now=now)
            and self._says_the_same(self._commit(Draft(), time=""))
        )

    def _withhold(self, made: Draft) -> None:
        """Take out what is too large, and what would speak of it."""
        made.withheld = {
            id for id, value in made.sets.items() if value is not None and not self._fits(set_key(id), value)
        }
        for id in made.withheld:
            del made.sets[id]
        unheard = made.withheld - self.published.sets.keys()
        for key, member in list(made.members.items()):
            old = self.published.identities.get(key)
            # Of one that comes back, the sets of when it went are not kept: there is none who has them.
            if not isinstance(member, IdentityPolicy) or old is None or old.gone:
                continue
            kept = msgspec.structs.replace(
                member,
                ingress=old.ingress if member.ingress in unheard else member.ingress,
                egress=old.egress if member.egress in unheard else member.egress,
            )
            if kept == member:
                continue
            made.waiting.add(key)
            made.needed.update(id for id in (kept.ingress, kept.egress) if id is not None)
            if kept == old:
                del made.members[key]
            else:
                made.members[key] = kept

    def _remember(self, made: Draft, *, revision: int, now: float) -> None:
        self._all = False
        self._changed.clear()
        self._waiting = made.waiting
        self._classes.hold(made.held)
        self._complete = frozenset(self._desired.sets) - made.withheld
        self._needed = frozenset(made.needed)
        known = {**self._compiled, **self._desired.sets}
        self._compiled = {id: known[id] for id in self.published.sets if id in known}
        self._told_apart = {
            id: self._told_apart.get(id, NO_SELECTOR) | made.told_apart
            for id in self.published.sets.keys() - self._desired.sets.keys()
        }
        self._retirement.update(self._retired(), revision=revision, now=now)

    def _retired(self) -> Iterator[str]:
        published, desired = self.published, self._desired
        yield from (set_key(id) for id in published.sets.keys() - desired.sets.keys())
        yield from (class_name(id) for id in self._classes.held - published.class_users.keys())
        yield from published.identities.keys() - desired.identities.keys()
        for key in published.addresses.keys() - desired.addresses.keys():
            if published.is_redundant(key) or desired.identity_at(published.addresses[key].ip) is None:
                yield key
        for key in published.prefixes.keys() - desired.prefixes.keys():
            if published.is_redundant(key):
                yield key

    def _commit(self, made: Draft, *, time: str) -> Commit:
        published = self.published
        identities = len(published.identities)
        for key, member in made.members.items():
            if key.startswith("identity."):
                identities += (member is not None) - (key in published.identities)
        sets, rows = len(published.sets), published.rows
        for id, value in made.sets.items():
            old = published.sets.get(id)
            sets += (value is not None) - (old is not None)
            rows += (len(value.rows) if value is not None else 0) - (len(old.rows) if old is not None else 0)
        return Commit(
            time=time,
            policies=len(self._desired.policies),
            identities=identities,
            sets=sets,
            rows=rows,
            pod_space=self._desired.pod_space,
        )

    def _says_the_same(self, commit: Commit) -> bool:
        old = self.published.commit
        return old is not None and old == msgspec.structs.replace(commit, time=old.time)
