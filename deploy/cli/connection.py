"""Which NATS a command talks to, and as whom.

In this order: what the flags say; else the lab named by ``--lab`` or STENTOR_LAB; else the ``STENTOR_NATS_*``
variables; else the lab ``lab`` if it runs; else nats://127.0.0.1:4222. A connection that does not come about
within a few seconds is an :class:`UnfitError` with the reason that NATS gave.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from deploy.cli.errors import UnfitError
from deploy.cli.lab_state import DEFAULT_LAB, LAB_VARIABLE, lab_runs, lab_settings
from deploy.cli.output import progress

if TYPE_CHECKING:
    from shared.bus import Bus, BusSettings

CONNECT_SECONDS = 4.0


@dataclass(frozen=True, kw_only=True)
class Connection:
    """The connection flags as given; None means not given."""

    nats_url: str | None = None
    cluster: str | None = None
    user: str | None = None
    password_file: Path | None = None
    lab: str | None = None


@dataclass(frozen=True, kw_only=True)
class Target:
    """Where a command goes."""

    bus: BusSettings
    lab: str | None
    """The lab that the settings come from."""


def find_target(connection: Connection) -> Target:
    """Resolve the flags; raises :class:`UnfitError` for a lab that is not there."""
    import os

    from shared.bus import BusSettings

    settings = BusSettings.from_environment()
    lab: str | None = None
    if connection.nats_url is not None and connection.lab is not None:
        raise UnfitError("--nats-url and --lab name two different places: give one of them.")
    if connection.nats_url is None:
        named = connection.lab or os.environ.get(LAB_VARIABLE)
        if named is not None:
            settings, lab = lab_settings(named), named
        elif not os.environ.get("STENTOR_NATS_URL") and lab_runs(DEFAULT_LAB):
            settings, lab = lab_settings(DEFAULT_LAB), DEFAULT_LAB
    file = connection.password_file
    if file is not None and not file.is_file():
        raise UnfitError(f"--password-file {file}: there is no such file.")
    return Target(
        bus=BusSettings(
            url=connection.nats_url or settings.url,
            cluster=connection.cluster or settings.cluster,
            user=settings.user if connection.user is None else connection.user,
            password=settings.password,
            password_file=file or settings.password_file,
        ),
        lab=lab,
    )


@asynccontextmanager
async def open_bus(settings: BusSettings) -> AsyncIterator[Bus]:
    """A connection for one command; raises :class:`UnfitError` when NATS does not accept it in time.

    What the bus logs while it tries is kept off the terminal and becomes the reason in the error.
    """
    import asyncio

    from shared.bus import Bus, BusError

    reasons = _LastWarning()
    logger = logging.getLogger("shared.bus")
    logger.addHandler(reasons)
    logger.propagate = False
    try:
        try:
            async with asyncio.timeout(CONNECT_SECONDS):
                with progress(only_terminals=True) as shown:
                    shown.update(f"connecting to NATS at {settings.url}")
                    bus = await Bus.connect(settings, name="stentor cli")
        except TimeoutError:
            reason = reasons.text or f"no answer within {CONNECT_SECONDS:g} s from NATS at {settings.url}"
            raise UnfitError(
                f"{reason}; start a lab (stentor lab up) or say where NATS is (--nats-url, --user, "
                "--password-file, or --lab NAME)."
            ) from None
        try:
            yield bus
        except BusError as error:
            raise UnfitError(f"NATS at {settings.url}: {error}.") from error
        except BaseExceptionGroup as group:
            first = _first(group)
            if isinstance(first, BusError):
                raise UnfitError(f"NATS at {settings.url}: {first}.") from group
            raise first from group
        finally:
            await bus.close()
    finally:
        logger.removeHandler(reasons)
        logger.propagate = True


def _first(group: BaseExceptionGroup[BaseException]) -> BaseException:
    """The first error of a group: one command does one thing, so the others follow from it."""
    error: BaseException = group
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


class _LastWarning(logging.Handler):
    """Keeps the latest warning."""

    text = ""

    def __init__(self) -> None:
        super().__init__(logging.WARNING)

    def emit(self, record: logging.LogRecord) -> None:
        self.text = record.getMessage().strip()
