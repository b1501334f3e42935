"""Collects the faults of one policy object while it is read, so that a user sees them at once.

An object may have any number of any length, and what is told of it has to fit into a message.
"""

from __future__ import annotations

from shared.contract.policy import FieldError

MOST_ERRORS = 20
_MOST_CHARACTERS = 300


class Faults:
    """Field errors in the order in which they were found."""

    def __init__(self) -> None:
        self._errors: list[FieldError] = []
        self._more = 0

    def add(self, field: str, reason: str, *, remedy: str) -> None:
        """Record that ``field`` (a path such as ``spec.ingress[0].ports[1].port``) cannot be enforced."""
        if len(self._errors) < MOST_ERRORS:
            self._errors.append(FieldError(field=_short(field), reason=_short(reason), remedy=_short(remedy)))
        else:
            self._more += 1

    @property
    def errors(self) -> tuple[FieldError, ...]:
        """The first faults, and how many more there are."""
        if not self._more:
            return tuple(self._errors)
        more = FieldError(
            field="(object)", reason=f"{self._more} more", remedy="correct these first, and see what remains"
        )
        return (*self._errors, more)


def _short(text: str) -> str:
    return text if len(text) <= _MOST_CHARACTERS else f"{text[:_MOST_CHARACTERS]}…"
