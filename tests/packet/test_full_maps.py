"""What comes of a kernel map that is full: named, held back where it must be, and over when there is room."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from services.datapath.kernel.layout import (
    ENDPOINT,
    FRONTEND,
    IPV4,
    NODE_CONFIG,
    PEER,
    ROW_KEY,
    ROW_SIZE,
    SLOT_KEY,
    U32,
    packed,
    port_bytes,
)
from services.datapath.kernel.loader import Loaded
from services.datapath.kernel.maps import KernelMap
from services.datapath.kernel.state import KernelState
from tests.packet.runs import ROOM

ENDPOINT_VALUE = ENDPOINT.pack(1, 1, 7, 300, 1)


@pytest.fixture
def kernel(small: Loaded) -> Iterator[KernelState]:
    """Empty maps."""
    kernel = KernelState(small.maps)
    for mirror in kernel.mirrors:
        mirror.want_exactly({})
    assert kernel.apply().problems == ()
    yield kernel
    kernel.close()


def address(number: int) -> bytes:
    return packed(f"10.0.0.{number}")


def peers(*numbers: int) -> dict[bytes, bytes]:
    return {address(number): PEER.pack(0, 300 + number) for number in numbers}


def epoch(small: Loaded) -> int:
    config = KernelMap(
        "node_config", path=small.maps / "node_config", key_size=4, value_size=NODE_CONFIG.size
    )
    try:
        return int(NODE_CONFIG.unpack(config.get(U32.pack(0)) or b"")[0])
    finally:
        config.close()


def test_a_full_map_is_named_and_takes_what_it_has_room_for(kernel: KernelState) -> None:
    kernel.v4.ipcache.want_exactly(peers(*range(ROOM + 3)))

    applied = kernel.apply()

    assert "map ipcache4 is full at 8 entries" in str(applied.policy)
    assert applied.services is None
    assert len(kernel.v4.ipcache) == ROOM
    assert not any(kernel.drift().values()), "what was written before it was full is known"


def test_what_would_refer_to_what_is_missing_is_held_back(kernel: KernelState) -> None:
    rows = {ROW_KEY.pack(9, number, 0): bytes(ROW_SIZE) for number in range(ROOM + 1)}
    kernel.rows.want_exactly(rows)
    kernel.v4.endpoints.want(address(1), ENDPOINT_VALUE)
    assert kernel.apply().policy is not None
    assert len(kernel.v4.endpoints) == 0

    kernel.rows.want_exactly({})
    assert kernel.apply().problems == ()
    assert len(kernel.v4.endpoints) == 1


def test_room_is_made_by_what_is_no_longer_desired(kernel: KernelState) -> None:
    kernel.v4.ipcache.want_exactly(peers(*range(ROOM)))
    assert kernel.apply().problems == ()
    kernel.v4.ipcache.want_exactly(peers(*range(2, ROOM + 2)))
    assert kernel.apply().problems == ()
    assert set(kernel.v4.ipcache.known()) == set(peers(*range(2, ROOM + 2)))


def test_services_hold_back_no_policy_and_policy_no_services(kernel: KernelState) -> None:
    for slot in range(ROOM + 1):
        value = IPV4.backend.pack(address(slot), port_bytes(80), 0)
        kernel.v4.backends.want(SLOT_KEY.pack(1, slot), value)
    kernel.v4.frontends.want(IPV4.frontend_key.pack(address(1), port_bytes(80), 6), FRONTEND.pack(1, 9, 0))
    kernel.v4.ipcache.want_exactly(peers(1))
    applied = kernel.apply()
    assert "backends4 is full" in str(applied.services)
    assert applied.policy is None
    assert (len(kernel.v4.ipcache), len(kernel.v4.frontends)) == (1, 0)

    kernel.v4.backends.want_exactly({})
    kernel.v4.ipcache.want_exactly(peers(*range(ROOM + 1)))
    applied = kernel.apply()
    assert applied.services is None
    assert applied.policy is not None
    assert len(kernel.v4.frontends) == 1


def test_cached_verdicts_are_void_after_a_failure_too(small: Loaded, kernel: KernelState) -> None:
    before = epoch(small)
    kernel.classes.want(U32.pack(300), bytes(8))
    kernel.v4.ipcache.want_exactly(peers(*range(ROOM + 1)))
    assert kernel.apply().policy is not None
    assert epoch(small) > before
    assert epoch(small) % 2 == 0, "an odd epoch is for the time of the changes"


def test_an_endpoint_that_is_gone_is_erased_whatever_is_full(kernel: KernelState) -> None:
    kernel.v4.endpoints.want(address(1), ENDPOINT_VALUE)
    assert kernel.apply().problems == ()
    kernel.v4.ipcache.want_exactly(peers(*range(ROOM + 1)))
    kernel.v4.endpoints.want(address(1), None)
    assert kernel.apply().policy is not None
    assert len(kernel.v4.endpoints) == 0


def test_drift_is_mended_and_a_change_made_meanwhile_is_not_undone(
    small: Loaded, kernel: KernelState
) -> None:
    kernel.v4.ipcache.want_exactly(peers(1, 2, 3))
    assert kernel.apply().problems == ()
    other = KernelMap("ipcache4", path=small.maps / "ipcache4", key_size=4, value_size=PEER.size)
    other.delete(address(1))
    other.put(address(2), PEER.pack(0, 999))
    other.put(address(4), PEER.pack(0, 999))

    drift = kernel.drift()
    kernel.v4.ipcache.want(address(2), PEER.pack(0, 777))
    kernel.v4.ipcache.want(address(3), None)
    assert kernel.repair(drift) == 3
    assert kernel.apply().problems == ()

    assert dict(other.items()) == {address(1): PEER.pack(0, 301), address(2): PEER.pack(0, 777)}
    other.close()


def rows(policy_set: int, count: int) -> dict[bytes, bytes]:
    return {ROW_KEY.pack(policy_set, number, 0): bytes(ROW_SIZE) for number in range(count)}


def test_rows_that_no_endpoint_asks_for_make_room(kernel: KernelState) -> None:
    kernel.rows.want_exactly(rows(1, 3) | rows(2, ROOM - 3))
    kernel.v4.endpoints.want(address(1), ENDPOINT_VALUE)
    assert kernel.apply().problems == ()

    kernel.rows.want_exactly(rows(3, 3))
    assert kernel.apply().problems == ()
    assert set(kernel.rows.known()) == rows(3, 3).keys()


def test_rows_that_an_endpoint_asks_for_make_no_room(kernel: KernelState) -> None:
    kernel.rows.want_exactly(rows(1, ROOM))
    kernel.v4.endpoints.want(address(1), ENDPOINT_VALUE)
    assert kernel.apply().problems == ()

    kernel.rows.want_exactly(rows(3, 3))
    assert "policy_rows is full" in str(kernel.apply().policy)
    assert set(kernel.rows.known()) == rows(1, ROOM).keys()


def test_backends_of_no_frontend_make_room(kernel: KernelState) -> None:
    value = IPV4.backend.pack(address(1), port_bytes(80), 0)
    key = IPV4.frontend_key.pack(address(1), port_bytes(80), 6)
    kernel.v4.backends.want_exactly({SLOT_KEY.pack(1, slot): value for slot in range(ROOM)})
    kernel.v4.frontends.want(key, FRONTEND.pack(1, ROOM, 0))
    assert kernel.apply().problems == ()

    kernel.v4.frontends.want(key, None)
    kernel.v4.backends.want_exactly({SLOT_KEY.pack(2, slot): value for slot in range(ROOM)})
    assert "backends4 is full" in str(kernel.apply().services)
    kernel.v4.backends.want_exactly({})
    assert kernel.apply().problems == ()
    kernel.v4.backends.want_exactly({SLOT_KEY.pack(3, slot): value for slot in range(ROOM)})
    assert kernel.apply().problems == ()


def test_policies_take_effect_though_there_is_no_room_for_an_address(kernel: KernelState) -> None:
    kernel.v4.endpoints.want(address(1), ENDPOINT_VALUE)
    assert kernel.apply().problems == ()
    kernel.v4.ipcache.want_exactly(peers(*range(ROOM + 1)))
    kernel.rows.want(ROW_KEY.pack(9, 0, 0), bytes(ROW_SIZE))
    closed = ENDPOINT.pack(9, 1, 7, 300, 1)
    kernel.v4.endpoints.want(address(1), closed)
    assert "map ipcache4 is full" in str(kernel.apply().policy)
    assert kernel.v4.endpoints.get(address(1)) == closed


def test_an_address_keeps_its_owner_though_a_row_has_no_room(kernel: KernelState) -> None:
    kernel.v4.ipcache.want_exactly({address(1): PEER.pack(7, 300), address(2): PEER.pack(7, 300)})
    assert kernel.apply().problems == ()
    for number in range(ROOM + 1):
        kernel.rows.want(ROW_KEY.pack(number, 0, 0), bytes(ROW_SIZE))
    kernel.v4.ipcache.want(address(1), PEER.pack(8, 300))
    kernel.v4.ipcache.want(address(2), PEER.pack(8, 301))
    assert kernel.apply().policy is not None
    assert kernel.v4.ipcache.get(address(1)) == PEER.pack(7, 300)
    assert kernel.v4.ipcache.get(address(2)) is None


def test_an_address_loses_its_identity_whatever_is_full(kernel: KernelState) -> None:
    kernel.v4.ipcache.want_exactly(peers(1, 2, 3))
    assert kernel.apply().problems == ()

    kernel.rows.want_exactly(rows(1, ROOM + 1))
    kernel.v4.ipcache.want(address(1), None)
    kernel.v4.ipcache.want(address(2), PEER.pack(0, 777))
    assert kernel.apply().policy is not None
    assert set(kernel.v4.ipcache.known()) == {address(3)}

    kernel.rows.want_exactly({})
    assert kernel.apply().problems == ()
    assert kernel.v4.ipcache.get(address(2)) == PEER.pack(0, 777)


def test_what_needs_no_room_is_written_though_the_map_is_full(kernel: KernelState) -> None:
    kernel.v4.ipcache.want_exactly(peers(*range(ROOM)))
    assert kernel.apply().problems == ()
    kernel.v4.ipcache.want(address(ROOM), PEER.pack(0, 400))
    kernel.v4.ipcache.want(address(1), PEER.pack(0, 777))
    assert kernel.apply().policy is not None
    assert kernel.v4.ipcache.get(address(1)) == PEER.pack(0, 777)
