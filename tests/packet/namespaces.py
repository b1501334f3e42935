"""Network namespaces for packet tests: uniquely named, gone when their test ends."""

from __future__ import annotations

import itertools
import json
import os
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from pyroute2.netns import setns

from tests.packet.runs import RUN

NODE_IP = "192.0.2.1"
OTHER_NODE_IP = "192.0.2.2"

_numbers = itertools.count()


def ip(*arguments: str, netns: str | None = None, check: bool = True) -> str:
    """Output of iproute2's ``ip``."""
    prefix = ["ip", "-n", netns] if netns else ["ip"]
    done = subprocess.run([*prefix, *arguments], capture_output=True, text=True, check=False)
    assert done.returncode == 0 or not check, done.stderr
    return done.stdout


def show(*arguments: str, netns: str) -> list[dict[str, Any]]:
    """Output of ``ip -json`` in a namespace."""
    text = ip("-j", "-d", *arguments, netns=netns)
    found: list[dict[str, Any]] = json.loads(text) if text.strip() else []
    return found


def path_of(name: str) -> str:
    """Path of a namespace."""
    return f"/run/netns/{name}"


@contextmanager
def maker() -> Iterator[Callable[[], str]]:
    """A function that makes namespaces."""
    made: list[str] = []

    def make() -> str:
        name = f"stt-{RUN}-{next(_numbers)}"
        made.append(name)
        ip("netns", "add", name)
        return name

    try:
        yield make
    finally:
        for name in made:
            ip("netns", "del", name, check=False)


@contextmanager
def inside(name: str) -> Iterator[None]:
    """The calling thread is in this namespace, and so are threads that it starts."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    setns(path_of(name), flags=0)
    try:
        yield
    finally:
        setns(home, flags=0)
        os.close(home)


def make_node(make: Callable[[], str]) -> str:
    """A node: a namespace with lo and the uplink eth0 (MTU 1400, address NODE_IP/24), which goes nowhere."""
    node, network = make(), make()
    ends = ("eth0", "mtu", "1400", "type", "veth", "peer", "name", "node0", "netns", network)
    ip("link", "add", *ends, netns=node)
    ip("addr", "add", f"{NODE_IP}/24", "dev", "eth0", netns=node)
    ip("link", "set", "eth0", "up", netns=node)
    ip("link", "set", "lo", "up", netns=node)
    ip("link", "set", "node0", "up", netns=network)
    return node
