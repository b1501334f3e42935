"""`stentor bench ...`: the flags and help texts; the work is in :mod:`bench`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from deploy.cli.errors import EXIT_CODES
from deploy.cli.lab import HELP
from deploy.cli.options import Output, seconds
from deploy.cli.output import Format

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from bench.report import Record
    from bench.shown import Shown

Patience = Annotated[
    float,
    typer.Option(parser=seconds, help="How long each sample waits for a quiet machine.", metavar="DURATION"),
]

bench_app = typer.Typer(
    help="Measure Stentor on this machine. Figures with their spread, in labs of its own. Needs root.",
    no_args_is_help=True,
    context_settings=HELP,
    epilog=EXIT_CODES,
)


@bench_app.command("lab", epilog=EXIT_CODES)
def lab(
    pods: Annotated[int, typer.Option(min=0, help="How many pods; 0: none.", metavar="N")] = 100,
    changes: Annotated[
        int, typer.Option(min=0, help="How many policy changes of each kind; 0: none.", metavar="N")
    ] = 100,
    demos: Annotated[int, typer.Option(min=0, help="How many runs of the demo; 0: none.", metavar="N")] = 3,
    patience: Patience = "500ms",  # type: ignore[assignment] # Typer parses defaults as it parses arguments
    output: Output = Format.TABLE,
) -> int:
    """Pod ADD and policy changes to the kernel, memory, the demo.

    Makes a lab of two nodes and removes it. Pods are made one after another by the real CNI plugin; a
    NetworkPolicy is changed by kubectl and by the API until both nodes' kernels hold it. Samples taken while
    others used the machine are left out. JSON: one object with machine, figures, processes and notes.
    """
    from bench.lab import Wanted, measure_lab

    wanted = Wanted(pods=pods, changes=changes, demos=demos, patience=patience)
    return _run(lambda record, shown: measure_lab(wanted, record, shown=shown), output=output)


@bench_app.command("path", epilog=EXIT_CODES)
def path(
    rounds: Annotated[int, typer.Option(min=1, help="How many rounds of all variants.", metavar="N")] = 7,
    sample: Annotated[
        float,
        typer.Option("--seconds", min=0.1, max=10, help="How long each sample is taken.", metavar="SECONDS"),
    ] = 0.5,
    patience: Patience = "500ms",  # type: ignore[assignment] # Typer parses defaults as it parses arguments
    output: Output = Format.TABLE,
) -> int:
    """Packets between two pods of one node, compared with plain routing.

    Requests and answers on one TCP connection and new connections, each by plain routing, without a policy,
    with one, and by a Service, in rounds of shuffled order. JSON: one object as of `bench lab`.
    """
    from bench.path import measure_path

    return _run(
        lambda record, shown: measure_path(
            record, rounds=rounds, seconds=sample, patience=patience, shown=shown
        ),
        output=output,
    )


@bench_app.command("policy", epilog=EXIT_CODES)
def policy(
    starts: Annotated[
        int, typer.Option(min=0, help="How many starts from nothing; 0: no simulated cluster.", metavar="N")
    ] = 3,
    changes: Annotated[
        int, typer.Option(min=0, help="How many policies and pods, one at a time.", metavar="N")
    ] = 100,
    rounds: Annotated[
        int, typer.Option(min=0, max=10, help="How many rounds of new connections; 0: none.", metavar="N")
    ] = 7,
    sample: Annotated[
        float,
        typer.Option("--seconds", min=0.1, max=10, help="How long each sample is taken.", metavar="SECONDS"),
    ] = 0.5,
    identities: Annotated[int, typer.Option(min=1, metavar="N", help="Of the simulated cluster.")] = 10_000,
    addresses: Annotated[int, typer.Option(min=1, metavar="N", help="Of its pods.")] = 100_000,
    policies: Annotated[int, typer.Option(min=1, metavar="N", help="That it has.")] = 5_000,
    selectors: Annotated[int, typer.Option(min=3, metavar="N", help="Distinct peers in them.")] = 500,
    patience: Patience = "500ms",  # type: ignore[assignment] # Typer parses defaults as it parses arguments
    output: Output = Format.TABLE,
) -> int:
    """Policy at scale, and what many policies cost a connection.

    A simulated cluster is told to the real policy service and one real datapath by NATS and the API server:
    how long both need from nothing, and for one change more; how many entries the kernel holds. Then new
    connections between pods that 10, 1,000 and 5,000 policies select, compared with plain routing. JSON: one
    object as of `bench lab`.
    """
    from bench.policy import Wanted, measure_policy
    from bench.scale import Scale
    from bench.simulation import Size

    try:
        size = Size(identities=identities, addresses=addresses, policies=policies, selectors=selectors)
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error
    wanted = Wanted(
        scale=Scale(size=size, starts=starts, changes=changes, patience=patience),
        rounds=rounds,
        seconds=sample,
        patience=patience,
    )
    return _run(lambda record, shown: measure_policy(wanted, record, shown=shown), output=output)


def _run(measure: Callable[[Record, Shown], Awaitable[None]], *, output: Format) -> int:
    from bench.fresh import run
    from bench.report import Record, print_report
    from bench.shown import shown
    from deploy.cli.lab_commands import lab_errors, require_root

    require_root()
    record = Record()
    with lab_errors(), shown() as progress:
        code = run(lambda: measure(record, progress))
    if code == 0:
        print_report(record.report(), output=output)
    return code
