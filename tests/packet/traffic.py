"""What the pods of scenario tests do: connect over and over, and tell of each try. Standard library only.

``traffic.py SPEC`` with SPEC a JSON array of jobs ``{"id", "kind", "ip", "port", "every", "patience",
"count", "size"}`` does all jobs at the same time. Each try is one line of JSON ``{"id", "began", "ended",
"outcome", "detail", "answer", "resent"}``; times are CLOCK_MONOTONIC, which all processes of the machine
share. A job with ``count`` ends after that many tries; the program ends with its last job.

Kinds:

* ``new``: a TCP connection of its own and one HTTP request for each try, begun every ``every`` seconds
  whether or not the one before has ended. ``resent`` counts segments that TCP had to send again.
* ``kept``: one TCP connection, one HTTP request for each try, one after the other; ``resent`` counts from the
  connection's beginning. When it breaks, the last line says so and the job ends.
* ``udp``: a socket of its own and one datagram of ``size`` bytes for each try.
* ``flow``: the same, all from one socket.
* ``sctp``: an SCTP INIT for each try, sent again until an answer comes. It is never ``open``: that it came
  through is what a refusal tells.
* ``ping``: an ICMP echo for each try.
* ``pull``: one TCP connection to a ``push`` server; a line for each piece that arrives.
* ``push``: a TCP server on ``port`` that sends every connection a byte every ``every`` seconds.
* ``sink``: a UDP server on ``port`` that tells of each datagram, ``answer`` being its sender and text.

Outcomes: ``open``, ``refused`` (a reset, or ICMP port unreachable), ``denied`` (nothing came within
``patience`` seconds), ``unreachable`` (another ICMP error, or no route), ``ended`` (a kept connection broke).
"""

from __future__ import annotations

import asyncio
import errno
import json
import os
import socket
import struct
import sys
import time
from collections.abc import Awaitable, Callable
from typing import Any

REQUEST = b"GET / HTTP/1.1\r\nHost: probe\r\n\r\n"
TCP_INFO_TOTAL_RETRANS = 100
"""Offset of ``tcpi_total_retrans`` in ``struct tcp_info`` (linux/tcp.h)."""
SCTP_INIT, SCTP_ABORT = 1, 6
"""Types of chunks (RFC 9260)."""
PROTOCOL_UNREACHABLE = (3, 2)
"""ICMP's type and code (RFC 792)."""
ICMP_FILTER = 1
"""Socket option: types of ICMP, as bits, that a raw socket does not take (linux/icmp.h)."""
INIT_AGAIN_SECONDS = 1.0

Job = dict[str, Any]
Told = dict[str, Any]


def tell(job: Job, began: float, outcome: str, **more: Any) -> None:
    """One line."""
    line = {"id": job["id"], "began": began, "ended": time.monotonic(), "outcome": outcome, **more}
    os.write(1, json.dumps(line).encode() + b"\n")


async def receive_answer(connection: socket.socket) -> Any:
    """The JSON body of an HTTP response."""
    loop = asyncio.get_running_loop()
    data = b""
    while b"\r\n\r\n" not in data:
        data += await received(loop, connection)
    head, _, body = data.partition(b"\r\n\r\n")
    length = int(head.lower().partition(b"content-length:")[2].split(b"\r\n")[0])
    while len(body) < length:
        body += await received(loop, connection)
    return json.loads(body)


async def received(loop: asyncio.AbstractEventLoop, connection: socket.socket) -> bytes:
    """Some bytes; the end of the connection is an error."""
    data = await loop.sock_recv(connection, 65536)
    if not data:
        raise ConnectionResetError(errno.ECONNRESET, "closed by the peer")
    return data


def made(kind: socket.SocketKind, protocol: int = 0, *, ip: str = "") -> socket.socket:
    """A socket for this loop, of the family of an address; IPv4 without one."""
    fresh = socket.socket(socket.AF_INET6 if ":" in ip else socket.AF_INET, kind, protocol)
    fresh.setblocking(False)
    return fresh


async def judged(job: Job, talk: Callable[[], Awaitable[Told]]) -> str:
    """Does one try and tells of it; the outcome."""
    began = time.monotonic()
    more: Told = {}
    try:
        async with asyncio.timeout(job["patience"]):
            more = await talk()
        outcome = "open"
    except TimeoutError:
        outcome = "denied"
    except ConnectionRefusedError:
        outcome = "refused"
    except ConnectionError as error:
        outcome, more = "ended", {"detail": str(error)}
    except OSError as error:
        outcome, more = "unreachable", {"detail": os.strerror(error.errno or 0)}
    tell(job, began, outcome, **more)
    return outcome


async def connect_once(job: Job) -> Told:
    """A TCP connection and one request."""
    loop = asyncio.get_running_loop()
    with made(socket.SOCK_STREAM, ip=job["ip"]) as connection:
        await loop.sock_connect(connection, (job["ip"], job["port"]))
        await loop.sock_sendall(connection, REQUEST)
        return {"answer": await receive_answer(connection), "resent": resent(connection)}


def resent(connection: socket.socket) -> int:
    """Segments that TCP had to send again on a connection, its SYN included."""
    info = connection.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, TCP_INFO_TOTAL_RETRANS + 4)
    (count,) = struct.unpack_from("=I", info, TCP_INFO_TOTAL_RETRANS)
    return int(count)


async def ask_by_datagram(job: Job, client: socket.socket) -> Told:
    """One datagram and its answer."""
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(client, b"x" * job["size"])
    answer = json.loads(await loop.sock_recv(client, 65536))
    payload = answer.pop("payload")
    return {"answer": {**answer, "bytes": len(payload)}}


async def ask_by_new_socket(job: Job) -> Told:
    """The same from a socket of its own."""
    with made(socket.SOCK_DGRAM, ip=job["ip"]) as client:
        client.connect((job["ip"], job["port"]))
        return await ask_by_datagram(job, client)


async def ping(job: Job) -> Told:
    """One ICMP echo."""
    loop = asyncio.get_running_loop()
    number, sequence = os.getpid() & 0xFFFF, int(time.monotonic() * 1000) & 0xFFFF
    payload = b"x" * job["size"]
    header = struct.pack("!BBHHH", 8, 0, 0, number, sequence)
    header = struct.pack("!BBHHH", 8, 0, checksum(header + payload), number, sequence)
    with made(socket.SOCK_RAW, socket.IPPROTO_ICMP) as raw:
        raw.connect((job["ip"], 0))
        await loop.sock_sendall(raw, header + payload)
        while True:
            packet = await loop.sock_recv(raw, 65536)
            kind, _, _, told_number, told_sequence = struct.unpack_from("!BBHHH", packet, 20)
            if (kind, told_number, told_sequence) == (0, number, sequence):
                return {"answer": {"bytes": len(packet) - 28}}


async def offer_association(job: Job) -> Told:
    """An INIT made by hand, since a kernel need not have SCTP; raises ConnectionRefusedError on the answer.

    A server's kernel without SCTP answers that the protocol is unreachable, one with it by an ABORT.
    """
    loop = asyncio.get_running_loop()
    own = 0x8000 | int.from_bytes(os.urandom(2), "big")
    ports = struct.pack("!HH", own, job["port"])
    chunk = struct.pack("!BBH4sIHHI", SCTP_INIT, 0, 20, os.urandom(4), 65536, 1, 1, 1)
    packet = ports + bytes(4) + struct.pack("<I", crc32c(ports + bytes(8) + chunk)) + chunk
    with (
        made(socket.SOCK_RAW, socket.IPPROTO_SCTP) as raw,
        made(socket.SOCK_RAW, socket.IPPROTO_ICMP) as errors,
    ):
        others = ~(1 << PROTOCOL_UNREACHABLE[0]) & 0xFFFFFFFF
        errors.setsockopt(socket.IPPROTO_RAW, ICMP_FILTER, struct.pack("=I", others))

        async def aborted() -> None:
            while True:
                body = (await loop.sock_recv(raw, 65536))[20:]
                if body[:4] == ports[2:] + ports[:2] and body[12] == SCTP_ABORT:
                    return

        async def unreachable() -> None:
            while True:
                error = (await loop.sock_recv(errors, 65536))[20:]
                quoted = error[8:]
                if (error[0], error[1]) == PROTOCOL_UNREACHABLE and quoted[20:24] == ports:
                    return

        answers = [asyncio.create_task(each, name="answer") for each in (aborted(), unreachable())]
        try:
            answered: set[asyncio.Task[None]] = set()
            while not answered:
                # Not connected: a connected socket would be told of the errors of other tries as well.
                await loop.sock_sendto(raw, packet, (job["ip"], 0))
                answered, _ = await asyncio.wait(
                    answers, timeout=INIT_AGAIN_SECONDS, return_when=asyncio.FIRST_COMPLETED
                )
            await answered.pop()
        finally:
            for each in answers:
                each.cancel()
            await asyncio.gather(*answers, return_exceptions=True)
    raise ConnectionRefusedError(errno.ECONNREFUSED, "nobody serves it")


def crc32c(data: bytes) -> int:
    """SCTP's checksum (RFC 9260, appendix A)."""
    crc = 0xFFFFFFFF
    for byte in data:
        crc ^= byte
        for _ in range(8):
            crc = crc >> 1 ^ (0x82F63B78 if crc & 1 else 0)
    return crc ^ 0xFFFFFFFF


def checksum(data: bytes) -> int:
    """RFC 1071."""
    total: int = sum(struct.unpack(f"!{(len(data) + 1) // 2}H", data + b"\0" * (len(data) % 2)))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


async def over_and_over(job: Job, talk: Callable[[Job], Awaitable[Told]]) -> None:
    """Tries that begin at equal intervals and may overlap."""
    async with asyncio.TaskGroup() as tries:
        begin = time.monotonic()
        number = 0
        while job["count"] is None or number < job["count"]:
            tries.create_task(judged(job, lambda: talk(job)), name=f"{job['id']} {number}")
            number += 1
            await asyncio.sleep(max(0.0, begin + number * job["every"] - time.monotonic()))


async def keep(job: Job) -> None:
    """Requests over one connection until it breaks."""
    loop = asyncio.get_running_loop()
    with made(socket.SOCK_STREAM, ip=job["ip"]) as connection:

        async def open_it() -> Told:
            await loop.sock_connect(connection, (job["ip"], job["port"]))
            return await ask()

        async def ask() -> Told:
            await loop.sock_sendall(connection, REQUEST)
            return {"answer": await receive_answer(connection), "resent": resent(connection)}

        outcome = await judged(job, open_it)
        while outcome == "open":
            await asyncio.sleep(job["every"])
            outcome = await judged(job, ask)


async def keep_datagrams(job: Job) -> None:
    """Datagrams from one socket, one after the other, also after some without an answer."""
    with made(socket.SOCK_DGRAM, ip=job["ip"]) as client:
        client.connect((job["ip"], job["port"]))
        while True:
            await judged(job, lambda: ask_by_datagram(job, client))
            await asyncio.sleep(job["every"])


async def pull(job: Job) -> None:
    """Takes what a push server sends."""
    loop = asyncio.get_running_loop()
    with made(socket.SOCK_STREAM, ip=job["ip"]) as connection:

        async def take() -> Told:
            await received(loop, connection)
            return {}

        await loop.sock_connect(connection, (job["ip"], job["port"]))
        while await judged(job, take) == "open":
            pass


async def push(job: Job) -> None:
    """Sends to whoever connects, for ever."""

    async def send(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while True:
                writer.write(b".")
                await writer.drain()
                await asyncio.sleep(job["every"])
        except ConnectionError:
            writer.close()

    server = await asyncio.start_server(send, "0.0.0.0", job["port"])
    tell(job, time.monotonic(), "open")
    await server.serve_forever()


async def sink(job: Job) -> None:
    """Takes datagrams, for ever."""
    loop = asyncio.get_running_loop()
    with made(socket.SOCK_DGRAM) as server:
        server.bind(("0.0.0.0", job["port"]))
        tell(job, time.monotonic(), "open")
        while True:
            data, sender = await loop.sock_recvfrom(server, 65536)
            tell(job, time.monotonic(), "open", answer={"ip": sender[0], "text": data.decode()})


async def work(jobs: list[Job]) -> None:
    """All jobs at once."""
    kinds: dict[str, Callable[[Job], Awaitable[None]]] = {
        "new": lambda job: over_and_over(job, connect_once),
        "udp": lambda job: over_and_over(job, ask_by_new_socket),
        "sctp": lambda job: over_and_over(job, offer_association),
        "ping": lambda job: over_and_over(job, ping),
        "kept": keep,
        "flow": keep_datagrams,
        "pull": pull,
        "push": push,
        "sink": sink,
    }
    async with asyncio.TaskGroup() as group:
        for job in jobs:

            async def run(job: Job = job) -> None:
                await kinds[job["kind"]](job)

            group.create_task(run(), name=job["id"])


if __name__ == "__main__":
    asyncio.run(work(json.loads(sys.argv[1])))
