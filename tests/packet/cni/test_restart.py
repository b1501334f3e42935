"""The socket, and what a datapath finds there and on the node when it starts."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable

import pytest

from services.datapath.endpoints import host_ifname
from services.datapath.errors import StateError
from shared.bus import BucketStore
from shared.contract.identity import Claim
from tests.packet.cni.datapath import Datapath, claim_gone, claim_of, request
from tests.packet.namespaces import ip
from tests.waiting import eventually


async def test_only_root_can_open_the_socket_and_a_second_server_is_refused(
    datapath: Datapath, make_datapath: Callable[[], Datapath]
) -> None:
    assert datapath.socket.stat().st_mode & 0o777 == 0o600
    assert datapath.socket.parent.stat().st_mode & 0o777 == 0o700
    with pytest.raises(ExceptionGroup) as caught:
        async with make_datapath().running():
            pass
    assert caught.group_contains(StateError, match="another datapath serves there")
    assert (await datapath.call("status", {}))[0] == 200


async def test_a_restart_keeps_whole_pods_and_clears_what_is_broken(
    namespaces: Callable[[], str], make_datapath: Callable[[], Datapath], node: str, store: BucketStore[Claim]
) -> None:
    pods = {name: namespaces() for name in ("whole", "linkless")}
    async with make_datapath().running() as first:
        for name, netns in pods.items():
            await first.add(name, netns)
        first.ipam.allocate("never-finished/eth0")
        path = first.socket
    ip("link", "del", host_ifname("c-linkless", "eth0"), netns=node)
    ip("link", "add", "stnffffffffff", "type", "veth", "peer", "name", "x", netns=node)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))

    async with make_datapath().running() as second:
        assert [endpoint.pod for endpoint in second.registry.all()] == ["whole"]
        assert set(second.ipam.owners) == {"c-whole/eth0"}
        assert set(await second.netlink.pod_links()) == {host_ifname("c-whole", "eth0")}
        assert (await second.call("check", request("whole", pods["whole"])))[0] == 200
        assert [event.split()[0] for event in second.events] == ["endpoint-orphaned", "link-orphaned"]
        await eventually(lambda: claim_gone(store, "linkless"))
        assert await claim_of(store, "whole") is not None


async def test_waiting_dels_are_carried_out_before_anything_is_served(
    namespaces: Callable[[], str], make_datapath: Callable[[], Datapath]
) -> None:
    async with make_datapath().running() as first:
        for pod in ("gone", "stays"):
            await first.add(pod, namespaces())
        waiting = first.socket.parent / "cni-deleted"
    waiting.mkdir()
    (waiting / "c-gone@eth0.json").write_text(json.dumps(request("gone", "")))
    (waiting / "broken@eth0.json").write_text("{")
    (waiting / ".half-written.json.17").write_text("{")
    async with make_datapath().running() as second:
        assert [endpoint.pod for endpoint in second.registry.all()] == ["stays"]
        assert sorted(path.name for path in waiting.iterdir()) == [
            ".half-written.json.17",
            "broken@eth0.json.broken",
        ]
        assert [event.split()[0] for event in second.events] == ["waiting-del-broken"]
