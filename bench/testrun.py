"""How long the program on a pod's interface takes for one packet, by BPF_PROG_TEST_RUN (bpf(2)).

Run as a program in a node's network namespace, with the standard library only: reads a :class:`Case` list as
JSON from standard input, and writes nanoseconds by case. Nothing is sent: a test run executes the program on
a packet in memory and throws the verdict's effect away. What it does to maps is real, so that a case may
begin by opening its connection.

A case gives the mean of many runs on one packet, for each of some tries; what the kernel's loop around the
program costs is in it, as it is in the case of a frame that is dropped at once. A ``fresh`` case runs once
for each of many ports, with a system call between, so that caches are colder: each is a new connection.
"""

from __future__ import annotations

import ctypes
import json
import os
import socket
import struct
import sys
from pathlib import Path
from typing import NamedTuple, TypedDict

REPEAT = 100_000
TRIES = 15
FRESH = 5_000

SYN, ACK = 0x02, 0x10
TCP = 6
_SKB_SIZE = 192
_SKB_INTERFACES = 36
"""Offset of ``ingress_ifindex`` and ``ifindex`` in ``struct __sk_buff`` (linux/bpf.h)."""


class Case(TypedDict):
    """One measurement. An empty source means a frame that is no IPv4."""

    name: str
    source: str
    destination: str
    port: int
    source_port: int
    flags: int
    opened: bool
    """Send a SYN first."""
    fresh: bool


class _Options(ctypes.Structure):
    """``struct bpf_test_run_opts`` of libbpf."""

    _fields_ = (
        ("sz", ctypes.c_size_t),
        ("data_in", ctypes.c_void_p),
        ("data_out", ctypes.c_void_p),
        ("data_size_in", ctypes.c_uint32),
        ("data_size_out", ctypes.c_uint32),
        ("ctx_in", ctypes.c_void_p),
        ("ctx_out", ctypes.c_void_p),
        ("ctx_size_in", ctypes.c_uint32),
        ("ctx_size_out", ctypes.c_uint32),
        ("retval", ctypes.c_uint32),
        ("repeat", ctypes.c_int),
        ("duration", ctypes.c_uint32),
        ("flags", ctypes.c_uint32),
        ("cpu", ctypes.c_uint32),
        ("batch_size", ctypes.c_uint32),
    )


class Run(NamedTuple):
    """What one run came to."""

    action: int
    """The tc action that the program returned; of many runs, the last."""
    nanoseconds: int
    """Of one run, in the mean."""


class Program:
    """A pinned program."""

    def __init__(self, pin: str) -> None:
        self._library = ctypes.CDLL("libbpf.so.1", use_errno=True)
        self._descriptor = self._library.bpf_obj_get(pin.encode())
        if self._descriptor < 0:
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), pin)

    def close(self) -> None:
        """Gives the descriptor back."""
        os.close(self._descriptor)

    def run(self, frame: bytes, *, ifindex: int, repeat: int = 1, came_in: int = 0) -> Run:
        """Runs it on a frame at an interface; ``came_in`` is where the stack got it from, if it did."""
        context = bytearray(_SKB_SIZE)
        struct.pack_into("=II", context, _SKB_INTERFACES, came_in, ifindex)
        skb = ctypes.create_string_buffer(bytes(context), _SKB_SIZE)
        data = ctypes.create_string_buffer(frame, len(frame))
        options = _Options(
            sz=ctypes.sizeof(_Options),
            data_in=ctypes.addressof(data),
            data_size_in=len(frame),
            ctx_in=ctypes.addressof(skb),
            ctx_size_in=_SKB_SIZE,
            repeat=repeat,
        )
        if self._library.bpf_prog_test_run_opts(self._descriptor, ctypes.byref(options)):
            raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
        return Run(int(options.retval), int(options.duration))


def frame_of(case: Case, *, source_port: int, flags: int) -> bytes:
    """The frame that a case is about."""
    if not case["source"]:
        return bytes(12) + b"\x86\xdd" + bytes(46)
    tcp = struct.pack("!HHIIBBHHH", source_port, case["port"], 1, 1, 0x50, flags, 65535, 0, 0)
    addresses = socket.inet_aton(case["source"]) + socket.inet_aton(case["destination"])
    ip = struct.pack("!BBHHHBBH", 0x45, 0, 21 + len(tcp), 0, 0, 64, TCP, 0) + addresses
    return bytes(12) + b"\x08\x00" + ip + tcp + b"x"


def interface_to(ip: str) -> int:
    """Ifindex of the interface to which this namespace routes a pod's address."""
    wanted = f"{struct.unpack('=I', socket.inet_aton(ip))[0]:08X}"
    for line in Path("/proc/net/route").read_text(encoding="ascii").splitlines():
        fields = line.split()
        if fields[1] == wanted:
            return socket.if_nametoindex(fields[0])
    raise OSError(f"no route to {ip} in this network namespace")


def measure(program: Program, case: Case, *, ifindex: int) -> list[int]:
    """Nanoseconds, one number for each try."""
    if case["opened"]:
        program.run(frame_of(case, source_port=case["source_port"], flags=SYN), ifindex=ifindex)
    if case["fresh"]:
        ports = range(case["source_port"], case["source_port"] + FRESH)
        frames = (frame_of(case, source_port=port, flags=case["flags"]) for port in ports)
        return [program.run(frame, ifindex=ifindex).nanoseconds for frame in frames]
    frame = frame_of(case, source_port=case["source_port"], flags=case["flags"])
    return [program.run(frame, ifindex=ifindex, repeat=REPEAT).nanoseconds for _ in range(TRIES)]


def main() -> None:
    """Arguments: the program's pin, and the address of the pod on whose interface it runs."""
    pin, ip = sys.argv[1:]
    program, ifindex = Program(pin), interface_to(ip)
    cases: list[Case] = json.load(sys.stdin)
    print(json.dumps({case["name"]: measure(program, case, ifindex=ifindex) for case in cases}))


if __name__ == "__main__":
    main()
