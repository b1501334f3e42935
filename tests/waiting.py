"""Waiting for conditions, never for time."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from typing import Any

PATIENCE_SECONDS = 20.0


def free_port() -> int:
    """A loopback port that nobody listens on at this moment."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def eventually(check: Callable[[], Any | Awaitable[Any]], *, seconds: float = PATIENCE_SECONDS) -> Any:
    """The first true result of ``check``; fails with the last one."""
    result: Any = None
    try:
        async with asyncio.timeout(seconds):
            while True:
                result = check()
                if asyncio.iscoroutine(result):
                    result = await result
                if result:
                    return result
                await asyncio.sleep(0.01)
    except TimeoutError as error:
        raise AssertionError(f"not within {seconds:g} s; the last result was {result!r}") from error


async def listens(port: int) -> bool:
    """Whether somebody takes connections on a loopback port."""
    try:
        _, writer = await asyncio.open_connection("127.0.0.1", port)
    except OSError:
        return False
    writer.close()
    return True
