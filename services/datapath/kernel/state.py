"""All maps of the node that this process writes, and the one order in which changes reach them.

Within one :meth:`KernelState.apply`: what is referred to is written before what refers to it, and erased in
the opposite order afterwards. A packet in between sees the old or the new state of each reference, both of
which are complete. Meanwhile the epoch is odd, so that no verdict is cached; then it is a new even one, so
that every cached verdict is reached again. A process that dies in between leaves it odd.

Classes are written in two steps: those of new identities before the addresses that lead to them, changed ones
after, because an address that an ``ipBlock`` sets apart must have its own class before its identity's moves.
Prefixes are gone before endpoints move to sets that do not know their classes.

A write that fails holds back what comes after it: with a row or a prefix missing, new references could let
pass what must not. Services and policy do not refer to each other, so neither holds back the other. An
endpoint that is gone is erased in any case, and so is the identity of an address that is not to have it any
more. A full map makes room for itself by what is not desired and nobody asks for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass
from pathlib import Path

from services.datapath.kernel.errors import KernelError
from services.datapath.kernel.layout import (
    DROP_COUNTER,
    ENDPOINT,
    FRONTEND,
    IPV4,
    NODE_CONFIG,
    PEER,
    ROW_KEY,
    ROW_SIZE,
    SLOT_KEY,
    U32,
    U64,
)
from services.datapath.kernel.maps import KernelMap
from services.datapath.kernel.mirror import Mirror

_ONLY = U32.pack(0)


@dataclass(frozen=True)
class Applied:
    """What was in the way of each half of one :meth:`KernelState.apply`; None: nothing."""

    policy: KernelError | OSError | None = None
    services: KernelError | OSError | None = None

    @property
    def problems(self) -> tuple[str, ...]:
        """Sentences about all of it."""
        return tuple(str(failure) for failure in (self.policy, self.services) if failure is not None)


class KernelState:
    """The maps below ``directory`` on bpffs. Not safe for use by two tasks at once: callers hold one lock."""

    def __init__(self, directory: Path) -> None:
        def opened(name: str, key: int, value: int) -> KernelMap:
            return KernelMap(name, path=directory / name, key_size=key, value_size=value)

        self._config = opened("node_config", U32.size, NODE_CONFIG.size)
        self.connections = opened("ct4", IPV4.tuple_.size, IPV4.ct_entry.size)
        self.drops = opened("drops", U32.size, DROP_COUNTER.size)
        self.events_lost = opened("events_lost", U32.size, U64.size)
        self.rows = Mirror(opened("policy_rows", ROW_KEY.size, ROW_SIZE))
        self.classes = Mirror(opened("identity_class", U32.size, U64.size))
        self.endpoints = Mirror(opened("endpoints4", IPV4.address_size, ENDPOINT.size))
        self.ipcache = Mirror(opened("ipcache4", IPV4.address_size, PEER.size))
        self.cidrs = Mirror(opened("cidrs4", IPV4.prefix.size, PEER.size))
        self.frontends = Mirror(opened("frontends4", IPV4.frontend_key.size, FRONTEND.size))
        self.backends = Mirror(opened("backends4", SLOT_KEY.size, IPV4.backend.size))
        self._services = (self.backends, self.frontends)
        self._policy = (self.rows, self.cidrs, self.ipcache, self.classes, self.endpoints)

    @property
    def mirrors(self) -> tuple[Mirror, ...]:
        """All maps that hold desired state."""
        return (*self._services, *self._policy)

    def set_mac(self, mac: bytes) -> None:
        """Sets the address of the host side of all veths, and makes every cached verdict void."""
        epoch, _ = self._read_config()
        self._write_config(epoch=(epoch | 1) + 1, mac=mac)

    def apply(self) -> Applied:
        """Brings all pending changes into the kernel, as far as it takes them."""
        if not any(mirror.pending for mirror in self.mirrors):
            return Applied()
        epoch, mac = self._read_config()
        self._write_config(epoch=epoch | 1, mac=mac)
        services = _attempt(self._apply_services)
        policy = _attempt(self._apply_policy)
        if policy is not None:
            _attempt(self.endpoints.erase)
            _attempt(self.ipcache.withdraw)
        self._write_config(epoch=(epoch | 1) + 1, mac=mac)
        return Applied(policy=policy, services=services)

    def _apply_services(self) -> None:
        self.backends.write(needless=self._slots_without_frontend)
        self.frontends.write(needless=_all)
        self.frontends.erase()
        self.backends.erase()

    def _apply_policy(self) -> None:
        self.rows.write(needless=self._rows_without_endpoint)
        self.classes.write(new_only=True, needless=_all)
        self.cidrs.write()
        self.ipcache.write(needless=_all)
        self.classes.write()
        self.cidrs.erase()
        self.endpoints.write(needless=_all)
        for mirror in reversed(self._policy):
            mirror.erase()

    def drift(self) -> dict[str, dict[bytes, bytes | None]]:
        """What the kernel holds where it is not what was last known, by map; see :meth:`Mirror.drift`."""
        return {mirror.name: mirror.drift() for mirror in self.mirrors}

    def repair(self, drift: Mapping[str, Mapping[bytes, bytes | None]]) -> int:
        """Schedules what is desired instead; returns the number of entries found wrong."""
        for mirror in self.mirrors:
            mirror.repair(drift[mirror.name])
        return sum(map(len, drift.values()))

    def _slots_without_frontend(self, slots: Set[bytes]) -> Set[bytes]:
        asked = {FRONTEND.unpack(value)[0] for value in self.frontends.values()}
        return {slot for slot in slots if SLOT_KEY.unpack(slot)[0] not in asked}

    def _rows_without_endpoint(self, rows: Set[bytes]) -> Set[bytes]:
        asked = {set_ for value in self.endpoints.values() for set_ in ENDPOINT.unpack(value)[:2]}
        return {row for row in rows if ROW_KEY.unpack(row)[0] not in asked}

    def _read_config(self) -> tuple[int, bytes]:
        epoch, mac = NODE_CONFIG.unpack(self._config.get(_ONLY) or bytes(NODE_CONFIG.size))
        return int(epoch), bytes(mac)

    def _write_config(self, *, epoch: int, mac: bytes) -> None:
        self._config.put(_ONLY, NODE_CONFIG.pack(epoch & 0xFFFFFFFF, mac))


def _all(keys: Set[bytes]) -> Set[bytes]:
    """For maps whose missing entries let nothing pass: whoever is unknown is dropped, and what is for a
    Service stays as it is."""
    return keys


def _attempt(change: Callable[[], object]) -> KernelError | OSError | None:
    try:
        change()
    except (KernelError, OSError) as error:
        return error
    return None
