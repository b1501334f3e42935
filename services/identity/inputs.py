"""Puts what the API server and the datapaths tell into the desired state.

An object or claim that cannot be read is told of by name, and its last good version stays in force.
"""

from __future__ import annotations

from services.identity.desired import DesiredState
from services.identity.objects import PodName, read_namespace, read_node, read_pod
from shared.bus import Batch
from shared.contract.identity import Claim
from shared.kubernetes import Object
from shared.runtime.intake import Entries, ObjectIntake
from shared.runtime.notices import Notices

UNREADABLE_CLAIM = "claim-unreadable"


class Inputs:
    """The four kinds of input."""

    def __init__(self, desired: DesiredState, *, notices: Notices) -> None:
        self._desired = desired
        self._notices = notices
        self._claims: Entries[Claim] = Entries()
        self.pods = ObjectIntake(
            "pod", lambda change: PodName(change.namespace, change.name), self._put_pod, notices=notices
        )
        self.namespaces = ObjectIntake(
            "namespace", lambda change: change.name, self._put_namespace, notices=notices
        )
        self.nodes = ObjectIntake("node", lambda change: change.name, self._put_node, notices=notices)

    def take_claims(self, batch: Batch[Claim]) -> None:
        """One batch of the bucket ``claims``."""
        for entry in self._claims.of(batch):
            self._notices.clear(UNREADABLE_CLAIM, about=entry.key)
            self._desired.set_claim(entry.key, entry.value)
        for error in batch.errors:
            message = f"claim ignored, its datapath must write it again: {error}"
            self._notices.report(
                UNREADABLE_CLAIM, about=error.key, object=f"Claim {error.key}", message=message
            )

    def _put_pod(self, name: PodName, data: Object | None) -> None:
        pod = read_pod(data, namespace=name.namespace, name=name.name) if data is not None else None
        self._desired.set_pod(name, pod)

    def _put_namespace(self, name: str, data: Object | None) -> None:
        self._desired.set_namespace(name, read_namespace(data, name=name) if data is not None else None)

    def _put_node(self, name: str, data: Object | None) -> None:
        self._desired.set_node(name, read_node(data, name=name) if data is not None else None)
