"""`stentor observe`: flows as they happen, straight from the nodes.

No history is kept: what is printed happened after the subscription stood. The verdict filter is applied by
NATS, the others here. Flows that a node or this reader lost are told on standard error, never passed over.
"""

from __future__ import annotations

import asyncio
import sys
from collections import deque
from collections.abc import AsyncGenerator
from contextlib import aclosing
from dataclasses import dataclass

from deploy.cli.connection import Connection, find_target, open_bus
from deploy.cli.flowtext import flow_line, lost_line
from deploy.cli.output import FlowFormat, console, say, warn
from shared.bus import Bus, BusError, Subscription
from shared.contract.base import Message, encode
from shared.contract.flow import Flow, FlowEnd, FlowsLost, Verdict

LOST = "lost"
"""Last token of the subject of :class:`FlowsLost`."""


@dataclass(frozen=True, kw_only=True)
class FlowFilter:
    """Which flows are wanted; empty fields want all. A pod or namespace may be source or destination."""

    verdicts: frozenset[Verdict] = frozenset()
    namespaces: frozenset[str] = frozenset()
    pods: frozenset[tuple[str, str]] = frozenset()

    def wants(self, flow: Flow) -> bool:
        """Whether the flow passes every filter."""
        return (not self.verdicts or flow.verdict in self.verdicts) and (
            self._wants_end(flow.source) or self._wants_end(flow.destination)
        )

    def _wants_end(self, end: FlowEnd) -> bool:
        return (not self.namespaces or end.namespace in self.namespaces) and (
            not self.pods or (end.namespace, end.pod) in self.pods
        )


async def flows(
    bus: Bus, *, wanted: FlowFilter, ready: asyncio.Event | None = None
) -> AsyncGenerator[Message]:
    """Flows that are wanted and every FlowsLost, for ever. ``ready`` is set when nothing more is missed."""
    verdict = next(iter(wanted.verdicts)) if len(wanted.verdicts) == 1 else None
    types: dict[str, type[Message]] = {LOST: FlowsLost, "*": Flow}
    queue: asyncio.Queue[Message | BusError] = asyncio.Queue()
    standing = asyncio.Semaphore(0)

    async def take(subject: str) -> None:
        try:
            subscription: Subscription[Message] = bus.subscribe(subject, as_type=types)
            async with subscription as messages:
                standing.release()
                async for _, message in messages:
                    queue.put_nowait(message)
        except BusError as error:
            standing.release()
            queue.put_nowait(error)

    base = f"stentor.{bus.cluster}.flow.*"
    subjects = [f"{base}.*"] if verdict is None else [f"{base}.{verdict}", f"{base}.{LOST}"]
    tasks = [asyncio.create_task(take(subject), name=f"flows {subject}") for subject in subjects]
    try:
        for _ in subjects:
            await standing.acquire()
        if ready is not None:
            ready.set()
        while True:
            message = await queue.get()
            if isinstance(message, BusError):
                raise message
            if not isinstance(message, Flow) or wanted.wants(message):
                yield message
    finally:
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def print_flow(message: Message, *, form: FlowFormat) -> None:
    """One line for one flow; for lost ones a warning."""
    if isinstance(message, FlowsLost):
        warn(lost_line(message))
    elif isinstance(message, Flow):
        if form is FlowFormat.JSON:
            sys.stdout.write(encode(message).decode() + "\n")
            sys.stdout.flush()
        else:
            console().print(flow_line(message))


def observe(
    connection: Connection,
    *,
    wanted: FlowFilter,
    form: FlowFormat,
    seconds: float | None,
    last: int | None,
) -> int:
    """Print flows for ``seconds`` (for ever with None), all or the ``last`` of them."""
    target = find_target(connection)

    async def run() -> int:
        kept: deque[Message] = deque(maxlen=last)
        seen = 0
        async with open_bus(target.bus) as bus:
            try:
                async with asyncio.timeout(seconds), aclosing(flows(bus, wanted=wanted)) as messages:
                    async for message in messages:
                        seen += isinstance(message, Flow)
                        if last is None or isinstance(message, FlowsLost):
                            print_flow(message, form=form)
                        else:
                            kept.append(message)
            except TimeoutError:
                pass
        for message in kept:
            print_flow(message, form=form)
        if not seen and seconds is not None:
            say(
                f"no flow in {seconds:g} s; history is not kept: use --follow, or cause traffic.", stderr=True
            )
        return 0

    return asyncio.run(run())
