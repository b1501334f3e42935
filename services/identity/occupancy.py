"""Raises the alarm before identity numbers run out."""

from __future__ import annotations

from services.identity import metrics
from shared.runtime.notices import Notices

THRESHOLDS = (50, 80)
"""Percent of all numbers."""
_HYSTERESIS = 5
"""Percent below a threshold at which its alarm ends, so that churn around it does not repeat it."""

KIND = "identity-occupancy"


class Occupancy:
    """Watches how many numbers are held."""

    def __init__(self, *, capacity: int, notices: Notices) -> None:
        self._capacity = capacity
        self._notices = notices
        self._raised: set[int] = set()

    def observe(self, held: int) -> bool:
        """Take the number held now; True when an alarm was raised or ended."""
        percent = 100 * held / self._capacity
        metrics.ALLOCATED.set(held)
        metrics.OCCUPANCY.set(percent / 100)
        before = set(self._raised)
        for threshold in THRESHOLDS:
            if percent >= threshold:
                self._raised.add(threshold)
                message = (
                    f"more than {threshold} % of the {self._capacity} identity numbers are held; exclude "
                    "labels that differ from pod to pod with --exclude-label, or shorten --release-after"
                )
                self._notices.report(KIND, about=str(threshold), object="identities", message=message)
            elif percent < threshold - _HYSTERESIS:
                self._raised.discard(threshold)
                self._notices.clear(KIND, about=str(threshold))
            metrics.ALARM.labels(str(threshold)).set(int(threshold in self._raised))
        return self._raised != before
