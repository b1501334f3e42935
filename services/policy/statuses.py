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
    """What a publication is made from."""

    in_force: tuple[tuple[Policy, int], ...]
    """Policies with the number of identities that they select."""
    refused: Mapping[PolicyRef, Refused]


@dataclass(frozen=True, slots=True)
class Changes:
    """What is to be written; false when there is nothing."""

    items: tuple[tuple[str, PolicyStatus | None], ...]
    refusals: tuple[PolicyStatus, ...]
    """Those of ``items`` that nobody has been told of."""

    def __bool__(self) -> bool:
        return bool(self.items)


class Statuses:
    """Compares desired with published statuses; what could not be written differs still at the next look."""

    def __init__(self, compiler: Compiler, inputs: Inputs, *, room: Room) -> None:
        self._compiler = compiler
        self._inputs = inputs
        self._room = room
        self.mirror: Mirror[PolicyStatus] = Mirror()
        """What is published."""

    def take(self, batch: Batch[PolicyStatus]) -> None:
        """Follows the own bucket."""
        self.mirror.absorb(batch)

    def published(self, ref: PolicyRef) -> PolicyStatus | None:
        """The status of a policy as it is published."""
        return self.mirror.get(key_of(ref))

    def note(self) -> Noted:
        """The policies as they are at this moment."""
        compiler = self._compiler
        return Noted(
            in_force=tuple((policy, compiler.subjects(policy)) for policy in compiler.policies.values()),
            refused=dict(self._inputs.refused),
        )

    def changes(self, noted: Noted, *, revision: int) -> Changes:
        """How what is published differs from what was noted, ``revision`` being the last commit."""
        desired = self._desired(noted, revision=revision)
        self._room.only(desired)
        puts = [
            (key, status)
            for key, status in desired.items()
            if self.mirror.get(key) != status and self._room.fits(key, status)
        ]
        gone = sorted(self.mirror.live_keys() - desired.keys())
        return Changes(
            items=(*puts, *((key, None) for key in gone)),
            refusals=tuple(
                status
                for key, status in puts
                if not status.accepted and not _told(self.mirror.get(key), status)
            ),
        )

    def wrote(self, changes: Changes, *, revision: int) -> None:
        """They are stored; ``revision`` is the last one's in the own bucket."""
        self.mirror.wrote(changes.items, revision=revision)

    def _desired(self, noted: Noted, *, revision: int) -> dict[str, PolicyStatus]:
        desired = {
            key_of(ref): PolicyStatus(
                policy=ref,
                uid=refused.uid,
                resource_version=refused.resource_version,
                accepted=False,
                errors=refused.errors,
            )
            for ref, refused in noted.refused.items()
        }
        for policy, subjects in noted.in_force:
            key = key_of(policy.ref)
            accepted = PolicyStatus(
                policy=policy.ref, uid=policy.uid, resource_version=policy.resource_version, accepted=True
            )
            desired[key] = msgspec.structs.replace(
                desired.get(key, accepted),
                in_force=InForce(resource_version=policy.resource_version, spec=policy.spec),
                revision=self._since(policy, revision=revision),
                subjects=subjects,
                rules=policy.rule_count,
            )
        return desired

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
