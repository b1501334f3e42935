"""All errors of the identity service.

IdentityError
├── NumbersExhausted      no identity number is free
└── AllocationContended   other replicas kept changing the same allocation; the next round tries again
"""

from __future__ import annotations


class IdentityError(Exception):
    """Base of all errors of this service."""


class NumbersExhausted(IdentityError):
    """Every identity number is held; the pods of the named label set get no identity and no traffic."""

    def __init__(self, *, labels: str, capacity: int) -> None:
        super().__init__(
            f"no identity number is free for {labels}: all {capacity} are held; exclude labels that differ "
            "from pod to pod with --exclude-label, or shorten --release-after"
        )


class AllocationContended(IdentityError):
    """Too many lost compare-and-sets on one label set in a row; retried with the next publication."""

    def __init__(self, *, labels: str, attempts: int) -> None:
        super().__init__(
            f"the number of {labels} changed under {attempts} attempts to acquire it; it is tried again"
        )
