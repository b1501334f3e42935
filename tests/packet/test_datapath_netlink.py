"""Pods' links, addresses and routes in real network namespaces. Needs root."""

from __future__ import annotations

import asyncio
import socket
import statistics
import time
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path

import pytest
import uvloop

from services.datapath.errors import LinkError, NotANetns, UplinkUnknown
from services.datapath.netlink import Netlink
from services.datapath.podlink import HOST_MAC, PodLink
from tests.packet.namespaces import NODE_IP, OTHER_NODE_IP, inside, ip, make_node, maker, path_of, show
from tests.waiting import eventually


@pytest.fixture
def namespaces() -> Iterator[Callable[[], str]]:
    """Makes network namespaces that vanish with the test."""
    with maker() as make:
        yield make


@pytest.fixture
def node(namespaces: Callable[[], str]) -> Iterator[str]:
    """A node with the uplink eth0; the test runs inside it, as a datapath does."""
    name = make_node(namespaces)
    with inside(name):
        yield name


@pytest.fixture
async def netlink(node: str) -> AsyncIterator[Netlink]:
    netlink = Netlink()
    try:
        yield netlink
    finally:
        await netlink.close()


def pod_link(netns: str, *ips: str, container: str = "c1") -> PodLink:
    return PodLink(
        container_id=container,
        ifname="eth0",
        netns=path_of(netns),
        addresses=ips or ("10.7.0.5",),
        mtu=1400,
    )


def exchange(pod: str, address: str) -> None:
    """The node sends the pod a datagram and gets an answer."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with inside(pod):
        server = socket.socket(family, socket.SOCK_DGRAM)
    with server, socket.socket(family, socket.SOCK_DGRAM) as client:
        server.settimeout(5)
        client.settimeout(5)
        server.bind((address, 7))
        client.connect((address, 7))
        client.send(b"from the node")
        data, peer = server.recvfrom(100)
        server.sendto(data.upper(), peer)
        assert client.recv(100) == b"FROM THE NODE"


async def test_nothing_passes_before_the_link_is_brought_up(
    namespaces: Callable[[], str], node: str, netlink: Netlink
) -> None:
    pod = namespaces()
    link = pod_link(pod)
    pair = await netlink.create_pod_link(link)

    (host_side,) = show("link", "show", link.host_ifname, netns=node)
    (pod_side,) = show("link", "show", "eth0", netns=pod)
    assert "UP" not in host_side["flags"] + pod_side["flags"]
    assert (host_side["ifindex"], pod_side["ifindex"]) == (pair.host_ifindex, pair.pod_ifindex)
    assert show("addr", "show", "eth0", netns=pod)[0]["addr_info"] == []
    assert not [route for route in show("route", netns=node) if route["dst"] == "10.7.0.5"]


async def test_a_pod_and_its_node_reach_each_other_without_asking_for_neighbours(
    namespaces: Callable[[], str], node: str, netlink: Netlink
) -> None:
    pod = namespaces()
    link = pod_link(pod)
    await netlink.create_pod_link(link)
    await netlink.bring_up_pod_link(link)

    exchange(pod, "10.7.0.5")
    (pod_side,) = show("link", "show", "eth0", netns=pod)
    assert (pod_side["address"], pod_side["mtu"]) == ("0e:53:0a:07:00:05", 1400)
    neighbours = {(n["dst"], n["lladdr"], *n["state"]) for n in show("neigh", netns=pod)}
    assert neighbours == {("169.254.1.1", HOST_MAC, "PERMANENT")}
    (default,) = [route for route in show("route", netns=pod) if route["dst"] == "default"]
    assert (default["gateway"], default["flags"]) == ("169.254.1.1", ["onlink"])
    received = show("-s", "link", "show", link.host_ifname, netns=node)[0]["stats64"]["rx"]["packets"]
    assert received == 1, "the answer and nothing else: no ARP, no IPv6 noise"


async def test_not_even_the_first_packet_to_a_new_pod_is_lost(
    namespaces: Callable[[], str], node: str, netlink: Netlink
) -> None:
    pod = namespaces()
    for _ in range(20):
        link = pod_link(pod)
        await netlink.create_pod_link(link)
        await netlink.bring_up_pod_link(link)
        exchange(pod, "10.7.0.5")
        await netlink.delete_pod_link(link.host_ifname)


async def test_without_ipv6_addresses_ipv6_is_off_on_both_sides(
    namespaces: Callable[[], str], node: str, netlink: Netlink
) -> None:
    pod = namespaces()
    link = pod_link(pod)
    await netlink.create_pod_link(link)
    await netlink.bring_up_pod_link(link)
    setting = Path("/proc/sys/net/ipv6/conf") / link.host_ifname / "disable_ipv6"
    assert setting.read_text().strip() == "1"
    assert ip("netns", "exec", pod, "cat", "/proc/sys/net/ipv6/conf/eth0/disable_ipv6").strip() == "1"
    assert Path(f"/proc/sys/net/ipv4/conf/{link.host_ifname}/rp_filter").read_text().strip() == "0"


async def test_a_pod_with_both_families_is_reached_over_both(
    namespaces: Callable[[], str], node: str, netlink: Netlink
) -> None:
    pod = namespaces()
    link = pod_link(pod, "10.7.0.5", "fd00:7::5")
    ip("addr", "add", "fd00:99::1/64", "dev", "eth0", "nodad", netns=node)
    await netlink.enable_forwarding()
    await netlink.create_pod_link(link)
    await netlink.bring_up_pod_link(link)
    exchange(pod, "10.7.0.5")

    def is_usable() -> bool:
        (device,) = show("-6", "addr", "show", "eth0", netns=pod)
        return not any(address.get("tentative") for address in device["addr_info"])

    await eventually(is_usable)
    exchange(pod, "fd00:7::5")
    assert await netlink.pod_link_differences(link) == ()


async def test_making_the_same_link_again_replaces_it(
    namespaces: Callable[[], str], node: str, netlink: Netlink
) -> None:
    pod = namespaces()
    link = pod_link(pod)
    first = await netlink.create_pod_link(link)
    await netlink.bring_up_pod_link(link)
    second = await netlink.create_pod_link(link)
    assert second.host_ifindex != first.host_ifindex
    await netlink.bring_up_pod_link(link)
    await netlink.bring_up_pod_link(link)
    assert await netlink.pod_link_differences(link) == ()


async def test_a_taken_interface_name_in_the_pod_is_an_error_that_leaves_nothing(
    namespaces: Callable[[], str], node: str, netlink: Netlink
) -> None:
    pod = namespaces()
    ip("link", "add", "eth0", "type", "veth", "peer", "name", "other", netns=pod)
    with pytest.raises(LinkError, match=r"make veth stn[0-9a-f]{10} with eth0 in .*: File exists"):
        await netlink.create_pod_link(pod_link(pod))
    assert await netlink.pod_links() == {}


async def test_the_nodes_own_namespace_is_refused(node: str, netlink: Netlink) -> None:
    with pytest.raises(NotANetns, match="is the network namespace of the node"):
        await netlink.create_pod_link(pod_link(node))


async def test_a_path_that_is_no_network_namespace_is_refused(
    tmp_path: Path, node: str, netlink: Netlink
) -> None:
    nothing = PodLink(
        container_id="c1", ifname="eth0", netns=str(tmp_path / "gone"), addresses=("10.7.0.5",), mtu=1400
    )
    with pytest.raises(NotANetns, match="gone cannot be opened: No such file"):
        await netlink.create_pod_link(nothing)
    (tmp_path / "gone").write_text("")
    with pytest.raises(LinkError):
        await netlink.create_pod_link(nothing)
    assert await netlink.pod_links() == {}


@pytest.mark.parametrize(
    ("damage", "complaint"),
    [
        (("pod", "addr", "del", "10.7.0.5/32", "dev", "eth0"), "eth0 of the pod has no address 10.7.0.5"),
        (("pod", "route", "del", "default"), "eth0 of the pod has no default route by 169.254.1.1"),
        (("pod", "neigh", "del", "169.254.1.1", "dev", "eth0"), "has no permanent neighbour 169.254.1.1"),
        (("pod", "link", "set", "eth0", "down"), "eth0 of the pod is down"),
        (("node", "link", "set", "LINK", "down"), "LINK is down"),
        (("node", "route", "del", "10.7.0.5"), "the node has no route to 10.7.0.5 on LINK"),
        (("node", "neigh", "del", "10.7.0.5", "dev", "LINK"), "the node has no permanent neighbour 10.7.0.5"),
        (("node", "link", "del", "LINK"), "the node has no interface LINK"),
    ],
)
async def test_check_names_what_differs(
    namespaces: Callable[[], str], node: str, netlink: Netlink, damage: tuple[str, ...], complaint: str
) -> None:
    pod = namespaces()
    link = pod_link(pod)
    await netlink.create_pod_link(link)
    await netlink.bring_up_pod_link(link)
    assert await netlink.pod_link_differences(link) == ()
    where, *command = (word.replace("LINK", link.host_ifname) for word in damage)
    ip(*command, netns=pod if where == "pod" else node)
    found = await netlink.pod_link_differences(link)
    assert any(complaint.replace("LINK", link.host_ifname) in difference for difference in found), found


async def test_deleting_is_complete_and_may_be_repeated(
    namespaces: Callable[[], str], node: str, netlink: Netlink
) -> None:
    pod = namespaces()
    link = pod_link(pod)
    await netlink.create_pod_link(link)
    await netlink.bring_up_pod_link(link)
    assert set(await netlink.pod_links()) == {link.host_ifname}
    assert await netlink.delete_pod_link(link.host_ifname)
    assert not await netlink.delete_pod_link(link.host_ifname)
    assert await netlink.pod_links() == {}
    assert not [route for route in show("route", netns=node) if route["dst"] == "10.7.0.5"]
    assert [interface["ifname"] for interface in show("link", netns=pod)] == ["lo"]


async def test_a_deleted_pod_namespace_takes_the_link_along_and_delete_does_not_mind(
    namespaces: Callable[[], str], node: str, netlink: Netlink
) -> None:
    pod = namespaces()
    link = pod_link(pod)
    await netlink.create_pod_link(link)
    await netlink.bring_up_pod_link(link)
    ip("netns", "del", pod)
    found = await netlink.pod_link_differences(link)
    assert any("cannot be opened" in difference for difference in found)
    await netlink.delete_pod_link(link.host_ifname)
    assert await netlink.pod_links() == {}


async def test_pods_are_made_and_deleted_in_parallel(
    namespaces: Callable[[], str], node: str, netlink: Netlink
) -> None:
    links = [pod_link(namespaces(), f"10.7.0.{n}", container=f"c{n}") for n in range(10, 34)]

    async def live(link: PodLink) -> None:
        await netlink.create_pod_link(link)
        await netlink.bring_up_pod_link(link)
        assert await netlink.pod_link_differences(link) == ()

    descriptors = len(list(Path("/proc/self/fd").iterdir()))
    await asyncio.gather(*(live(link) for link in links))
    assert set(await netlink.pod_links()) == {link.host_ifname for link in links}
    await asyncio.gather(*(netlink.delete_pod_link(link.host_ifname) for link in links))
    assert await netlink.pod_links() == {}
    # Each of the 8 threads keeps its socket and its event loop (4 descriptors) and nothing of any pod.
    assert len(list(Path("/proc/self/fd").iterdir())) <= descriptors + 8 * 5


async def test_a_cancelled_call_has_ended_when_the_cancellation_is_felt(
    namespaces: Callable[[], str], node: str, netlink: Netlink
) -> None:
    link = pod_link(namespaces())
    task = asyncio.create_task(netlink.create_pod_link(link))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    await netlink.delete_pod_link(link.host_ifname)
    assert await netlink.pod_links() == {}


async def test_the_uplink_is_found_by_the_nodes_address_or_the_default_route(
    node: str, netlink: Netlink
) -> None:
    with pytest.raises(UplinkUnknown, match="none known"):
        await netlink.uplinks()
    (uplink,) = await netlink.uplinks(node_addresses=[NODE_IP])
    assert (uplink.name, uplink.mtu, uplink.addresses) == ("eth0", 1400, (NODE_IP,))
    assert uplink.ifindex == socket.if_nametoindex("eth0")
    ip("route", "add", "default", "via", OTHER_NODE_IP, netns=node)
    assert await netlink.uplinks() == (uplink,)
    assert [address.ip for address in await netlink.local_addresses()] == [NODE_IP]


async def test_routes_to_other_nodes_are_added_mended_and_deleted_and_others_left_alone(
    node: str, netlink: Netlink
) -> None:
    def routes() -> dict[str, str]:
        return {r["dst"]: r["gateway"] for r in show("route", netns=node) if r["protocol"] == "83"}

    ip("route", "add", "10.50.0.0/24", "via", OTHER_NODE_IP, netns=node)
    desired = {"10.7.1.0/24": OTHER_NODE_IP, "10.7.2.0/24": "192.0.2.3"}
    changes = await netlink.reconcile_routes(desired)
    assert (set(changes.added), changes.deleted, changes.problems) == (set(desired), (), ())
    assert routes() == desired
    assert not (await netlink.reconcile_routes(desired)).added

    ip("route", "del", "10.7.1.0/24", netns=node)
    changed = desired | {"10.7.2.0/24": "192.0.2.4"}
    assert set((await netlink.reconcile_routes(changed)).added) == set(desired)
    assert routes() == changed

    changes = await netlink.reconcile_routes({})
    assert set(changes.deleted) == set(desired)
    assert [r["dst"] for r in show("route", netns=node) if "gateway" in r] == ["10.50.0.0/24"]


async def test_a_route_that_cannot_be_is_told_and_hinders_no_other(node: str, netlink: Netlink) -> None:
    ip("route", "add", "10.7.3.0/24", "via", OTHER_NODE_IP, netns=node)
    changes = await netlink.reconcile_routes(
        {"10.7.1.0/24": "198.51.100.9", "10.7.2.0/24": OTHER_NODE_IP, "10.7.3.0/24": OTHER_NODE_IP}
    )
    assert changes.added == ("10.7.2.0/24",)
    unreachable, in_the_way = changes.problems
    assert "pod CIDR 10.7.1.0/24: its node 198.51.100.9 is not on a network of this node" in unreachable
    assert "pod CIDR 10.7.3.0/24: a route that is not Stentor's is in the way" in in_the_way


async def test_routes_to_pods_of_this_node_survive_the_reconciling_of_the_others(
    namespaces: Callable[[], str], node: str, netlink: Netlink
) -> None:
    link = pod_link(namespaces())
    await netlink.create_pod_link(link)
    await netlink.bring_up_pod_link(link)
    await netlink.reconcile_routes({})
    assert await netlink.pod_link_differences(link) == ()


async def test_forwarding_is_switched_on(node: str, netlink: Netlink) -> None:
    await netlink.enable_forwarding()
    assert Path("/proc/sys/net/ipv4/ip_forward").read_text().strip() == "1"


def test_a_pod_costs_a_few_milliseconds_on_the_services_own_event_loop(
    namespaces: Callable[[], str], node: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pods = [namespaces() for _ in range(12)]

    async def measure() -> tuple[list[float], list[float]]:
        netlink = Netlink()
        made, deleted = [], []
        try:
            for number, pod in enumerate(pods):
                link = pod_link(pod, container=f"c{number}")
                start = time.perf_counter()
                await netlink.create_pod_link(link)
                await netlink.bring_up_pod_link(link)
                made.append(time.perf_counter() - start)
                start = time.perf_counter()
                await netlink.delete_pod_link(link.host_ifname)
                deleted.append(time.perf_counter() - start)
        finally:
            await netlink.close()
        return made, deleted

    made, deleted = uvloop.run(measure())
    make, delete = statistics.median(made) * 1e3, statistics.median(deleted) * 1e3
    with capsys.disabled():
        print(f"\npod link: made in {make:.1f} ms, deleted in {delete:.1f} ms (medians of {len(pods)})")
    assert make < 50
