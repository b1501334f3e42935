"""What the maps ``frontends`` and ``backends`` are to hold for the Services of the bucket ``services``.

Like :mod:`services.datapath.desire` it touches no kernel: it calls ``want`` of the mirrors, for what a commit
changes only.
"""

from __future__ import annotations

from collections import Counter

from services.datapath.committed import Committed
from services.datapath.desired import ServiceEntries, service_entries
from services.datapath.kernel.state import FamilyState, KernelState
from shared.bus import Batch
from shared.contract.base import Message
from shared.contract.service import ServiceRecord


class Frontends:
    """The committed Services."""

    def __init__(self, kernel: KernelState, *, node: str, problems: dict[str, str]) -> None:
        """Of a node; ``problems`` takes sentences about what cannot be realised, by object."""
        self.names: dict[tuple[str, int, int], tuple[str, str]] = {}
        """(frontend address, port, protocol number) to the Service's (namespace, name)."""
        self._services: Committed[Message] = Committed()
        self._kernel = kernel
        self._node = node
        self._problems = problems
        self._entries: dict[str, ServiceEntries] = {}
        self._frontends: dict[tuple[FamilyState, bytes], dict[str, bytes]] = {}
        self._backends: Counter[tuple[FamilyState, bytes]] = Counter()

    @property
    def revision(self) -> int:
        """The last commit."""
        return self._services.revision

    def take(self, batch: Batch[Message]) -> bool:
        """Follows bucket ``services``; True when a commit is to be applied."""
        first = not self._services.spoken
        change = self._services.take(batch)
        if change is None:
            return False
        if first:
            for family in self._kernel.families:
                family.frontends.want_exactly({})
                family.backends.want_exactly({})
        for key, value in (*change.removed.items(), *change.replaced.items()):
            self._forget_service(key)
            if isinstance(value, ServiceRecord):
                self._name_service(value, known=False)
        for key, value in change.put.items():
            if isinstance(value, ServiceRecord):
                self._enter_service(key, value)
        return True

    def _enter_service(self, key: str, service: ServiceRecord) -> None:
        entries = self._entries[key] = service_entries(service, node=self._node)
        if entries.problems:
            self._problems[key] = "; ".join(entries.problems)
        self._name_service(service, known=True)
        for family in self._kernel.families:
            version = family.family.version
            for slot, value in entries.backends[version].items():
                self._backends[family, slot] += 1
                family.backends.want(slot, value)
            for frontend, value in entries.frontends[version].items():
                self._frontends.setdefault((family, frontend), {})[key] = value
                self._want_frontend(family, frontend)

    def _forget_service(self, key: str) -> None:
        entries = self._entries.pop(key, None)
        self._problems.pop(key, None)
        if entries is None:
            return
        for family in self._kernel.families:
            version = family.family.version
            for slot in entries.backends[version]:
                self._backends[family, slot] -= 1
                if not self._backends[family, slot]:
                    del self._backends[family, slot]
                    family.backends.want(slot, None)
            for frontend in entries.frontends[version]:
                self._frontends[family, frontend].pop(key, None)
                self._want_frontend(family, frontend)

    def _name_service(self, service: ServiceRecord, *, known: bool) -> None:
        for ip in service.cluster_ips:
            for port in service.ports:
                key = (ip, port.port, port.protocol.number)
                if known:
                    self.names[key] = (service.namespace, service.name)
                else:
                    self.names.pop(key, None)

    def _want_frontend(self, family: FamilyState, frontend: bytes) -> None:
        """Two Services with one address are for the API server to prevent; here the first by name has it."""
        claims = self._frontends[family, frontend]
        value = claims[min(claims)] if claims else None
        if not claims:
            del self._frontends[family, frontend]
        family.frontends.want(frontend, value)
