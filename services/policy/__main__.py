"""``python -m services.policy``: one replica of the policy service."""

from __future__ import annotations

import argparse

from services.policy.retirement import Patience
from services.policy.service import Options, open_service
from shared.labels import add_label_arguments, label_filter
from shared.service import Runtime, add_min_interval, add_verify_every, positive_seconds, run_service


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Compiles NetworkPolicies of the Kubernetes API, for the identities on NATS, into policy sets and "
        "peer classes, and publishes them. Any number of replicas may run."
    )
    add_label_arguments(parser)
    parser.add_argument(
        "--grace",
        type=positive_seconds,
        default=60.0,
        metavar="SECONDS",
        help="how long a node that does not answer holds up cleaning (default: %(default)g)",
    )
    add_min_interval(parser, default=0.02)
    add_verify_every(parser, default=60.0)


async def _main(runtime: Runtime) -> None:
    given = runtime.settings.arguments
    options = Options(
        min_interval=given.min_interval,
        verify=given.verify_every,
        patience=Patience(grace=given.grace),
        selectable=label_filter(given),
    )
    await (await open_service(runtime, options)).run()


if __name__ == "__main__":
    raise SystemExit(run_service("policy", _main, add_arguments=_add_arguments))
