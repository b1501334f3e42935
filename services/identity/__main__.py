"""``python -m services.identity``: one replica of the identity service."""

from __future__ import annotations

import argparse

from services.identity.service import Options, open_service
from shared.labels import add_label_arguments, label_filter
from shared.service import Runtime, add_min_interval, add_verify_every, positive_seconds, run_service


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.description = (
        "Gives every set of labels a security identity, and publishes identities, ipcache, endpoints and "
        "nodes to NATS. Reads Pods, Namespaces and Nodes of the Kubernetes API and the datapaths' claims. "
        "Any number of replicas may run."
    )
    add_label_arguments(parser)
    parser.add_argument(
        "--release-after",
        type=positive_seconds,
        default=600.0,
        metavar="SECONDS",
        help="how long an identity without pods keeps its number (default: %(default)g)",
    )
    add_min_interval(parser, default=0.02)
    add_verify_every(parser, default=300.0)


async def _main(runtime: Runtime) -> None:
    given = runtime.settings.arguments
    options = Options(
        label_filter=label_filter(given),
        release_after=given.release_after,
        min_interval=given.min_interval,
        verify=given.verify_every,
    )
    await (await open_service(runtime, options)).run()


if __name__ == "__main__":
    raise SystemExit(run_service("identity", _main, add_arguments=_add_arguments))
