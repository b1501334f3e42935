"""What a pod can reach: one program, started inside the pod's network namespace. Standard library only.

Reads a JSON array of targets ``{"id", "ip", "port"}`` on standard input and tries all of them
at the same time over TCP; ``probe.py SECONDS`` is how long each may take (default 1). Writes a JSON array of
``{"id", "outcome", "milliseconds", "answer", "detail"}`` in the order of the targets:

* ``open``: connected, and an HTTP answer came; ``answer`` is its JSON body, None when it is none
* ``refused``: a reset came back: the packets reached the pod, and nothing listens there
* ``denied``: nothing came back in time
* ``unreachable``: this machine's routing says that there is no way, see ``detail``
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from typing import Any

REQUEST = b"GET / HTTP/1.1\r\nHost: probe\r\nConnection: close\r\n\r\n"


async def fetch(ip: str, port: int) -> bytes:
    """The body of the answer to a GET request."""
    reader, writer = await asyncio.open_connection(ip, port)
    try:
        writer.write(REQUEST)
        answer = await reader.read(-1)
    finally:
        writer.transport.abort()
    head, found, body = answer.partition(b"\r\n\r\n")
    if not found or not head.startswith(b"HTTP/"):
        raise EOFError
    return body


def parsed(body: bytes) -> Any:
    """The body as JSON, None when it is not."""
    try:
        return json.loads(body)
    except ValueError:
        return None


async def probe(target: dict[str, Any], *, seconds: float) -> dict[str, Any]:
    """The result for one target."""
    began = time.monotonic()
    answer, detail = None, ""
    try:
        async with asyncio.timeout(seconds):
            answer = parsed(await fetch(target["ip"], target["port"]))
        outcome = "open"
    except TimeoutError:
        outcome = "denied"
    except ConnectionRefusedError:
        outcome = "refused"
    except (EOFError, ConnectionResetError):
        outcome, detail = "denied", "connected, then cut without an answer"
    except OSError as error:
        outcome, detail = "unreachable", error.strerror or str(error)
    return {
        "id": target["id"],
        "outcome": outcome,
        "milliseconds": round((time.monotonic() - began) * 1000, 3),
        "answer": answer,
        "detail": detail,
    }


async def probe_all(targets: list[dict[str, Any]], *, seconds: float) -> list[dict[str, Any]]:
    """The results, in the order of the targets."""
    async with asyncio.TaskGroup() as group:
        tasks = [
            group.create_task(probe(target, seconds=seconds), name=f"probe {target['id']}")
            for target in targets
        ]
    return [task.result() for task in tasks]


if __name__ == "__main__":
    limit = float(sys.argv[1]) if len(sys.argv) > 1 else 1.0
    json.dump(asyncio.run(probe_all(json.load(sys.stdin), seconds=limit)), sys.stdout)
