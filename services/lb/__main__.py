"""``python -m services.lb``: one replica of the lb service."""

from __future__ import annotations

import argparse

from services.lb.service import Options, open_service
from shared.service import Runtime, add_min_interval, add_verify_every, run_service


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Publishes every Kubernetes Service with its backends to NATS. Reads Services and EndpointSlices of "
        "the Kubernetes API. Any number of replicas may run."
    )
    add_min_interval(parser, default=0.05)
    add_verify_every(parser, default=60.0)


async def _main(runtime: Runtime) -> None:
    given = runtime.settings.arguments
    options = Options(min_interval=given.min_interval, verify=given.verify_every)
    await (await open_service(runtime, options)).run()


if __name__ == "__main__":
    raise SystemExit(run_service("lb", _main, add_arguments=_add_arguments))
