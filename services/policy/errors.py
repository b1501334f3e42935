"""All errors of the policy service.

::

    PolicyError
    ├── PolicyRefused      a policy object cannot be enforced as written; its last accepted version stays
    └── HashCollision      two different contents have one 64-bit id; one of the policies is refused for it
"""

from __future__ import annotations

from collections.abc import Iterable

from shared.contract.policy import FieldError, PolicyRef


class PolicyError(Exception):
    """Base of all errors of this service."""


class PolicyRefused(PolicyError):
    """A policy object is refused whole; ``errors`` name each field, the reason and the remedy."""

    def __init__(self, *, policy: PolicyRef, errors: tuple[FieldError, ...]) -> None:
        self.policy = policy
        self.errors = errors
        super().__init__(f"{name_of(policy)}: " + "; ".join(text_of(error) for error in errors))


class HashCollision(PolicyError):
    """Raised where ids are interned, before anything with the doubtful id is published.

    Nothing has changed by what raises it, so it may be tried again without one of the policies that
    have one of ``elements`` as a selector or are among ``policies``.
    """

    def __init__(
        self, *, what: str, id: str, elements: Iterable[str] = (), policies: Iterable[PolicyRef] = ()
    ) -> None:
        self.what = what
        self.id = id
        self.elements = frozenset(elements)
        self.policies = frozenset(policies)
        super().__init__(
            f"two different {what}s have the id {id}: the last published policy stays in force; "
            f"change the selectors or names of the policy that was added last"
        )


def name_of(policy: PolicyRef) -> str:
    """``Kind namespace/name``, or ``Kind name`` for a cluster-wide policy."""
    name = f"{policy.namespace}/{policy.name}" if policy.namespace else policy.name
    return f"{policy.kind} {name}"


def text_of(error: FieldError) -> str:
    """A field error as one sentence."""
    return f"{error.field}: {error.reason}; {error.remedy}"
