"""A small service, run as a process by the tests: ``--behaviour`` says how it goes on."""

from __future__ import annotations

import argparse
import asyncio

from shared.service import Runtime, run_service


async def _fail() -> None:
    raise ValueError("the shelf fell down")


async def main(runtime: Runtime) -> None:
    """Do as told."""
    behaviour = runtime.settings.arguments.behaviour
    if behaviour == "return":
        runtime.start("idle", asyncio.Event().wait())  # type: ignore[arg-type] # its result is of no use
        return
    if behaviour == "fail":
        runtime.start("shelf", _fail())
    runtime.health.detail["shelves"] = 3
    runtime.health.set_not_ready("shelves", "one is missing")
    await runtime.event(kind="started", object="Service test", message="hello")
    if behaviour == "ready":
        runtime.health.set_ready("shelves")
    await asyncio.Event().wait()


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--behaviour", default="ready")


if __name__ == "__main__":
    raise SystemExit(run_service("test", main, add_arguments=_add_arguments))
