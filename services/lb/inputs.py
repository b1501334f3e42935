"""Puts Services and EndpointSlices as the API server tells them into the desired state.

An object that cannot be read is told of by name, and its last good version stays in force.
"""

from __future__ import annotations

from services.lb.desired import DesiredServices
from services.lb.objects import ObjectName, owner_of_slice, read_service, read_slice
from shared.kubernetes import Object, ObjectChange
from shared.runtime.intake import ObjectIntake
from shared.runtime.notices import Notices


class Inputs:
    """Both kinds of input."""

    def __init__(self, desired: DesiredServices, *, notices: Notices) -> None:
        self._desired = desired
        self.services = ObjectIntake(
            "Service", _name_of, self._put_service, notices=notices, refused=self._refuse_service
        )
        self.slices = ObjectIntake(
            "EndpointSlice", _name_of, self._put_slice, notices=notices, refused=self._refuse_slice
        )

    def _put_service(self, name: ObjectName, data: Object | None) -> None:
        if data is None:
            self._desired.remove_service(name)
        else:
            self._desired.set_service(name, read_service(data, namespace=name.namespace, name=name.name))

    def _refuse_service(self, name: ObjectName, data: Object) -> None:
        self._desired.refuse_service(name)

    def _put_slice(self, name: ObjectName, data: Object | None) -> None:
        read = read_slice(data, namespace=name.namespace, name=name.name) if data is not None else None
        self._desired.set_slice(name, read)

    def _refuse_slice(self, name: ObjectName, data: Object) -> None:
        self._desired.refuse_slice(name, service=owner_of_slice(data, namespace=name.namespace))


def _name_of(change: ObjectChange) -> ObjectName:
    return ObjectName(change.namespace, change.name)
