"""The settings that all services share: flags, with environment variables as their defaults."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from shared.bus.settings import BusSettings


@dataclass(frozen=True, kw_only=True)
class ServiceSettings:
    """How one service process runs."""

    bus: BusSettings
    kubeconfig: str | None
    """Path of a kubeconfig; None means in-cluster credentials, else the default kubeconfig."""
    listen: tuple[str, int] | None
    """Where ``/healthz``, ``/readyz`` and ``/metrics`` are served."""
    node: str
    """The Kubernetes node of this process, empty where it does not matter."""
    log_format: str
    log_level: str
    arguments: argparse.Namespace
    """All flags, those that the service added included."""


def parse_settings(
    name: str,
    *,
    arguments: Sequence[str] | None = None,
    environment: Mapping[str, str] | None = None,
    add_arguments: Callable[[argparse.ArgumentParser], None] | None = None,
) -> ServiceSettings:
    """Read flags (of the process by default); exits with a usage message when they are wrong."""
    given = os.environ if environment is None else environment
    bus = BusSettings.from_environment(given)
    parser = argparse.ArgumentParser(prog=f"stentor-{name}")
    add = parser.add_argument
    add("--nats-url", default=bus.url, help="NATS servers, separated by commas ($STENTOR_NATS_URL)")
    add("--nats-user", default=bus.user, help="user on NATS ($STENTOR_NATS_USER)")
    add(
        "--nats-password-file",
        default=bus.password_file,
        type=Path,
        help="file with the password ($STENTOR_NATS_PASSWORD_FILE)",
    )
    add("--cluster", default=bus.cluster, help="name of the cluster on NATS ($STENTOR_CLUSTER)")
    add("--kubeconfig", default=given.get("STENTOR_KUBECONFIG") or None, help="($STENTOR_KUBECONFIG)")
    add("--node", default=given.get("STENTOR_NODE", ""), help="name of this Kubernetes node ($STENTOR_NODE)")
    add(
        "--listen",
        default=given.get("STENTOR_LISTEN", ""),
        help="host:port for /healthz, /readyz and /metrics; nothing is served without it ($STENTOR_LISTEN)",
    )
    add("--log-format", choices=("text", "json"), default=given.get("STENTOR_LOG_FORMAT", "text"))
    add(
        "--log-level",
        choices=("debug", "info", "warning", "error"),
        default=given.get("STENTOR_LOG_LEVEL", "info"),
    )
    if add_arguments is not None:
        add_arguments(parser)
    options = parser.parse_args(arguments)
    try:
        listen = _listen(options.listen)
    except ValueError as error:
        parser.error(f"--listen: {error}")
    return ServiceSettings(
        bus=BusSettings(
            url=options.nats_url,
            cluster=options.cluster,
            user=options.nats_user,
            password=bus.password,
            password_file=options.nats_password_file,
        ),
        kubeconfig=options.kubeconfig,
        listen=listen,
        node=options.node,
        log_format=options.log_format,
        log_level=options.log_level,
        arguments=options,
    )


def positive_seconds(text: str) -> float:
    """The type of a flag that is a time."""
    seconds = float(text)
    if not 0 < seconds < 1e7:
        raise argparse.ArgumentTypeError(f"{text} is not a positive number of seconds")
    return seconds


def add_min_interval(parser: argparse.ArgumentParser, *, default: float) -> None:
    """The flag that bounds how often a service publishes."""
    parser.add_argument(
        "--min-interval",
        type=positive_seconds,
        default=default,
        metavar="SECONDS",
        help="least time between the starts of two publications (default: %(default)g)",
    )


def add_verify_every(parser: argparse.ArgumentParser, *, default: float) -> None:
    """The flag that says how often a service reads its own buckets again."""
    parser.add_argument(
        "--verify-every",
        type=positive_seconds,
        default=default,
        metavar="SECONDS",
        help="how often whole buckets are compared with what was published (default: %(default)g)",
    )


def _listen(text: str) -> tuple[str, int] | None:
    if not text:
        return None
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdigit() or int(port) > 65535:
        raise ValueError(f"expected host:port, got {text!r}")
    return host.strip("[]") or "0.0.0.0", int(port)  # noqa: S104 - ":9090" means every address
