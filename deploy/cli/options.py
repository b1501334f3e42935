"""Flags that several commands share, each written once."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Concatenate, ParamSpec

import typer

from deploy.cli.connection import Connection
from deploy.cli.errors import UnfitError
from deploy.cli.lab_state import DEFAULT_LAB, LAB_VARIABLE
from deploy.cli.output import Format

P = ParamSpec("P")

Output = Annotated[
    Format, typer.Option("-o", "--output", help="Print a table for people or JSON for programs.")
]

LabName = Annotated[
    str,
    typer.Option("--name", "--lab", envvar=LAB_VARIABLE, help="Name of the lab.", metavar="NAME"),
]
LAB_NAME = DEFAULT_LAB


def connected(command: Callable[Concatenate[Connection, P], int]) -> Callable[..., int]:
    """Gives a command the connection flags, and passes them to it as its first argument, a Connection."""

    @functools.wraps(command)
    def with_flags(*args: P.args, **kwargs: P.kwargs) -> int:
        given = {name: kwargs.pop(name) for name in flags}
        return command(Connection(**given), *args, **kwargs)  # type: ignore[arg-type] # Typer has checked them

    own = list(inspect.signature(command, eval_str=True).parameters.values())[1:]
    flags = inspect.signature(_flags, eval_str=True).parameters
    merged = [parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY) for parameter in (*own, *flags.values())]
    # Typer reads the flags of a command from its signature.
    with_flags.__signature__ = inspect.Signature(merged, return_annotation=int)  # type: ignore[attr-defined]
    with_flags.__annotations__ = {parameter.name: parameter.annotation for parameter in merged}
    return with_flags


def _flags(
    nats_url: Annotated[
        str | None,
        typer.Option(help="Where NATS is, such as nats://127.0.0.1:4222.", metavar="URL"),
    ] = None,
    cluster: Annotated[
        str | None,
        typer.Option(help="The cluster's name in subjects and buckets.", metavar="NAME"),
    ] = None,
    user: Annotated[str | None, typer.Option(help="NATS user.", metavar="NAME")] = None,
    password_file: Annotated[
        Path | None,
        typer.Option(help="File with the NATS user's password.", metavar="FILE"),
    ] = None,
    lab: Annotated[
        str | None,
        typer.Option(
            help=f"Take all of this from the lab NAME (also: {LAB_VARIABLE}); "
            f"the lab `{DEFAULT_LAB}` is used when it runs and nothing else is said.",
            metavar="NAME",
        ),
    ] = None,
) -> None:
    """Carrier of the connection flags."""


def namespaced(text: str, *, what: str) -> tuple[str, str]:
    """``NS/NAME``, or ``NAME`` in the namespace ``default``."""
    namespace, slash, name = text.rpartition("/")
    if not slash:
        namespace = "default"
    if not namespace or not name or "/" in namespace:
        raise UnfitError(f"{what} {text!r}: write NAMESPACE/NAME, or NAME alone for namespace default.")
    return namespace, name


def seconds(text: str) -> float:
    """A duration: ``30``, ``30s``, ``1.5m``, ``500ms``."""
    for unit, factor in (("ms", 0.001), ("s", 1.0), ("m", 60.0), ("h", 3600.0), ("", 1.0)):
        number = text.removesuffix(unit) if unit else text
        if number != text or not unit:
            try:
                value = float(number) * factor
            except ValueError:
                break
            if 0 <= value < float("inf"):
                return value
            break
    raise typer.BadParameter(f"{text!r} is no duration: write 30s, 500ms, 2m.")
