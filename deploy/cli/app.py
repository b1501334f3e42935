"""The command tree, and how it ends: exit codes, and errors as one sentence.

Commands return their exit code. What they raise on purpose is a :class:`CliError`; usage errors of Typer get
the same form and exit code 2. Anything else is a defect of the program and shows its traceback.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from enum import StrEnum
from pathlib import Path
from typing import Annotated, NoReturn

import typer

from deploy.cli.bench import bench_app
from deploy.cli.connection import Connection
from deploy.cli.errors import EXIT_CODES, INTERRUPTED, CliError, UnfitError
from deploy.cli.lab import HELP, lab_app
from deploy.cli.lab_state import LAB_VARIABLE
from deploy.cli.options import Output, connected, namespaced, seconds
from deploy.cli.output import FlowFormat, Format, complain
from shared.contract.flow import Verdict

PROGRAM = "stentor"
BROKEN_PIPE = 141
"""128 + SIGPIPE, as shells report it."""


def group(text: str) -> typer.Typer:
    """A group of commands."""
    return typer.Typer(help=text, no_args_is_help=True, context_settings=HELP, epilog=EXIT_CODES)


app = typer.Typer(
    help="Identity-based network policy and service load balancing for Kubernetes, in eBPF. "
    "Begin with `stentor demo`.",
    no_args_is_help=True,
    context_settings=HELP,
    epilog=EXIT_CODES,
    pretty_exceptions_enable=False,
    # Plain help: drawing it with Rich would take longer than everything else that --help does.
    rich_markup_mode=None,
)
policy_app = group("Policies: what became of each, where it is in force.")
identity_app = group("Security identities: one for each set of labels.")
service_app = group("Services and their backends as they are load-balanced.")
endpoint_app = group("Pods as the nodes enforce policy on them.")
app.add_typer(lab_app, name="lab")
app.add_typer(bench_app, name="bench")
app.add_typer(policy_app, name="policy")
app.add_typer(identity_app, name="identity")
app.add_typer(service_app, name="service")
app.add_typer(endpoint_app, name="endpoint")


@app.command(epilog=EXIT_CODES)
def demo(
    keep: Annotated[bool, typer.Option("--keep", help="Leave the lab running to look around.")] = False,
    name: Annotated[
        str | None,
        typer.Option(
            help=f"Name of the lab to make; without it {LAB_VARIABLE}, or the first free of lab, lab2, ...",
            metavar="NAME",
        ),
    ] = None,
) -> int:
    """See a network policy take effect.

    With real pods and packets, in less than a minute: makes a lab of two nodes, runs two Deployments, shows
    who reaches whom, applies a NetworkPolicy, shows it again together with the flows that were forwarded and
    dropped, and removes everything. Needs root. The exit code is 0 only if every connection was allowed or
    denied as it must be.
    """
    from deploy.cli.demo import demo as run

    return run(name=name, keep=keep)


@app.command(epilog=EXIT_CODES)
@connected
def status(connection: Connection, output: Output = Format.TABLE) -> int:
    """Show whether everything is as it must be.

    Services and their health, each node's realised revisions next to the latest, map occupancy, and every
    problem as a sentence. Exit code 1 when there is a problem. JSON: one object with `well` and `problems`.
    """
    from deploy.cli.status import status as run

    return run(connection, output=output)


@app.command(epilog=EXIT_CODES)
@connected
def observe(
    connection: Connection,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Go on until interrupted.")] = False,
    window: Annotated[
        float,
        typer.Option(
            "--for", parser=seconds, help="How long to listen without --follow.", metavar="DURATION"
        ),
    ] = "5s",  # type: ignore[assignment] # Typer parses defaults as it parses arguments
    last: Annotated[
        int | None,
        typer.Option(min=1, help="Print only the last N flows of the time given by --for.", metavar="N"),
    ] = None,
    verdict: Annotated[list[Verdict] | None, typer.Option(help="Only this verdict; may be repeated.")] = None,
    namespace: Annotated[
        list[str] | None,
        typer.Option(
            "--namespace", "-n", help="Only from or to this namespace; may be repeated.", metavar="NS"
        ),
    ] = None,
    pod: Annotated[
        list[str] | None,
        typer.Option(help="Only from or to this pod; may be repeated.", metavar="NS/POD"),
    ] = None,
    output: Annotated[
        FlowFormat, typer.Option("--output", "-o", help="One line or one JSON object a flow.")
    ] = (FlowFormat.COMPACT),
) -> int:
    """Watch flows as they happen.

    Who talks to whom, the verdict, and the policy that decided. No history is kept, so only what happens
    while the command listens is shown. JSON is one Flow message a line, exactly as on NATS.
    """
    if follow and last is not None:
        raise UnfitError("--last chooses from a finished time span: leave out --follow.")
    wanted_pods = frozenset(namespaced(text, what="--pod") for text in pod or ())
    from deploy.cli.observe import FlowFilter
    from deploy.cli.observe import observe as run

    wanted = FlowFilter(
        verdicts=frozenset(verdict or ()), namespaces=frozenset(namespace or ()), pods=wanted_pods
    )
    return run(connection, wanted=wanted, form=output, seconds=None if follow else window, last=last)


@policy_app.command("list", epilog=EXIT_CODES)
@connected
def policy_list(connection: Connection, output: Output = Format.TABLE) -> int:
    """List all policies.

    Accepted or refused, what they select, on how many nodes they are in force. JSON: an array of objects with
    kind, namespace, name, accepted, revision, subjects, rules, realised, nodes and errors.
    """
    from deploy.cli.policies import policy_list as run

    return run(connection, output=output)


@policy_app.command("show", epilog=EXIT_CODES)
@connected
def policy_show(
    connection: Connection,
    policy: Annotated[str, typer.Argument(metavar="NS/NAME", help="The policy.")],
    output: Output = Format.TABLE,
) -> int:
    """Show one policy as it was compiled.

    Its subjects, its rules with the peers that match now, and the nodes that hold it. Exit code 1 when the
    policy is unknown or was refused. JSON: one object.
    """
    namespace, name = namespaced(policy, what="policy")
    from deploy.cli.policies import policy_show as run

    return run(connection, namespace=namespace, name=name, output=output)


@policy_app.command("trace", epilog=EXIT_CODES)
@connected
def policy_trace(
    connection: Connection,
    source: Annotated[str, typer.Option("--from", metavar="NS/POD|IP", help="Who connects.")],
    destination: Annotated[str, typer.Option("--to", metavar="NS/POD|IP", help="To whom.")],
    port: Annotated[str, typer.Option(metavar="N[/PROTOCOL]", help="To which port; TCP if not said.")],
    output: Output = Format.TABLE,
) -> int:
    """Say whether a connection is allowed, and which rules decide.

    Answers from the compiled state that the nodes are given. A connection that no rule allows is told with
    the rules that come nearest and what of them is not met. Exit code 1 when denied. JSON: one object.
    """
    from deploy.cli.trace import policy_trace as run

    return run(connection, source=source, destination=destination, port=port, output=output)


@policy_app.command("wait", epilog=EXIT_CODES)
@connected
def policy_wait(
    connection: Connection,
    policy: Annotated[str | None, typer.Argument(metavar="[NS/NAME]", help="Only this policy.")] = None,
    timeout: Annotated[
        float, typer.Option(parser=seconds, help="How long to wait.", metavar="DURATION")
    ] = "30s",  # type: ignore[assignment] # Typer parses defaults as it parses arguments
    kubeconfig: Annotated[
        Path | None,
        typer.Option(help="The API server whose NetworkPolicies must be in force; a lab's own is known."),
    ] = None,
) -> int:
    """Wait until the policies are in force on every node.

    Returns when the policy service has taken in each NetworkPolicy as the API server has it, and every node's
    kernel holds the result. Exit code 1 when the time is over (it says which node or policy is missing) or
    when a policy was refused.
    """
    only = None if policy is None else namespaced(policy, what="policy")
    from deploy.cli.policy_wait import policy_wait as run

    return run(connection, only=only, timeout=timeout, kubeconfig=kubeconfig)


@identity_app.command("list", epilog=EXIT_CODES)
@connected
def identity_list(connection: Connection, output: Output = Format.TABLE) -> int:
    """List all identities. JSON: an array of objects with id, namespace, labels and endpoints."""
    from deploy.cli.listings import identity_list as run

    return run(connection, output=output)


@service_app.command("list", epilog=EXIT_CODES)
@connected
def service_list(connection: Connection, output: Output = Format.TABLE) -> int:
    """List all Services. JSON: an array of objects with namespace, name, kind, addresses and ports."""
    from deploy.cli.listings import service_list as run

    return run(connection, output=output)


@endpoint_app.command("list", epilog=EXIT_CODES)
@connected
def endpoint_list(connection: Connection, output: Output = Format.TABLE) -> int:
    """List all endpoints.

    JSON: an array of objects with namespace, name, node, ips, identity, ready, and ingress and egress, which
    are `open` (no policy selects the pod), `policy`, or `pending` (not compiled yet).
    """
    from deploy.cli.listings import endpoint_list as run

    return run(connection, output=output)


class Shell(StrEnum):
    """Shells that completion is made for."""

    BASH = "bash"
    ZSH = "zsh"
    FISH = "fish"


@app.command(epilog=EXIT_CODES)
def completion(shell: Annotated[Shell, typer.Argument(help="The shell to complete in.")]) -> int:
    """Print the completion script of a shell. For bash: `source <(stentor completion bash)`."""
    os.environ["_STENTOR_COMPLETE"] = f"source_{shell}"
    typer.main.get_command(app).main(args=[], prog_name=PROGRAM)
    return 0


def bootstrap(name: str, arguments: Sequence[str]) -> NoReturn:
    """Become the program that sets Stentor up, which owns this command."""
    program = str(Path(__file__).resolve().parents[2] / PROGRAM)
    sys.stdout.flush()
    os.execv(program, [program, name, *arguments])


@app.command(epilog=EXIT_CODES)
def setup(
    dev: Annotated[bool, typer.Option("--dev", help="Also the tools for tests and checks.")] = False,
) -> int:
    """Install what is missing. Every command does so when it starts; this does nothing else."""
    bootstrap("setup", ["--dev"] if dev else [])


@app.command(
    "test",
    epilog="Exit codes are pytest's.",
    context_settings={"ignore_unknown_options": True, "allow_extra_args": True},
)
def run_tests(
    arguments: Annotated[list[str] | None, typer.Argument(metavar="[PYTEST-ARGUMENT...]")] = None,
) -> int:
    """Run the test suite. As root: packet tests make network namespaces."""
    bootstrap("test", arguments or [])


@app.command(epilog=EXIT_CODES)
def version() -> int:
    """Print the version of this program."""
    from deploy.cli.version import stentor_version

    sys.stdout.write(f"{PROGRAM} {stentor_version()}\n")
    return 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; returns the exit code."""
    command = typer.main.get_command(app)
    try:
        code = command.main(args=arguments, prog_name=PROGRAM, standalone_mode=False)
        sys.stdout.flush()
    except CliError as error:
        complain(str(error))
        return error.exit_code
    except typer.TyperException as error:
        return _usage(error)
    except BrokenPipeError:
        # The reader of a pipe has gone; the interpreter would complain when it flushes at the end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return BROKEN_PIPE
    except (KeyboardInterrupt, typer.Abort):
        return INTERRUPTED
    return code if isinstance(code, int) else 0


def _usage(error: typer.TyperException) -> int:
    context = getattr(error, "ctx", None)
    text = error.format_message()
    if type(error).__name__ == "NoArgsIsHelpError":
        sys.stderr.write(text + "\n")
        return UnfitError.exit_code
    where = f" (see `{context.command_path} --help`)" if context else ""
    complain(f"{text.rstrip('.')}{where}.")
    return UnfitError.exit_code
