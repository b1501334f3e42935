"""All errors of the policy service.

::

    PolicyError
    ├── PolicyRefused      a policy object cannot be enforced as written; it is left out whole
    └── HashCollision      two different contents have one 64-bit id; nothing more is published
"""

from __future__ import annotations

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
    """Raised where ids are interned, before anything with the doubtful id is published."""

    def __init__(self, *, what: str, id: str) -> None:
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
