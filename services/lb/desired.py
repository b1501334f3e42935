"""The pure core: Services and EndpointSlices -> service records.

An event touches one Service: :meth:`DesiredServices.settle` recomputes the records of exactly those. The
records depend on the objects held, not on their order. An object that was refused keeps its last good
version; a Service that was never readable, itself or one of its slices, keeps whatever is published for it.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable

import msgspec

from services.lb.objects import EndpointSlice, FrontendPort, ObjectName, Service, SlicePortName
from shared.contract.names import service_key
from shared.contract.service import Backend, ServicePort, ServiceRecord
from shared.index import discard


class DesiredServices:
    """All objects and, after :meth:`settle`, all records by key."""

    def __init__(self) -> None:
        self.records: dict[str, ServiceRecord] = {}
        self.backend_count = 0
        """Backends of all ports of all records."""
        self._services: dict[ObjectName, Service | None] = {}
        self._slices: dict[ObjectName, EndpointSlice] = {}
        self._slices_of: defaultdict[ObjectName, set[ObjectName]] = defaultdict(set)
        self._unread_services: set[ObjectName] = set()
        self._unread_slices: dict[ObjectName, ObjectName] = {}
        """Slices that were refused and have no last good version, with the Services that own them."""
        self._unread_slices_of: defaultdict[ObjectName, set[ObjectName]] = defaultdict(set)
        self._dirty: set[ObjectName] = set()

    @property
    def unreadable(self) -> set[str]:
        """Keys of Services of which something was refused that has no last good version: what is published
        stands."""
        owners = self._unread_slices_of.keys() & self._services.keys()
        return {_key(name) for name in self._unread_services | owners}

    def set_service(self, name: ObjectName, service: Service | None) -> None:
        """A Service is there or changed; None when it has no frontends here."""
        self._services[name] = service
        self._unread_services.discard(name)
        self._dirty.add(name)

    def refuse_service(self, name: ObjectName) -> None:
        """A Service is there but cannot be read."""
        if name not in self._services:
            self._services[name] = None
            self._unread_services.add(name)

    def remove_service(self, name: ObjectName) -> None:
        """A Service is gone."""
        self._services.pop(name, None)
        self._unread_services.discard(name)
        self._dirty.add(name)

    def set_slice(self, name: ObjectName, endpoint_slice: EndpointSlice | None) -> None:
        """A slice is there, changed, or is gone (None)."""
        self._read(name)
        before = self._slices.pop(name, None)
        for known in (before, endpoint_slice):
            if known is not None and known.service is not None:
                self._dirty.add(known.service)
        if before is not None and before.service is not None:
            discard(self._slices_of, before.service, name)
        if endpoint_slice is not None:
            self._slices[name] = endpoint_slice
            if endpoint_slice.service is not None:
                self._slices_of[endpoint_slice.service].add(name)

    def refuse_slice(self, name: ObjectName, *, service: ObjectName | None) -> None:
        """A slice is there, and says whose it is, but cannot be read."""
        self._read(name)
        if name not in self._slices and service is not None:
            self._unread_slices[name] = service
            self._unread_slices_of[service].add(name)

    def _read(self, name: ObjectName) -> None:
        owner = self._unread_slices.pop(name, None)
        if owner is not None:
            discard(self._unread_slices_of, owner, name)
            self._dirty.add(owner)

    def settle(self) -> set[str]:
        """Recompute what was touched; returns the keys of records that may differ from before."""
        dirty, self._dirty = self._dirty, set()
        for name in dirty:
            service = self._services.get(name)
            before = self.records.pop(_key(name), None)
            self.backend_count -= _backends(before)
            if service is not None and _has_frontends(service):
                record = self.records[_key(name)] = self._record(name, service)
                self.backend_count += _backends(record)
        return {_key(name) for name in dirty}

    def _record(self, name: ObjectName, service: Service) -> ServiceRecord:
        slices = [self._slices[each] for each in sorted(self._slices_of.get(name, ()))]
        return ServiceRecord(
            namespace=service.namespace,
            name=service.name,
            uid=service.uid,
            kind=service.kind,
            cluster_ips=service.cluster_ips,
            external_ips=service.external_ips,
            load_balancer_ips=service.load_balancer_ips,
            ports=tuple(_service_port(port, slices, service) for port in service.ports),
            affinity_seconds=service.affinity_seconds,
            internal_local=service.internal_local,
            external_local=service.external_local,
        )


def _key(name: ObjectName) -> str:
    return service_key(namespace=name.namespace, name=name.name)


def _backends(record: ServiceRecord | None) -> int:
    return sum(len(port.backends) for port in record.ports) if record else 0


def _has_frontends(service: Service) -> bool:
    """Whether any address or node port is allocated yet."""
    addresses = service.cluster_ips or service.external_ips or service.load_balancer_ips
    return bool(service.ports) and (bool(addresses) or any(port.node_port for port in service.ports))


def _service_port(port: FrontendPort, slices: Iterable[EndpointSlice], service: Service) -> ServicePort:
    wanted = SlicePortName(port.name, port.protocol)
    merged: dict[tuple[str, int], Backend] = {}
    for endpoint_slice in slices:
        for backend in endpoint_slice.backends.get(wanted, ()):
            address = (backend.ip, backend.port)
            rival = merged.get(address)
            if rival is None or _preference(backend) > _preference(rival):
                merged[address] = backend
    backends = sorted(merged.values())
    if service.publish_not_ready:
        backends = [msgspec.structs.replace(backend, ready=True) for backend in backends]
    return ServicePort(
        name=port.name,
        protocol=port.protocol,
        port=port.port,
        node_port=port.node_port,
        app_protocol=port.app_protocol,
        backends=tuple(backends),
    )


def _preference(backend: Backend) -> tuple[bool, bool, bool, Backend]:
    """Of one address listed twice, as while the controller moves it between slices, the healthiest counts."""
    return (backend.ready, backend.serving, not backend.terminating, backend)
