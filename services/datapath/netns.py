"""Threads that speak blocking netlink, in the node's network namespace and for moments in a pod's.

The kernel does the work of a netlink request inside the call that sends it: deleting a veth takes some 15
ms of waiting for other processors. So netlink has its own threads, each with its own socket and with an
event loop of its own for pyroute2, which cannot use netlink on uvloop.

To reach into a pod, a thread enters its namespace, opens a netlink socket there, and comes back at once;
the socket goes on belonging to the pod's namespace. (A socket through a forked process, pyroute2's
``netns=``, costs 11 ms; this costs 0.2 ms.) A thread that cannot come back would do the node's work in a
pod: then the process ends.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

from pyroute2 import IPRoute
from pyroute2.netns import setns

log = logging.getLogger(__name__)

_libc = ctypes.CDLL(None, use_errno=True)

_LOST_IN_A_POD = 70


class Worker:
    """What one netlink thread owns. Made and used in that thread only; ``home`` is the node's namespace."""

    def __init__(self, home: int) -> None:
        self._home = home
        self._own_loop: asyncio.SelectorEventLoop | None = None
        self._node: Any = None

    @property
    def node(self) -> Any:
        """pyroute2's ``IPRoute`` in the node's namespace."""
        if self._node is None:
            self._node = IPRoute(use_event_loop=self._loop)
        return self._node

    @property
    def _loop(self) -> asyncio.SelectorEventLoop:
        if self._own_loop is None:
            self._own_loop = asyncio.SelectorEventLoop()
        return self._own_loop

    def reset(self) -> None:
        """Use a new socket from now on: the old one may be unusable after an unexpected error."""
        node, self._node = self._node, None
        if node is not None:
            with suppress(OSError):
                node.close()

    def close(self) -> None:
        """Give up the socket and the loop."""
        self.reset()
        if self._own_loop is not None:
            # A closed socket's transport says goodbye in a callback.
            self._own_loop.run_until_complete(asyncio.sleep(0))
            self._own_loop.close()

    def is_home(self, netns: int) -> bool:
        """The namespace is the node's own."""
        return os.path.sameopenfile(netns, self._home)

    @contextmanager
    def inside(self, netns: int) -> Iterator[None]:
        """Run a few system calls of this thread in another network namespace."""
        setns(netns, flags=0, libc=_libc)
        try:
            yield
        finally:
            try:
                setns(self._home, flags=0, libc=_libc)
            except OSError as error:
                log.critical("cannot return to the node's network namespace (%s): ending the process", error)
                os._exit(_LOST_IN_A_POD)

    @contextmanager
    def netlink_inside(self, netns: int) -> Iterator[tuple[Any, dict[str, int]]]:
        """pyroute2's ``IPRoute`` in another network namespace, and its interfaces (name to index)."""
        with self.inside(netns):
            sock = socket.socket(socket.AF_NETLINK, socket.SOCK_DGRAM, socket.NETLINK_ROUTE)
            interfaces = {name: index for index, name in socket.if_nameindex()}
        pod = IPRoute(fileno=sock.detach(), use_event_loop=self._loop)
        try:
            yield pod, interfaces
        finally:
            pod.close()
