"""All maps of the node that this process writes, and the one order in which changes reach them.

Within one :meth:`KernelState.apply`: what is referred to is written before what refers to it, and erased in
the opposite order afterwards. A packet in between sees the old or the new state of each reference, both of
which are complete. Meanwhile the epoch is odd, so that no verdict is cached; then it is a new even one, so
that every cached verdict is reached again. A process that dies in between leaves it odd.

Classes are written in two steps: those of new identities before the addresses that lead to them, changed ones
after, because an address that an ``ipBlock`` sets apart must have its own class before its identity's moves.
Prefixes are gone before endpoints move to sets that do not know their classes.

A write that fails holds back what comes after it: with a row or a prefix missing, new references could let
pass what must not. A new address or identity without room holds back nothing, for it only loses what it might
reach. Services and policy do not refer to each other, so neither holds back the other. An endpoint that is
gone is erased in any case, and so is the identity of an address that is not to have it any more. A full map
makes room for itself by what is not desired and nobody asks for.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from services.datapath.kernel.errors import KernelError, MapFull
from services.datapath.kernel.layout import (
    DROP_COUNTER,
    ENDPOINT,
    FRONTEND,
    IPV4,
    IPV6,
    NODE_CONFIG,
    PEER,
    ROW_KEY,
    ROW_SIZE,
    SLOT_KEY,
    U32,
    U64,
    Family,
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


class FamilyState:
    """The maps of one address family."""

    def __init__(self, directory: Path, family: Family) -> None:
        def opened(name: str, key: int, value: int) -> KernelMap:
            return _opened(directory, f"{name}{family.version}", key=key, value=value)

        self.family = family
        self.connections = opened("ct", family.tuple_.size, family.ct_entry.size)
        self.endpoints = Mirror(opened("endpoints", family.address_size, ENDPOINT.size))
        self.ipcache = Mirror(opened("ipcache", family.address_size, PEER.size))
        self.cidrs = Mirror(opened("cidrs", family.prefix.size, PEER.size))
        self.frontends = Mirror(opened("frontends", family.frontend_key.size, FRONTEND.size))
        self.backends = Mirror(opened("backends", SLOT_KEY.size, family.backend.size))

    @property
    def mirrors(self) -> tuple[Mirror, ...]:
        """Those that hold desired state."""
        return (self.backends, self.frontends, self.cidrs, self.ipcache, self.endpoints)

    def slots_without_frontend(self, slots: Set[bytes]) -> Set[bytes]:
        """Those whose backend set belongs to no frontend in the kernel."""
        asked = {FRONTEND.unpack(value)[0] for value in self.frontends.values()}
        return {slot for slot in slots if SLOT_KEY.unpack(slot)[0] not in asked}


class KernelState:
    """The maps below ``directory`` on bpffs. Not safe for use by two tasks at once: callers hold one lock."""

    def __init__(self, directory: Path) -> None:
        self._config = _opened(directory, "node_config", key=U32.size, value=NODE_CONFIG.size)
        self.drops = _opened(directory, "drops", key=U32.size, value=DROP_COUNTER.size)
        self.events_lost = _opened(directory, "events_lost", key=U32.size, value=U64.size)
        self.rows = Mirror(_opened(directory, "policy_rows", key=ROW_KEY.size, value=ROW_SIZE))
        self.classes = Mirror(_opened(directory, "identity_class", key=U32.size, value=U64.size))
        self.v4 = FamilyState(directory, IPV4)
        self.v6 = FamilyState(directory, IPV6)

    def close(self) -> None:
        """Gives all descriptors back; the maps stay pinned."""
        for mirror in self.mirrors:
            mirror.close()
        for held in (
            self._config,
            self.drops,
            self.events_lost,
            *(each.connections for each in self.families),
        ):
            held.close()

    @property
    def families(self) -> tuple[FamilyState, ...]:
        """Both address families."""
        return (self.v4, self.v6)

    def of(self, ip: str) -> FamilyState:
        """The maps for an address or a prefix."""
        return self.v6 if ":" in ip else self.v4

    @property
    def mirrors(self) -> tuple[Mirror, ...]:
        """All maps that hold desired state."""
        return (self.rows, self.classes, *(each for family in self.families for each in family.mirrors))

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
        for family in self.families if policy is not None else ():
            _attempt(family.endpoints.erase)
            _attempt(partial(family.ipcache.withdraw, but=_same_identity))
        self._write_config(epoch=(epoch | 1) + 1, mac=mac)
        return Applied(policy=policy, services=services)

    def _apply_services(self) -> None:
        for family in self.families:
            family.backends.write(needless=family.slots_without_frontend)
            family.frontends.write(needless=_all)
            family.frontends.erase()
            family.backends.erase()

    def _apply_policy(self) -> None:
        families = self.families
        full: list[MapFull] = []
        self.rows.write(needless=self._rows_without_endpoint)
        _unless_full(self.classes, full, new_only=True)
        for family in families:
            family.cidrs.write()
            _unless_full(family.ipcache, full)
        _unless_full(self.classes, full)
        for family in families:
            family.cidrs.erase()
            family.endpoints.write(needless=_all)
        for family in families:
            family.endpoints.erase()
        self.classes.erase()
        for family in families:
            family.ipcache.erase()
        self.rows.erase()
        if full:
            raise full[0]

    def drift(self) -> dict[str, dict[bytes, bytes | None]]:
        """What the kernel holds where it is not what was last known, by map; see :meth:`Mirror.drift`."""
        return {mirror.name: mirror.drift() for mirror in self.mirrors}

    def repair(self, drift: Mapping[str, Mapping[bytes, bytes | None]]) -> int:
        """Schedules what is desired instead; returns the number of entries found wrong."""
        for mirror in self.mirrors:
            mirror.repair(drift[mirror.name])
        return sum(map(len, drift.values()))

    def _rows_without_endpoint(self, rows: Set[bytes]) -> Set[bytes]:
        endpoints = (value for family in self.families for value in family.endpoints.values())
        asked = {policy_set for value in endpoints for policy_set in ENDPOINT.unpack(value)[:2]}
        return {row for row in rows if ROW_KEY.unpack(row)[0] not in asked}

    def _read_config(self) -> tuple[int, bytes]:
        epoch, mac = NODE_CONFIG.unpack(self._config.get(_ONLY) or bytes(NODE_CONFIG.size))
        return int(epoch), bytes(mac)

    def _write_config(self, *, epoch: int, mac: bytes) -> None:
        self._config.put(_ONLY, NODE_CONFIG.pack(epoch & 0xFFFFFFFF, mac))


def _opened(directory: Path, name: str, *, key: int, value: int) -> KernelMap:
    return KernelMap(name, path=directory / name, key_size=key, value_size=value)


def _unless_full(mirror: Mirror, full: list[MapFull], *, new_only: bool = False) -> None:
    """Writes what there is room for; what was changed only always has it."""
    try:
        mirror.write(new_only=new_only, needless=_all)
    except MapFull as error:
        full.append(error)


def _same_identity(before: bytes, after: bytes) -> bool:
    """Whether an address is its owner's as before, in another class."""
    return bool(PEER.unpack(before)[1] == PEER.unpack(after)[1])


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
