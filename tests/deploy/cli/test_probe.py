"""The probe program against real sockets."""

from __future__ import annotations

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from typing import Any

from deploy.cli.probing import PROGRAM
from deploy.lab.sandbox import POD_SERVER


@contextmanager
def listener() -> Iterator[int]:
    """A port where connections are accepted by the kernel and nobody answers."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        yield server.getsockname()[1]


def free_port() -> int:
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        return int(server.getsockname()[1])


def run(targets: list[dict[str, Any]]) -> list[dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-I", "-S", str(PROGRAM), "0.5"],
        input=json.dumps(targets),
        capture_output=True,
        text=True,
        check=True,
    )
    found: list[dict[str, Any]] = json.loads(done.stdout)
    return found


def test_open_refused_and_denied_are_told_apart() -> None:
    port, closed = free_port(), free_port()
    spec = {
        "pod": "backend-a",
        "namespace": "default",
        "node": "node-1",
        "ports": [{"port": port, "protocol": "TCP"}],
    }
    with (
        listener() as mute,
        subprocess.Popen(
            [sys.executable, str(POD_SERVER), json.dumps(spec)], stdout=subprocess.PIPE, text=True
        ) as server,
    ):
        assert server.stdout is not None
        assert server.stdout.readline() == "ready\n"
        results = run(
            [
                {"id": "a", "ip": "127.0.0.1", "port": port},
                {"id": "b", "ip": "127.0.0.1", "port": closed},
                {"id": "c", "ip": "127.0.0.1", "port": mute},
                {"id": "d", "ip": "255.255.255.255", "port": 80},
            ]
        )
        server.terminate()
    outcomes = [(result["id"], result["outcome"]) for result in results]
    assert outcomes == [("a", "open"), ("b", "refused"), ("c", "denied"), ("d", "unreachable")]
    assert results[0]["answer"]["pod"] == "backend-a"
    assert 0 < results[0]["milliseconds"] < 500
    assert results[2]["milliseconds"] >= 500


def test_targets_are_tried_at_the_same_time() -> None:
    with listener() as mute:
        results = run([{"id": str(number), "ip": "127.0.0.1", "port": mute} for number in range(20)])
    assert [result["id"] for result in results] == [str(number) for number in range(20)]
    assert max(result["milliseconds"] for result in results) < 1500
