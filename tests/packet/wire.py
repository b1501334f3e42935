"""Frames into and out of network namespaces, through sockets of this process that stay in them."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable

from tests.packet.mininode import enter
from tests.packet.questions import Trace, read_trace

_ETH_P_ALL = 3
_SOL_PACKET, _PACKET_IGNORE_OUTGOING = 263, 23
"""Of linux/if_packet.h."""


class Wire:
    """Sockets by the name of their place. Made, and closed, in the namespace that it is to be left in."""

    def __init__(self, *, home: str, arrived: Callable[[str, Trace], None]) -> None:
        """``arrived`` is told of each frame that comes in at a place, of those that look like a question."""
        self._home = home
        self._arrived = arrived
        self._sockets: dict[str, socket.socket] = {}

    def open(self, place: str, *, netns: str, device: str, listens: bool = True) -> None:
        """Opens an interface, for sending alone if it does not listen."""
        enter(netns)
        try:
            opened = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
        finally:
            enter(self._home)
        self._sockets[place] = opened
        opened.setsockopt(_SOL_PACKET, _PACKET_IGNORE_OUTGOING, 1)
        opened.bind((device, _ETH_P_ALL if listens else 0))
        if listens:
            asyncio.get_running_loop().add_reader(opened, self._read, place)

    def send(self, place: str, frame: bytes) -> None:
        """Sends a frame out of an interface."""
        self._sockets[place].send(frame)

    def close(self) -> None:
        """Closes all sockets."""
        for opened in self._sockets.values():
            asyncio.get_running_loop().remove_reader(opened)
            opened.close()
        self._sockets.clear()

    def _read(self, place: str) -> None:
        while True:
            try:
                frame = self._sockets[place].recv(2000)
            except BlockingIOError:
                return
            trace = read_trace(frame)
            if trace is not None:
                self._arrived(place, trace)
