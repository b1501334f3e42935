"""What became of each policy object: bucket ``policy-status``, written after the commit that it speaks of.

A status carries the version that is in force, so that a refused edit of the object does not withdraw it when
the service restarts: see :meth:`Inputs.restore`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import msgspec

from services.policy.compiler import Compiler
from services.policy.errors import name_of, text_of
from services.policy.inputs import Inputs, Refused
from services.policy.model import Policy
from shared.bus import Batch, Mirror
from shared.contract.names import policy_status_key
from shared.contract.policy import InForce, PolicyRef, PolicyStatus
from shared.runtime.upkeep import Room


@dataclass(frozen=True, slots=True)
class Noted:
    """What a publication is made from, of one policy object; neither: there is no such object any more."""

    in_force: Policy | None
    subjects: int
    """How many identities the one in force selects."""
    refused: Refused | None
    problems: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Changes:
    """What is to be written; false when there is nothing."""

    items: tuple[tuple[str, PolicyStatus | None], ...]
    refusals: tuple[PolicyStatus, ...]
    """Those of ``items`` that nobody has been told of."""

    def __bool__(self) -> bool:
        return bool(self.items)


class Statuses:
    """Compares desired with published statuses, of those that either side has touched since they were equal.

    What could not be written is looked at again with the next publication.
    """

    def __init__(self, compiler: Compiler, inputs: Inputs, *, room: Room) -> None:
        self._compiler = compiler
        self._inputs = inputs
        self._room = room
        self.mirror: Mirror[PolicyStatus] = Mirror()
        """What is published."""
        self._refs: dict[str, PolicyRef] = {}
        """Policy objects that there are, by key."""
        self._touched: set[str] = set()
        self._unsettled: set[str] = set()
        """Noted, and not known to be published."""

    def take(self, batch: Batch[PolicyStatus]) -> None:
        """Follows the own bucket."""
        self._touched |= self.mirror.absorb(batch)

    def recheck(self) -> None:
        """Compare all of them at the next look."""
        self._touched |= self._refs.keys() | self.mirror.live_keys()

    def published(self, ref: PolicyRef) -> PolicyStatus | None:
        """The status of a policy as it is published."""
        return self.mirror.get(key_of(ref))

    def note(self) -> dict[str, Noted]:
        """The policies that may differ from what is published, by key, as they are at this moment."""
        for ref in self._inputs.take_touched():
            key = key_of(ref)
            self._refs[key] = ref
            self._touched.add(key)
        self._unsettled |= self._touched
        self._touched = set()
        return {key: self._noted(key) for key in sorted(self._unsettled)}

    def changes(self, noted: Mapping[str, Noted], *, revision: int) -> Changes:
        """How what is published differs from what was noted, ``revision`` being the last commit."""
        self._room.only(self._refs.__contains__)
        items: list[tuple[str, PolicyStatus | None]] = []
        for key, one in noted.items():
            published = self.mirror.get(key)
            status = self._status(one, revision=revision)
            if status != published and self._room.fits(key, status):
                items.append((key, status))
        # A status that is gone makes room for none, so what is new need not wait for it.
        items.sort(key=lambda item: item[1] is None)
        return Changes(
            items=tuple(items),
            refusals=tuple(
                status
                for key, status in items
                if status is not None and not status.accepted and not _told(self.mirror.get(key), status)
            ),
        )

    def wrote(self, changes: Changes, *, revision: int) -> None:
        """They are stored; ``revision`` is the last one's in the own bucket."""
        self.mirror.wrote(changes.items, revision=revision)

    def settled(self) -> None:
        """All that was noted is published."""
        self._unsettled.clear()

    def _noted(self, key: str) -> Noted:
        ref = self._refs.get(key)
        policy = None if ref is None else self._compiler.policies.get(ref)
        refused = None if ref is None else self._inputs.refused.get(ref)
        if policy is None and refused is None:
            self._refs.pop(key, None)
        if ref is None or policy is None:
            return Noted(None, 0, refused, ())
        return Noted(policy, self._compiler.subjects(policy), refused, self._inputs.problems(ref))

    def _status(self, noted: Noted, *, revision: int) -> PolicyStatus | None:
        policy, refused = noted.in_force, noted.refused
        status = None
        if refused is not None:
            status = PolicyStatus(
                policy=refused.policy,
                uid=refused.uid,
                resource_version=refused.resource_version,
                accepted=False,
                errors=refused.errors,
            )
        if policy is None:
            return status
        accepted = PolicyStatus(
            policy=policy.ref, uid=policy.uid, resource_version=policy.resource_version, accepted=True
        )
        return msgspec.structs.replace(
            status or accepted,
            in_force=InForce(resource_version=policy.resource_version, spec=policy.spec),
            revision=self._since(policy, revision=revision),
            subjects=noted.subjects,
            rules=policy.rule_count,
            problems=noted.problems,
        )

    def _since(self, policy: Policy, *, revision: int) -> int:
        """The commit since which a version is in force."""
        before = self.mirror.get(key_of(policy.ref))
        # What is published stands, so that replicas agree, unless it is of a lost bucket's commit.
        if before is None or before.in_force is None or before.revision > revision:
            return revision
        same = (before.uid, before.in_force.resource_version) == (policy.uid, policy.resource_version)
        return before.revision if same else revision


def _told(before: PolicyStatus | None, now: PolicyStatus) -> bool:
    """Whether this refusal was published before."""
    if before is None or before.accepted:
        return False
    return (before.uid, before.resource_version) == (now.uid, now.resource_version)


def refusal_text(status: PolicyStatus) -> str:
    """Why a policy was refused, and what is in force in its place."""
    text = f"{name_of(status.policy)}: " + "; ".join(text_of(error) for error in status.errors)
    kept = status.in_force
    return text if kept is None else f"{text}; version {kept.resource_version} stays in force"


def key_of(ref: PolicyRef) -> str:
    """Key of a policy's status."""
    return policy_status_key(kind=ref.kind, namespace=ref.namespace, name=ref.name)
