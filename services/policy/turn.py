"""Whose turn it is to publish when several replicas run.

Replicas compute the same state, but do not hear of changes at the same moment; one that is behind would undo
what another has published. So whoever made the last commit goes on at once, and the others publish only
what is still wrong when there was no commit for a while: then the first one is gone, or does not keep up. One
that is not current cannot know what is wrong: it waits until it is, unless nothing was ever published.
"""

from __future__ import annotations


class Turn:
    """The turn of this replica. Times are of one monotonic clock, in seconds."""

    def __init__(self, *, patience: float) -> None:
        self._patience = patience
        self._own = 0
        self._waiting_since: float | None = None
        self._waiting_at = 0
        """The last commit when the wait began: each commit of another replica begins it anew."""

    def is_own(self, *, revision: int, now: float, current: bool = True) -> bool:
        """Whether to publish a difference now, ``revision`` being the last commit, 0 for none."""
        if revision in (0, self._own):
            return True
        if not current:
            self._waiting_since = None
            return False
        if self._waiting_since is None or revision != self._waiting_at:
            self._waiting_since, self._waiting_at = now, revision
        return now >= self._waiting_since + self._patience

    def taken(self, *, revision: int) -> None:
        """This replica made the commit ``revision``."""
        self._own = revision
        self._waiting_since = None

    def nothing_to_do(self) -> None:
        """What is published is what this replica wants."""
        self._waiting_since = None

    @property
    def due(self) -> float | None:
        """When it is this replica's turn if nobody else publishes; None when it does not wait for that."""
        return None if self._waiting_since is None else self._waiting_since + self._patience
