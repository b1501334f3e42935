"""Which labs run on this machine and how to reach one: read from state directories, without their daemons."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from deploy.cli.errors import UnfitError

if TYPE_CHECKING:
    from deploy.lab.state import LabRecord
    from shared.bus import BusSettings

DEFAULT_LAB = "lab"
LAB_VARIABLE = "STENTOR_LAB"
READER = "reader"
"""The NATS user of those who only look."""


def lab_runs(lab: str) -> bool:
    """Whether the lab's daemon lives, as far as this user may see."""
    from deploy.lab.client import is_running

    try:
        return is_running(lab)
    except PermissionError:
        return False


def lab_record(lab: str) -> LabRecord:
    """What was made of the lab; raises :class:`UnfitError` when there is none or it may not be read."""
    from deploy.lab.client import labs, record
    from deploy.lab.errors import LabError, LabNotFoundError

    try:
        return record(lab)
    except PermissionError as error:
        raise UnfitError(f"the labs of this machine belong to root: run this as root ({error}).") from error
    except LabNotFoundError as error:
        there = ", ".join(labs()) or "none"
        raise UnfitError(f"{error}; labs on this machine: {there}.") from error
    except LabError as error:
        raise UnfitError(f"{error}.") from error


def lab_settings(lab: str) -> BusSettings:
    """How to reach the lab's NATS as one who only looks; raises :class:`UnfitError`."""
    from deploy.lab.names import LabNames
    from deploy.nats import NatsLayout
    from shared.bus import BusSettings

    ports = lab_record(lab).ports
    if "nats" not in ports:
        raise UnfitError(
            f"lab {lab} has not started its NATS yet: wait for `stentor lab up`, or see `stentor lab status`."
        )
    return BusSettings(
        url=f"nats://127.0.0.1:{ports['nats']}",
        cluster=lab,
        user=READER,
        password_file=NatsLayout.below(LabNames(lab).nats).password_file(READER),
    )


def lab_kubeconfig(lab: str) -> Path | None:
    """The kubeconfig of the API server that the lab uses; None before it has one."""
    path = lab_record(lab).kubeconfig
    return Path(path) if path else None
