"""Puts what the API server and the datapaths tell into the desired state.

A snapshot replaces all objects of its kind. An object that cannot be read is refused by name, and its last
good version stays in force.
"""

from __future__ import annotations

from collections.abc import Callable, Set
from typing import TypeVar

from services.identity.desired import DesiredState
from services.identity.notices import Notices
from services.identity.objects import PodName, read_namespace, read_node, read_pod
from shared.bus import Batch
from shared.contract.identity import Claim
from shared.kubernetes import ObjectBatch, ObjectChange, ObjectRefused

K = TypeVar("K")

_GONE = ObjectChange("", "", None, "")

REFUSED = "object-refused"
UNREADABLE_CLAIM = "claim-unreadable"


class Inputs:
    """The four kinds of input; each method takes one batch."""

    def __init__(self, desired: DesiredState, *, notices: Notices) -> None:
        self._desired = desired
        self._notices = notices

    def pods(self, batch: ObjectBatch) -> None:
        """Pods of all namespaces."""

        def put(change: ObjectChange, name: PodName) -> None:
            data = change.object
            pod = read_pod(data, namespace=name.namespace, name=name.name) if data is not None else None
            self._desired.set_pod(name, pod)

        def name_of(change: ObjectChange) -> PodName:
            return PodName(change.namespace, change.name)

        self._take(batch, name_of, put, self._desired.pod_names, "pod")

    def namespaces(self, batch: ObjectBatch) -> None:
        """Namespaces."""

        def put(change: ObjectChange, name: str) -> None:
            data = change.object
            self._desired.set_namespace(name, read_namespace(data, name=name) if data is not None else None)

        self._take(batch, lambda change: change.name, put, self._desired.namespace_names, "namespace")

    def nodes(self, batch: ObjectBatch) -> None:
        """Nodes."""

        def put(change: ObjectChange, name: str) -> None:
            data = change.object
            self._desired.set_node(name, read_node(data, name=name) if data is not None else None)

        self._take(batch, lambda change: change.name, put, self._desired.node_names, "node")

    def claims(self, batch: Batch[Claim]) -> None:
        """The bucket ``claims``."""
        if batch.snapshot:
            named = {entry.key for entry in batch.entries} | {error.key for error in batch.errors}
            for key in self._desired.claim_keys() - named:
                self._desired.set_claim(key, None)
        for entry in batch.entries:
            self._notices.clear(UNREADABLE_CLAIM, about=entry.key)
            self._desired.set_claim(entry.key, entry.value)
        for error in batch.errors:
            message = f"claim ignored, its datapath must write it again: {error}"
            self._notices.report(
                UNREADABLE_CLAIM, about=error.key, object=f"Claim {error.key}", message=message
            )

    def _take(
        self,
        batch: ObjectBatch,
        name_of: Callable[[ObjectChange], K],
        put: Callable[[ObjectChange, K], None],
        held: Callable[[], Set[K]],
        resource: str,
    ) -> None:
        if batch.snapshot:
            for name in held() - {name_of(change) for change in batch.objects}:
                put(_GONE, name)
        for change in batch.objects:
            name = name_of(change)
            about = f"{resource} {change.namespace}/{change.name}"
            try:
                put(change, name)
            except ObjectRefused as refusal:
                self._notices.report(REFUSED, about=about, object=refusal.object, message=str(refusal))
            else:
                self._notices.clear(REFUSED, about=about)
