"""What runs in a pod of the lab: a server that says who it is and who called. Standard library only.

``podserver.py SPEC`` with SPEC a JSON object ``{"pod", "namespace", "node",
"ports": [{"port", "protocol"}]}``.
It listens on every port in both families (IPv4 alone where IPv6 is off), writes ``ready`` and a newline to
standard output, and serves until SIGTERM. A port that cannot be opened ends it with exit code 1 and the
reason.

TCP ports speak HTTP/1.1 with keep-alive: any GET or HEAD is answered 200 with the JSON object
``{"pod", "namespace", "node", "ip", "port", "client": {"ip", "port"}}``; other methods 405,
what is no HTTP 400.
UDP ports answer each datagram with the same object and ``payload``, the datagram as text.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import sys
from functools import partial
from typing import Any, cast

MAX_HEAD = 65536
MAX_BODY = 1 << 20


class Identity:
    """Who this server is."""

    def __init__(self, *, pod: str, namespace: str, node: str) -> None:
        self.fields = {"pod": pod, "namespace": namespace, "node": node}

    def answer(self, own: tuple[str, int], client: tuple[str, int], **more: str) -> bytes:
        """The JSON object for one caller, and a newline."""
        told = {
            **self.fields,
            "ip": plain(own[0]),
            "port": own[1],
            "client": {"ip": plain(client[0]), "port": client[1]},
            **more,
        }
        return json.dumps(told).encode() + b"\n"


def plain(ip: str) -> str:
    """An address without the IPv4-mapped prefix and without a zone."""
    return ip.removeprefix("::ffff:").partition("%")[0]


class HttpConnection(asyncio.Protocol):
    """One HTTP/1.1 connection; requests may be pipelined."""

    def __init__(self, identity: Identity) -> None:
        self.identity = identity
        self.received = b""
        self.skip = 0

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        own = transport.get_extra_info("sockname")
        peer = transport.get_extra_info("peername") or ("", 0)
        self.body = self.identity.answer(own[:2], peer[:2])

    def data_received(self, data: bytes) -> None:
        self.received += data
        while not self.transport.is_closing():
            if self.skip:
                dropped = min(self.skip, len(self.received))
                self.received = self.received[dropped:]
                self.skip -= dropped
                if self.skip:
                    return
            head, found, rest = self.received.partition(b"\r\n\r\n")
            if not found:
                if len(self.received) > MAX_HEAD:
                    self.reply(b"431 Request Header Fields Too Large", keep=False)
                return
            self.received = rest
            self.request(head)

    def request(self, head: bytes) -> None:
        """Answers one request whose head is complete."""
        lines = head.split(b"\r\n")
        words = lines[0].split(b" ")
        if len(words) != 3 or not words[2].startswith(b"HTTP/1."):
            self.reply(b"400 Bad Request", keep=False)
            return
        headers = {}
        for line in lines[1:]:
            name, _, value = line.partition(b":")
            headers[name.strip().lower()] = value.strip().lower()
        length = headers.get(b"content-length", b"0")
        if not length.isdigit() or int(length) > MAX_BODY or b"transfer-encoding" in headers:
            self.reply(b"413 Content Too Large", keep=False)
            return
        self.skip = int(length)
        wish = headers.get(b"connection", b"")
        keep = wish != b"close" if words[2] == b"HTTP/1.1" else wish == b"keep-alive"
        if words[0] in (b"GET", b"HEAD"):
            self.reply(b"200 OK", keep=keep, body=self.body, send_body=words[0] == b"GET")
        else:
            self.reply(b"405 Method Not Allowed", keep=keep)

    def reply(self, status: bytes, *, keep: bool, body: bytes = b"", send_body: bool = True) -> None:
        """Writes one response."""
        self.transport.write(
            b"HTTP/1.1 " + status + b"\r\nContent-Type: application/json\r\nServer: stentor-lab\r\n"
            b"Content-Length: "
            + str(len(body)).encode()
            + b"\r\nConnection: "
            + (b"keep-alive" if keep else b"close")
            + b"\r\n\r\n"
            + (body if send_body else b"")
        )
        if not keep:
            self.transport.close()


class DatagramEcho(asyncio.DatagramProtocol):
    """Answers each datagram. The own address is the one a connected socket would use towards the caller."""

    def __init__(self, identity: Identity, port: int) -> None:
        self.identity = identity
        self.port = port

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.DatagramTransport, transport)

    def datagram_received(self, data: bytes, addr: tuple[str, int]) -> None:
        text = data.decode(errors="replace")
        self.transport.sendto(self.identity.answer((self.own(addr), self.port), addr[:2], payload=text), addr)

    def own(self, addr: tuple[str, int]) -> str:
        """The source address of packets to the caller."""
        with socket.socket(self.transport.get_extra_info("socket").family, socket.SOCK_DGRAM) as probe:
            probe.connect(addr)
            return str(probe.getsockname()[0])


def families() -> list[socket.AddressFamily]:
    """The families of which this namespace has addresses to listen on."""
    try:
        with open("/proc/sys/net/ipv6/conf/all/disable_ipv6") as file:  # noqa: PTH123  # pathlib costs start-up time
            off = file.read().strip() == "1"
    except OSError:
        off = True
    return [socket.AF_INET] if off else [socket.AF_INET, socket.AF_INET6]


def bound(family: socket.AddressFamily, kind: socket.SocketKind, port: int) -> socket.socket:
    """A socket on every address of one family."""
    made = socket.socket(family, kind)
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    made.bind(("", port))
    made.setblocking(False)
    return made


async def serve(spec: dict[str, object]) -> None:
    """Opens all ports, says so, and serves until SIGTERM."""
    loop = asyncio.get_running_loop()
    stopped = asyncio.Event()
    loop.add_signal_handler(signal.SIGTERM, stopped.set)
    identity = Identity(pod=str(spec["pod"]), namespace=str(spec["namespace"]), node=str(spec["node"]))
    for entry in cast(list[dict[str, Any]], spec["ports"]):
        port, protocol = int(entry["port"]), entry["protocol"]
        for family in families():
            if protocol == "TCP":
                listener = bound(family, socket.SOCK_STREAM, port)
                await loop.create_server(partial(HttpConnection, identity), sock=listener, backlog=1024)
            else:
                listener = bound(family, socket.SOCK_DGRAM, port)
                await loop.create_datagram_endpoint(
                    partial(DatagramEcho, identity, port),
                    sock=listener,
                )
    os.write(1, b"ready\n")
    await stopped.wait()


if __name__ == "__main__":
    try:
        asyncio.run(serve(json.loads(sys.argv[1])))
    except OSError as failure:
        sys.exit(f"podserver: {failure}")
