"""A TCP relay between network namespaces: services of a node reach NATS, and are reached, over loopback only.

Each connection is copied both ways until both ends have finished; a half-closed direction is passed on. A
target that refuses costs only the connection that asked for it. Closing the relay closes its connections.
"""

from __future__ import annotations

import asyncio
import contextlib
import socket
from dataclasses import dataclass
from types import TracebackType

from deploy.lab import namespaces

CHUNK = 256 * 1024


@dataclass(frozen=True, kw_only=True)
class Place:
    """A loopback port in a network namespace; None is the daemon's own."""

    namespace: str | None
    port: int
    """0, for listening: any free one."""


class Relay:
    """Listens at one place and connects to another. Use as an async context manager."""

    def __init__(self, name: str, *, listen: Place, target: Place) -> None:
        self.name = name
        self.target = target
        self._listen = listen
        self._exit = contextlib.AsyncExitStack()
        self._opened: int | None = None
        self._connections: set[asyncio.Task[None]] = set()

    @property
    def port(self) -> int:
        """The port it listens on."""
        if self._opened is None:
            raise RuntimeError(f"relay {self.name} is not open")
        return self._opened

    async def __aenter__(self) -> Relay:
        listener = namespaces.socket_in(self._listen.namespace, family=socket.AF_INET)
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listener.bind(("127.0.0.1", self._listen.port))
        server = await asyncio.start_server(self._accepted, sock=listener)
        self._opened = port_of(listener)
        self._exit.push_async_callback(self._finish, server)
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        await self._exit.aclose()

    async def _finish(self, server: asyncio.Server) -> None:
        server.close()
        for task in self._connections:
            task.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        await server.wait_closed()

    def _accepted(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # start_server owns the task of this call and drops it; a task of our own can be waited for.
        task = asyncio.create_task(self._carry(reader, writer), name=f"relay {self.name}")
        self._connections.add(task)
        task.add_done_callback(self._connections.discard)

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with contextlib.suppress(OSError):
                await self._connect(reader, writer)
        except asyncio.CancelledError:
            # A peer that reads no more must not hold up the closing.
            writer.transport.abort()
            raise
        finally:
            writer.close()

    async def _connect(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        outgoing = namespaces.socket_in(self.target.namespace, family=socket.AF_INET)
        try:
            await asyncio.get_running_loop().sock_connect(outgoing, ("127.0.0.1", self.target.port))
        except BaseException:
            outgoing.close()
            raise
        far_reader, far_writer = await asyncio.open_connection(sock=outgoing)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(_copy(reader, far_writer), name=f"relay {self.name} out")
                group.create_task(_copy(far_reader, writer), name=f"relay {self.name} in")
        except* OSError:
            pass  # a reset of one end ends both
        finally:
            far_writer.close()


async def _copy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    while data := await reader.read(CHUNK):
        writer.write(data)
        await writer.drain()
    if writer.can_write_eof():
        writer.write_eof()


def port_of(bound: socket.socket) -> int:
    """The port that a socket is bound to."""
    port: int = bound.getsockname()[1]
    return port


def free_port() -> int:
    """A loopback TCP port of this namespace that nobody uses now."""
    with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as probe:
        probe.bind(("127.0.0.1", 0))
        return port_of(probe)
