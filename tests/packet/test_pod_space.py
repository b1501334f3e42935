"""Addresses outside the pods' space for which a commit's classes hold."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec
import pytest

from services.datapath.kernel.loader import Loaded
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
    kernel.desire.take_ipcache(kernel.batch(remote(WEB)))
    assert kernel.address(REMOTE_IP) is None
    commit(kernel, "10.1.0.0/16", "10.2.0.0/16")
    assert kernel.address(REMOTE_IP) == (0, WEB)
    kernel.policy(WEB)
    assert kernel.address(REMOTE_IP) == (0, WEB), "no class depends on addresses"


def test_one_with_a_class_of_its_own_needs_no_space_and_nodes_have_none(kernel: Kernel) -> None:
    node = IpEntry(ip=NODE_IP, identity=Identity(6), node="n2")
    kernel.policy(WEB, 6, addresses={REMOTE_IP: (WEB, 9)})
    commit(kernel, "10.1.0.0/16")
    kernel.desire.take_ipcache(kernel.batch({**remote(WEB), ip_key(NODE_IP): node}))
    assert kernel.address(REMOTE_IP) == (9, WEB)
    assert kernel.address(NODE_IP) == (0, 6)


def test_a_pod_with_such_an_address_is_not_ready(kernel: Kernel) -> None:
    kernel.policy(WEB)
    commit(kernel, "10.2.0.0/16")
    record = EndpointRecord(node=NODE, namespace="shop", name="db", uid=LOCAL.uid, identity=Identity(WEB))
    key = pod_key(node=NODE, namespace="shop", pod="db")
    kernel.desire.take_endpoints(kernel.batch({key: record}))
    kernel.desire.take_ipcache(kernel.batch(local(WEB)))
    assert POD_IP in kernel.desire.readiness(LOCAL).reason
    commit(kernel, "10.1.0.0/16", "10.2.0.0/16")
    assert not kernel.desire.readiness(LOCAL).reason
