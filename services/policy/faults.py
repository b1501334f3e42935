"""Collects every fault of one policy object while it is read, so that a user sees all of them at once."""

from __future__ import annotations

from shared.contract.policy import FieldError


class Faults:
    """Field errors in the order in which they were found."""

    def __init__(self) -> None:
        self._errors: list[FieldError] = []

    def add(self, field: str, reason: str, *, remedy: str) -> None:
        """Record that ``field`` (a path such as ``spec.ingress[0].ports[1].port``) cannot be enforced."""
        self._errors.append(FieldError(field=field, reason=reason, remedy=remedy))

    @property
    def errors(self) -> tuple[FieldError, ...]:
        """All faults so far."""
        return tuple(self._errors)
