"""Puts Services and EndpointSlices as the API server tells them into the desired state.

A snapshot replaces all objects of its kind. An object that cannot be read is refused by name, once for each
reason.
"""

from __future__ import annotations

from collections.abc import Iterable

from services.lb.desired import DesiredServices
from services.lb.objects import ObjectName, read_service, read_slice
from shared.kubernetes import ObjectBatch, ObjectChange, ObjectRefused


class Inputs:
    """Both kinds of input; each method takes one batch."""

    def __init__(self, desired: DesiredServices) -> None:
        self._desired = desired
        self._refused: dict[tuple[str, ObjectName], str] = {}
        self._untold: list[ObjectRefused] = []

    @property
    def refused(self) -> int:
        """How many objects cannot be read at present."""
        return len(self._refused)

    def drain(self) -> list[ObjectRefused]:
        """Refusals to be told now, each returned once."""
        untold, self._untold = self._untold, []
        return untold

    def services(self, batch: ObjectBatch) -> None:
        """Services of all namespaces."""
        if batch.snapshot:
            for name in self._desired.service_names() - _names(batch):
                self._desired.remove_service(name)
                self._refused.pop(("Service", name), None)
        for change in batch.objects:
            name = ObjectName(change.namespace, change.name)
            if change.object is None:
                self._desired.remove_service(name)
                self._refused.pop(("Service", name), None)
                continue
            try:
                service = read_service(change.object, namespace=name.namespace, name=name.name)
            except ObjectRefused as refusal:
                self._refuse("Service", name, refusal)
                self._desired.refuse_service(name)
            else:
                self._refused.pop(("Service", name), None)
                self._desired.set_service(name, service)

    def slices(self, batch: ObjectBatch) -> None:
        """EndpointSlices of all namespaces."""
        if batch.snapshot:
            gone = self._desired.slice_names() - _names(batch)
            self._take_slices(ObjectChange(name.namespace, name.name, None, "") for name in gone)
        self._take_slices(batch.objects)

    def _take_slices(self, changes: Iterable[ObjectChange]) -> None:
        for change in changes:
            name = ObjectName(change.namespace, change.name)
            try:
                read = (
                    read_slice(change.object, namespace=name.namespace, name=name.name)
                    if change.object is not None
                    else None
                )
            except ObjectRefused as refusal:
                self._refuse("EndpointSlice", name, refusal)
            else:
                self._refused.pop(("EndpointSlice", name), None)
                self._desired.set_slice(name, read)

    def _refuse(self, kind: str, name: ObjectName, refusal: ObjectRefused) -> None:
        if self._refused.get((kind, name)) != str(refusal):
            self._refused[kind, name] = str(refusal)
            self._untold.append(refusal)


def _names(batch: ObjectBatch) -> set[ObjectName]:
    return {ObjectName(change.namespace, change.name) for change in batch.objects}
