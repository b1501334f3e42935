"""What spin.c does, for machines without a C compiler; slower, so that less of the packets' path shows.

Run in a pod as a program: standard library only.
"""

from __future__ import annotations

import json
import os
import select
import socket
import statistics
import sys
import time
from pathlib import Path

PATIENCE_SECONDS = 2.0
IDLE_SECONDS = 0.02


def receive(connection: socket.socket) -> bytes:
    """One byte; empty at the end of the stream."""
    until = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < until:
        try:
            return connection.recv(1, socket.MSG_DONTWAIT)
        except BlockingIOError:
            continue
    raise TimeoutError("no answer")


def serve(port: int) -> None:
    """For ever."""
    # A port that comes again within a minute would be refused.
    Path("/proc/sys/net/ipv4/tcp_max_tw_buckets").write_text("0")
    listener = socket.create_server(("0.0.0.0", port), backlog=128)
    listener.setblocking(False)
    print("ready", flush=True)
    busy = time.monotonic()
    while True:
        try:
            connection, _ = listener.accept()
        except BlockingIOError:
            if time.monotonic() - busy > IDLE_SECONDS:
                select.select([listener], [], [])
            continue
        with connection:
            try:
                while byte := receive(connection):
                    connection.send(byte)
                    if byte != b"k":
                        break
            except OSError:
                connection.close()
        busy = time.monotonic()


def open_connection(address: tuple[str, int]) -> socket.socket:
    """Connected."""
    connection = socket.create_connection(address, PATIENCE_SECONDS)
    connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    return connection


def ask(address: tuple[str, int], seconds: float, *, connecting: bool) -> dict[str, float]:
    """Exchanges or connections, one after another."""
    times = []
    kept = None if connecting else open_connection(address)
    began = at = time.perf_counter()
    while at - began < seconds:
        begun = at
        if kept is None:
            with open_connection(address) as connection:
                times.append(time.perf_counter() - begun)
                connection.send(b"c")
                receive(connection)
                receive(connection)
            at = time.perf_counter()
        else:
            kept.send(b"k")
            receive(kept)
            at = time.perf_counter()
            times.append(at - begun)
    return {"count": len(times), "seconds": at - began, "median_us": statistics.median(times) * 1e6}


def main() -> None:
    """See spin.c."""
    command, *rest = sys.argv[1:]
    os.sched_setaffinity(0, {int(rest[-1])})
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
    if command == "serve":
        serve(int(rest[0]))
    print(json.dumps(ask((rest[0], int(rest[1])), float(rest[2]), connecting=command == "connect")))


if __name__ == "__main__":
    main()
