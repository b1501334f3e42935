"""Addresses outside the pods' space for which a commit's classes hold."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import pytest

from services.datapath.kernel.loader import Loaded
from services.datapath.space import Space
from shared.contract.base import Identity, Message
from shared.contract.identity import EndpointRecord, IpEntry
from shared.contract.names import ip_key, pod_key
from tests.packet.desiring import COMMIT, LOCAL, NODE, NODE_IP, POD_IP, REMOTE_IP, Kernel, local, remote

WEB = 256


@pytest.fixture
def kernel(loaded: Loaded) -> Iterator[Kernel]:
    kernel = Kernel(loaded)
    yield kernel
    kernel.close()


def commit(kernel: Kernel, *space: str) -> None:
    """One that speaks of this space."""
    items: dict[str, Message | None] = {"commit": msgspec.structs.replace(COMMIT, pod_space=space)}
    assert kernel.desire.take_policy(kernel.batch(items))


def test_one_outside_has_no_identity_until_a_commit_holds_for_it(kernel: Kernel) -> None:
    kernel.policy(WEB)
    commit(kernel, "10.1.0.0/16")
    kernel.desire.addresses.take_ipcache(kernel.batch(remote(WEB)))
    assert kernel.address(REMOTE_IP) is None
    commit(kernel, "10.1.0.0/16", "10.2.0.0/16")
    assert kernel.address(REMOTE_IP) == (0, WEB)
    kernel.policy(WEB)
    assert kernel.address(REMOTE_IP) == (0, WEB), "no class depends on addresses"


def test_one_with_a_class_of_its_own_needs_no_space_and_nodes_have_none(kernel: Kernel) -> None:
    node = IpEntry(ip=NODE_IP, identity=Identity(6), node="n2")
    kernel.policy(WEB, 6, addresses={REMOTE_IP: (WEB, 9)})
    commit(kernel, "10.1.0.0/16")
    kernel.desire.addresses.take_ipcache(kernel.batch({**remote(WEB), ip_key(NODE_IP): node}))
    assert kernel.address(REMOTE_IP) == (9, WEB)
    assert kernel.address(NODE_IP) == (0, 6)


def test_a_pod_with_such_an_address_is_not_ready(kernel: Kernel) -> None:
    kernel.policy(WEB)
    commit(kernel, "10.2.0.0/16")
    record = EndpointRecord(node=NODE, namespace="shop", name="db", uid=LOCAL.uid, identity=Identity(WEB))
    key = pod_key(node=NODE, namespace="shop", pod="db")
    kernel.desire.take_endpoints(kernel.batch({key: record}))
    kernel.desire.addresses.take_ipcache(kernel.batch(local(WEB)))
    assert POD_IP in kernel.desire.readiness(LOCAL).reason
    commit(kernel, "10.1.0.0/16", "10.2.0.0/16")
    assert not kernel.desire.readiness(LOCAL).reason


@pytest.mark.parametrize("restarted", [False, True])
def test_one_that_is_outside_by_now_loses_its_identity(kernel: Kernel, restarted: bool) -> None:
    """Its identity's class may hold a block by now that the address is not in."""
    kernel.policy(WEB)
    kernel.desire.addresses.take_ipcache(kernel.batch(remote(WEB), snapshot=True))
    assert kernel.address(REMOTE_IP) == (0, WEB)
    if restarted:
        kernel.restart()
        kernel.policy(WEB)
    commit(kernel, "10.1.0.0/16")
    assert kernel.address(REMOTE_IP) is None


def test_a_space_of_many_prefixes_holds_what_they_hold() -> None:
    space = Space(("10.1.0.0/16", "10.2.3.0/24", "10.9.9.9/32", "fd00:1::/64"))
    assert all(map(space.holds, ("10.1.255.1", "10.2.3.4", "10.9.9.9", "fd00:1::5")))
    assert not any(map(space.holds, ("10.3.0.1", "10.2.4.4", "10.9.9.8", "fd00:2::5")))
    assert Space(("::/0",)).holds("fd00::1")
    assert not Space(("::/0",)).holds("10.0.0.1")
