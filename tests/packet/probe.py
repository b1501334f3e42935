"""Sends and receives single packets for the packet tests; standard library only, run inside a namespace.

Usage: ``probe.py COMMAND ...``; servers print ``ready`` first, everything else prints one JSON object.
"""

from __future__ import annotations

import json
import select
import socket
import struct
import sys
import time

TIMEOUT = 1.0
PACE = 0.02
"""Seconds between two bytes of those who send all the time: nothing is waited for."""


def checksum(data: bytes) -> int:
    if len(data) % 2:
        data += b"\0"
    total: int = sum(struct.unpack(f"!{len(data) // 2}H", data))
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def tcp(ip: str, port: int) -> dict[str, object]:
    """One connection and one byte each way: open, refused or denied (no answer)."""
    try:
        with socket.create_connection((ip, port), TIMEOUT) as connection:
            connection.sendall(b"?")
            answer = connection.recv(100).decode()
            return {"outcome": "open", "answer": answer, "peer": connection.getpeername()[0]}
    except ConnectionRefusedError:
        return {"outcome": "refused"}
    except TimeoutError:
        return {"outcome": "denied"}


def pair(port: int, *targets: str) -> dict[str, object]:
    """One byte each way, twice in turn, on connections from one local port to several ``ip:port``."""
    connections = []
    for target in targets:
        connection = socket.socket()
        connection.settimeout(TIMEOUT)
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        connection.bind(("", port))
        ip, _, number = target.partition(":")
        try:
            connection.connect((ip, int(number)))
        except TimeoutError:
            return {"outcome": f"denied {target}"}
        connections.append(connection)
    answers = []
    for connection in connections * 2:
        connection.sendall(b"?")
        answers.append(connection.recv(100).decode())
    return {"outcome": "open", "answers": answers}


def family_of(ip: str) -> socket.AddressFamily:
    return socket.AF_INET6 if ":" in ip else socket.AF_INET


def udp(ip: str, port: int, *, size: int = 1) -> dict[str, object]:
    """One datagram and its echo."""
    with socket.socket(family_of(ip), socket.SOCK_DGRAM) as client:
        client.settimeout(TIMEOUT)
        client.connect((ip, port))
        client.send(b"x" * size)
        try:
            answer = client.recv(65536)
            return {"outcome": "open", "bytes": len(answer), "answer": answer[-40:].decode()}
        except ConnectionRefusedError:
            return {"outcome": "refused"}
        except TimeoutError:
            return {"outcome": "denied"}


def ping(ip: str) -> dict[str, object]:
    """One ICMP echo."""
    if ":" in ip:
        return ping6(ip)
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as raw:
        raw.settimeout(TIMEOUT)
        body = struct.pack("!BBHHH", 8, 0, 0, 77, 1)
        raw.sendto(struct.pack("!BBHHH", 8, 0, checksum(body), 77, 1), (ip, 0))
        try:
            while True:
                packet, sender = raw.recvfrom(2000)
                if sender[0] == ip and packet[20] == 0:
                    return {"outcome": "open"}
        except TimeoutError:
            return {"outcome": "denied"}


def ping6(ip: str) -> dict[str, object]:
    """One echo of ICMPv6, whose checksum the kernel fills in."""
    with socket.socket(socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6) as raw:
        raw.settimeout(TIMEOUT)
        raw.sendto(struct.pack("!BBHHH", 128, 0, 0, 77, 1), (ip, 0))
        try:
            while True:
                packet, sender = raw.recvfrom(2000)
                if sender[0] == ip and packet[0] == 129:
                    return {"outcome": "open"}
        except TimeoutError:
            return {"outcome": "denied"}


def spoof(source: str, ip: str, port: int) -> dict[str, object]:
    """A UDP datagram with somebody else's source address."""
    payload = b"spoofed"
    datagram = struct.pack("!HHHH", 4444, port, 8 + len(payload), 0) + payload
    header = struct.pack(
        "!BBHHHBBH4s4s",
        0x45, 0, 20 + len(datagram), 1, 0, 64, socket.IPPROTO_UDP, 0,
        socket.inet_aton(source), socket.inet_aton(ip),
    )  # fmt: skip
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
        raw.sendto(header + datagram, (ip, 0))
    return {"sent": True}


def frame(kind: int, data: str) -> dict[str, object]:
    """A raw Ethernet frame to the gateway; waits for the answer when it asks for a neighbour."""
    asks = kind if kind in (0x0806, 0x86DD) else 0x0806
    with socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(asks)) as raw:
        raw.bind(("eth0", asks))
        raw.settimeout(TIMEOUT)
        own = raw.getsockname()[4]
        raw.send(b"\xff" * 6 + own + struct.pack("!H", kind) + bytes.fromhex(data.replace("OWN", own.hex())))
        if kind != asks:
            return {"sent": True}
        try:
            while True:
                answer = raw.recv(100)
                if kind == 0x86DD and is_advertisement(answer[14:]):
                    return {"outcome": "open", "mac": answer[80:86].hex(":")}
                if kind == 0x0806 and answer[20:22] == b"\0\2":
                    return {"outcome": "open", "mac": answer[22:28].hex(":")}
        except TimeoutError:
            return {"outcome": "denied"}


def is_advertisement(packet: bytes) -> bool:
    """A neighbour advertisement with a right checksum (RFC 4861)."""
    if packet[6] != socket.IPPROTO_ICMPV6 or packet[40] != 136:
        return False
    pseudo = packet[8:40] + struct.pack("!II", len(packet) - 40, socket.IPPROTO_ICMPV6)
    return checksum(pseudo + packet[40:]) == 0


def packets(data: list[str]) -> dict[str, object]:
    """Whole packets, sent as they are and in order."""
    for packet in map(bytes.fromhex, data):
        if packet[0] >> 4 == 6:
            family, target = socket.AF_INET6, socket.inet_ntop(socket.AF_INET6, packet[24:40])
        else:
            family, target = socket.AF_INET, socket.inet_ntoa(packet[16:20])
        with socket.socket(family, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
            raw.sendto(packet, (target, 0))
    return {"sent": len(data)}


def flood(packet: bytes, count: int) -> dict[str, object]:
    """One packet many times."""
    with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW) as raw:
        for _ in range(count):
            raw.sendto(packet, (socket.inet_ntoa(packet[16:20]), 0))
    return {"sent": count}


def sniff(device: str, kind: int) -> dict[str, object]:
    """All packets of a kind that come in on a device until standard input ends and nothing more comes."""
    heard: list[str] = []
    with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(kind)) as raw:
        raw.bind((device, kind))
        print("ready", flush=True)
        stopping = False
        while True:
            readable, _, _ = select.select([raw] if stopping else [raw, sys.stdin], [], [], TIMEOUT / 5)
            if raw in readable:
                data, sender = raw.recvfrom(65536)
                if sender[2] != socket.PACKET_OUTGOING:
                    heard.append(data.hex())
            elif stopping:
                return {"heard": heard}
            elif readable:
                stopping = True


def stream(ip: str, port: int, seconds: float) -> dict[str, object]:
    """One byte each way on one connection, every 20 ms: when was the last answer?"""
    begin = time.monotonic()
    answered = 0
    last = 0.0
    with socket.create_connection((ip, port), TIMEOUT) as connection:
        connection.settimeout(0.3)
        print("ready", flush=True)
        while time.monotonic() - begin < seconds:
            try:
                connection.sendall(b"?")
                if not connection.recv(100):
                    break
                answered += 1
                last = time.monotonic() - begin
            except (TimeoutError, ConnectionError):
                break
            time.sleep(PACE)  # the rate of the stream: nothing is waited for
    return {"answered": answered, "last": last, "ended": time.monotonic() - begin}


def push(ip: str, port: int) -> dict[str, object]:
    """Connects, says nothing more, and counts the bytes that a ``pushtcp`` server sends until they stop."""
    with socket.create_connection((ip, port), TIMEOUT) as connection:
        connection.settimeout(0.5)
        print("ready", flush=True)
        received = 0
        try:
            while data := connection.recv(1000):
                received += len(data)
        except TimeoutError:
            return {"received": received, "stopped": True}
    return {"received": received, "stopped": False}


def serve_tcp(port: int, *, pushing: bool = False) -> None:
    """Answers each byte with the peer's address; with ``pushing`` sends a byte every 20 ms unasked."""
    import threading

    def talk(connection: socket.socket, peer: str) -> None:
        with connection:
            try:
                while True:
                    if pushing:
                        connection.sendall(b".")
                        time.sleep(PACE)  # the rate of the stream: nothing is waited for
                    elif connection.recv(1):
                        connection.sendall(peer.encode())
                    else:
                        return
            except OSError:
                return

    server = socket.create_server(("", port), family=socket.AF_INET6, backlog=100, dualstack_ipv6=True)
    print("ready", flush=True)
    while True:
        connection, (peer, *_) = server.accept()
        threading.Thread(target=talk, args=(connection, plain(peer)), daemon=True).start()


def plain(ip: str) -> str:
    """An IPv4 address as a socket of both families gives it."""
    return ip.removeprefix("::ffff:")


def serve_udp(port: int) -> None:
    """Echoes each datagram followed by the sender's address."""
    server = socket.socket(socket.AF_INET6, socket.SOCK_DGRAM)
    server.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
    server.bind(("", port))
    print("ready", flush=True)
    while True:
        data, sender = server.recvfrom(65536)
        server.sendto(data + plain(sender[0]).encode(), sender)


def main(command: str, *rest: str) -> None:
    if command == "serve-tcp":
        serve_tcp(int(rest[0]))
    elif command == "push-tcp":
        serve_tcp(int(rest[0]), pushing=True)
    elif command == "serve-udp":
        serve_udp(int(rest[0]))
    elif command == "tcp":
        answer = tcp(rest[0], int(rest[1]))
    elif command == "pair":
        answer = pair(int(rest[0]), *rest[1:])
    elif command == "udp":
        answer = udp(rest[0], int(rest[1]), size=int(rest[2]) if len(rest) > 2 else 1)
    elif command == "ping":
        answer = ping(rest[0])
    elif command == "spoof":
        answer = spoof(rest[0], rest[1], int(rest[2]))
    elif command == "frame":
        answer = frame(int(rest[0], 16), rest[1])
    elif command == "packets":
        answer = packets(list(rest))
    elif command == "flood":
        answer = flood(bytes.fromhex(rest[0]), int(rest[1]))
    elif command == "sniff":
        answer = sniff(rest[0], int(rest[1], 16))
    elif command == "stream":
        answer = stream(rest[0], int(rest[1]), float(rest[2]))
    elif command == "push":
        answer = push(rest[0], int(rest[1]))
    else:
        raise SystemExit(f"unknown command {command}")
    print(json.dumps(answer), flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
