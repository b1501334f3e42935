"""What became of each policy object: bucket ``policy-status``, written after the commit that it speaks of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from services.policy.compiler import Compiler
from services.policy.inputs import Inputs, Refused
from services.policy.model import Policy
from shared.bus import Batch, Mirror
from shared.contract.names import policy_status_key
from shared.contract.policy import PolicyRef, PolicyStatus


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

    def __init__(self, compiler: Compiler, inputs: Inputs) -> None:
        self._compiler = compiler
        self._inputs = inputs
        self._published: Mirror[PolicyStatus] = Mirror()

    def take(self, batch: Batch[PolicyStatus]) -> None:
        """Follows the own bucket."""
        self._published.absorb(batch)

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
        puts = [(key, status) for key, status in desired.items() if self._published.get(key) != status]
        gone = sorted(self._published.live_keys() - desired.keys())
        return Changes(
            items=(*puts, *((key, None) for key in gone)),
            refusals=tuple(
                status
                for key, status in puts
                if not status.accepted and not _told(self._published.get(key), status)
            ),
        )

    def wrote(self, changes: Changes, *, revision: int) -> None:
        """They are stored; ``revision`` is the last one's in the own bucket."""
        self._published.wrote(changes.items, revision=revision)

    def _desired(self, noted: Noted, *, revision: int) -> dict[str, PolicyStatus]:
        desired = {key_of(ref): _refusal(ref, refused) for ref, refused in noted.refused.items()}
        for policy, subjects in noted.in_force:
            key = key_of(policy.ref)
            before = self._published.get(key)
            # What is published stands, so that replicas agree, unless it is of a lost bucket's commit.
            known = before is not None and _same_text(before, policy) and before.revision <= revision
            desired[key] = PolicyStatus(
                policy=policy.ref,
                uid=policy.uid,
                resource_version=policy.resource_version,
                accepted=True,
                revision=before.revision if before is not None and known else revision,
                subjects=subjects,
                rules=policy.rule_count,
            )
        return desired


def _refusal(ref: PolicyRef, refused: Refused) -> PolicyStatus:
    return PolicyStatus(
        policy=ref,
        uid=refused.uid,
        resource_version=refused.resource_version,
        accepted=False,
        errors=refused.refusal.errors,
    )


def _told(before: PolicyStatus | None, now: PolicyStatus) -> bool:
    """Whether this refusal was published before."""
    if before is None or before.accepted:
        return False
    return (before.uid, before.resource_version) == (now.uid, now.resource_version)


def _same_text(status: PolicyStatus, policy: Policy) -> bool:
    """Whether an acceptance was of this version of the object."""
    if not status.accepted:
        return False
    return (status.uid, status.resource_version) == (policy.uid, policy.resource_version)


def key_of(ref: PolicyRef) -> str:
    """Key of a policy's status."""
    return policy_status_key(kind=ref.kind, namespace=ref.namespace, name=ref.name)
