"""The frame of a service process.

It owns the process's task group: the service's main coroutine, the tasks that it starts by name, and the
bus's connection. One failed task cancels all others and ends the process with exit code 1 and a log line that
names it; whoever started the process starts it again. SIGTERM and SIGINT cancel everything and end it with 0;
a second one ends it at once.
"""

from __future__ import annotations

import argparse
import asyncio
import gc
import logging
import signal
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from contextlib import AsyncExitStack
from typing import TYPE_CHECKING, Any

import uvloop

from shared.bus import Bus
from shared.contract.base import timestamp
from shared.contract.names import event_subject, health_subject
from shared.contract.node import Event
from shared.runtime.health import Health
from shared.runtime.logs import set_up_logging
from shared.runtime.settings import ServiceSettings, parse_settings

if TYPE_CHECKING:
    from shared.kubernetes import Kubernetes

log = logging.getLogger(__name__)


class Runtime:
    """What a service is given to run with."""

    def __init__(self, name: str, settings: ServiceSettings, *, tasks: asyncio.TaskGroup) -> None:
        self.name = name
        self.settings = settings
        self.health = Health(name, node=settings.node)
        self.bus_if_made: Bus | None = None
        self._tasks = tasks
        self._started: list[asyncio.Task[None]] = []
        self._kubernetes: Kubernetes | None = None
        self._cleanup = AsyncExitStack()
        self.health.add_check("nats", self._nats_problem)

    @property
    def bus(self) -> Bus:
        """The connection to NATS; made before the service's main coroutine starts."""
        if self.bus_if_made is None:
            raise RuntimeError("the bus is not connected yet")
        return self.bus_if_made

    async def kubernetes(self) -> Kubernetes:
        """The connection to the Kubernetes API, made at the first call (its library is slow to import)."""
        if self._kubernetes is None:
            from shared.kubernetes import connect

            self._kubernetes = await connect(kubeconfig=self.settings.kubeconfig)
            self._cleanup.push_async_callback(self._kubernetes.close)
        return self._kubernetes

    def start(self, name: str, work: Coroutine[Any, Any, None]) -> asyncio.Task[None]:
        """Run a task for the life of the process; if it fails, so does the process, naming it."""
        task = self._tasks.create_task(_named(name, work), name=name)
        self._started.append(task)
        return task

    def _nats_problem(self) -> str:
        connected = self.bus_if_made is not None and self.bus_if_made.connected
        return "" if connected else f"not connected to {self.settings.bus.url}"

    async def event(self, *, kind: str, object: str, message: str) -> None:
        """Tell operators: publish an Event and log it. ``kind`` is a stable word, as ``drift-repaired``."""
        log.warning(message, extra={"fields": {"kind": kind, "object": object}})
        event = Event(
            time=timestamp(),
            service=self.name,
            kind=kind,
            object=object,
            message=message,
            node=self.settings.node,
        )
        subject = event_subject(cluster=self.bus.cluster, service=self.name, kind=kind)
        await self.bus.publish(subject, event)

    async def run(self, main: Callable[[Runtime], Awaitable[None]]) -> None:
        """Serve health, connect the bus, and run ``main`` to its end."""
        async with self._cleanup as cleanup:
            if self.settings.listen is not None:
                from shared.runtime.http import serve_http

                host, port = self.settings.listen
                port = await cleanup.enter_async_context(serve_http(self, host=host, port=port))
                log.info("serving health and metrics", extra={"fields": {"host": host, "port": port}})
            self.bus_if_made = await Bus.connect(self.settings.bus, name=f"stentor-{self.name}")
            cleanup.push_async_callback(self.bus.close)
            await self.bus.answer(health_subject(cluster=self.bus.cluster), self.health.report)
            self.start("nats", self.bus.watch())
            # What was read by then stays, and of a large cluster that is so much that a collection that looks
            # through all of it would hold up everything for most of a second.
            self.health.on_ready(gc.freeze)
            await main(self)
            for task in self._started:
                task.cancel()


def run_service(
    name: str,
    main: Callable[[Runtime], Awaitable[None]],
    *,
    add_arguments: Callable[[argparse.ArgumentParser], None] | None = None,
    arguments: Sequence[str] | None = None,
) -> int:
    """Run a service until it is told to stop or its main coroutine returns; gives the process's exit code."""
    settings = parse_settings(name, arguments=arguments, add_arguments=add_arguments)
    set_up_logging(log_format=settings.log_format, level=settings.log_level, service=name)
    return uvloop.run(_until_stopped(name, settings, main))


async def _until_stopped(
    name: str, settings: ServiceSettings, main: Callable[[Runtime], Awaitable[None]]
) -> int:
    loop = asyncio.get_running_loop()
    work = asyncio.create_task(_work(name, settings, main), name=name)

    def stop(number: signal.Signals) -> None:
        log.info("stopping on %s", number.name)
        for each in (signal.SIGTERM, signal.SIGINT):
            loop.remove_signal_handler(each)
        work.cancel()

    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop, number)
    await asyncio.wait([work])
    if work.cancelled():
        log.info("stopped")
        return 0
    if (failure := work.exception()) is not None:
        while isinstance(failure, BaseExceptionGroup):
            failure = failure.exceptions[0]
        log.critical("%s ends because a task failed: %s", name, failure)
        return 1
    return 0


async def _work(name: str, settings: ServiceSettings, main: Callable[[Runtime], Awaitable[None]]) -> None:
    async with asyncio.TaskGroup() as tasks:
        runtime = Runtime(name, settings, tasks=tasks)
        tasks.create_task(_named("main", runtime.run(main)), name="main")


async def _named(name: str, work: Coroutine[Any, Any, None]) -> None:
    try:
        await work
    except Exception:  # named here, for the task group tells of exceptions without tasks; raised again
        log.critical("task %s failed", name, exc_info=True)
        raise
