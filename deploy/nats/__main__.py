"""``python -m deploy.nats --directory DIR --cluster NAME --node N1 --node N2``: write the configuration."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from deploy.nats.configuration import write_configuration


def main() -> None:
    """Read the flags, write the files, print the path of the configuration."""
    parser = argparse.ArgumentParser(prog="python -m deploy.nats")
    parser.add_argument("--directory", type=Path, required=True)
    parser.add_argument("--cluster", default="default")
    parser.add_argument("--node", action="append", default=[], dest="nodes")
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=4222)
    given = parser.parse_args()
    layout = write_configuration(
        given.directory, cluster=given.cluster, nodes=given.nodes, host=given.host, port=given.port
    )
    sys.stdout.write(f"{layout.configuration}\n")


if __name__ == "__main__":
    main()
