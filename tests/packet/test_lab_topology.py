"""The lab's network in real namespaces."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.lab import namespaces, processes, topology
from deploy.lab.names import LabNames, namespace_path
from deploy.lab.relay import Place, Relay
from deploy.lab.topology import IpFamily
from tests.packet.runs import RUN


@pytest.fixture
def names() -> Iterator[LabNames]:
    made = LabNames(f"t{RUN}")
    yield made
    for namespace in namespaces.names(made.prefix):
        namespaces.remove(namespace)


def connected(*, source: str, target: str, ip: str) -> bool:
    """Whether a TCP connection from one namespace reaches a listener in the other."""
    family = socket.AF_INET6 if ":" in ip else socket.AF_INET
    with (
        namespaces.socket_in(target, family=family) as listener,
        namespaces.socket_in(source, family=family) as client,
    ):
        listener.bind((ip, 0))
        listener.listen()
        client.settimeout(2)
        try:
            client.connect((ip, listener.getsockname()[1]))
        except OSError:
            return False
        return True


def own_interfaces() -> set[str]:
    return {path.name for path in Path("/sys/class/net").iterdir()}


@pytest.mark.parametrize("family", list(IpFamily))
def test_all_hosts_reach_each_other_and_nothing_is_made_outside(names: LabNames, family: IpFamily) -> None:
    before = own_interfaces()
    plan = topology.plan(names, nodes=2, outside=1, ip_family=family)
    for _ in range(2):  # what is there already stays
        topology.build(plan)
    hosts = [*plan.nodes, *plan.outside]
    for source in hosts:
        for target in hosts:
            for ip in target.ips:
                assert connected(source=source.namespace, target=target.namespace, ip=ip)
    assert own_interfaces() == before


def test_v4_lab_has_no_ipv6(names: LabNames) -> None:
    plan = topology.plan(names, nodes=1)
    topology.build(plan)
    with (
        namespaces.socket_in(plan.nodes[0].namespace, family=socket.AF_INET6) as listener,
        pytest.raises(OSError, match="Cannot assign"),
    ):
        listener.bind(("::1", 0))


def test_nodes_forward_and_outside_hosts_do_not(names: LabNames) -> None:
    plan = topology.plan(names, nodes=1, outside=1)
    topology.build(plan)

    def forwarding() -> str:
        return Path("/proc/sys/net/ipv4/ip_forward").read_text().strip()

    assert namespaces.run_in(plan.nodes[0].namespace, forwarding) == "1"
    assert namespaces.run_in(plan.outside[0].namespace, forwarding) == "0"
    assert namespaces.run_in(plan.net_namespace, forwarding) == "0"


def test_half_made_lab_is_completed(names: LabNames) -> None:
    plan = topology.plan(names, nodes=2)
    topology.build(plan)
    namespaces.remove(plan.nodes[1].namespace)
    # As left by a maker that died between the file and the mount.
    namespace_path(plan.nodes[1].namespace).touch()
    assert namespaces.inode(plan.nodes[1].namespace) is None
    topology.build(plan)
    assert connected(source=plan.nodes[0].namespace, target=plan.nodes[1].namespace, ip=plan.nodes[1].ips[0])


def test_two_labs_with_the_same_addresses_do_not_meet(names: LabNames) -> None:
    other = LabNames(names.lab + "b")
    try:
        one, two = topology.plan(names, nodes=2), topology.plan(other, nodes=2)
        topology.build(one)
        topology.build(two)
        ip = one.nodes[1].ips[0]
        assert ip == two.nodes[1].ips[0]
        assert connected(source=two.nodes[0].namespace, target=two.nodes[1].namespace, ip=ip)
        assert not connected(source=two.nodes[0].namespace, target=one.nodes[1].namespace, ip=ip)
    finally:
        for namespace in namespaces.names(other.prefix):
            namespaces.remove(namespace)


def test_work_in_a_namespace_leaves_the_caller_where_it_was(names: LabNames) -> None:
    own = Path("/proc/self/ns/net").readlink()
    namespace = f"{names.prefix}x"
    assert namespaces.create(namespace)
    assert not namespaces.create(namespace)
    inside = namespaces.run_in(namespace, lambda: Path("/proc/thread-self/ns/net").stat())
    assert namespaces.inode(namespace) == (inside.st_dev, inside.st_ino)
    assert Path("/proc/thread-self/ns/net").readlink() == own
    with pytest.raises(ZeroDivisionError):
        namespaces.run_in(namespace, lambda: 1 // 0)
    namespaces.remove(namespace)
    namespaces.remove(namespace)
    assert not namespace_path(namespace).exists()


def test_processes_are_found_by_their_namespace(names: LabNames) -> None:
    namespace = f"{names.prefix}x"
    namespaces.create(namespace)
    inode = namespaces.inode(namespace)
    assert inode is not None
    command = ["ip", "netns", "exec", namespace, "sh", "-c", "echo in; sleep 60"]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as one:
        assert one.stdout is not None
        assert one.stdout.readline() == b"in\n"
        found = processes.in_namespaces({inode})
        assert one.pid in [process.pid for process in found]
        assert os.getpid() not in [process.pid for process in found]
        processes.kill_all(found)
    own = Path("/proc/self/ns/net").stat()
    assert processes.in_namespaces({(own.st_dev, own.st_ino)}) == []


async def test_relay_reaches_from_one_namespace_into_another(names: LabNames) -> None:
    plan = topology.plan(names, nodes=2)
    await asyncio.to_thread(topology.build, plan)
    here, there = plan.nodes[0].namespace, plan.nodes[1].namespace

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(b"from afar")
        with contextlib.suppress(ConnectionError):
            await writer.drain()
        writer.close()

    listener = namespaces.socket_in(there, family=socket.AF_INET)
    listener.bind(("127.0.0.1", 4000))
    server = await asyncio.start_server(answer, sock=listener)
    relay = Relay("test", listen=Place(namespace=here, port=4222), target=Place(namespace=there, port=4000))
    async with server, relay:
        client = namespaces.socket_in(here, family=socket.AF_INET)
        await asyncio.get_running_loop().sock_connect(client, ("127.0.0.1", relay.port))
        reader, writer = await asyncio.open_connection(sock=client)
        assert await asyncio.wait_for(reader.read(), 5) == b"from afar"
        writer.close()
