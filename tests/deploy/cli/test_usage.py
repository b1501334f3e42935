"""How the program answers wrong usage, a missing environment, terminals and pipes."""

from __future__ import annotations

import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from deploy.cli.app import main
from tests.deploy.cli.conftest import Run, environment
from tests.deploy.cli.world import World

Here = Callable[[Sequence[str]], tuple[int, str, str]]

COMMANDS: list[tuple[str, ...]] = [
    (),
    ("demo",),
    ("status",),
    ("observe",),
    ("version",),
    ("policy",),
    ("policy", "list"),
    ("policy", "show"),
    ("policy", "wait"),
    ("identity", "list"),
    ("service", "list"),
    ("endpoint", "list"),
    ("lab",),
    *(
        ("lab", command)
        for command in ("up", "down", "status", "pods", "exec", "apply", "delete", "kubeconfig", "logs")
    ),
    *(("lab", "service", command) for command in ("stop", "start", "kill")),
]


@pytest.fixture
def here(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Here:
    """Runs the program in this process: exit code, standard output, standard error."""
    for name in [name for name in os.environ if name.startswith("STENTOR_")]:
        monkeypatch.delenv(name)

    def run(arguments: Sequence[str]) -> tuple[int, str, str]:
        code = main(arguments)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_help_tells_the_exit_codes(here: Here, command: tuple[str, ...]) -> None:
    code, out, err = here([*command, "--help"])
    assert (code, err) == (0, "")
    assert "xit code" in out
    assert "\x1b" not in out


def test_help_imports_nothing_slow() -> None:
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "deploy.cli", "--help"],
        capture_output=True,
        text=True,
        check=True,
        env=environment(),
    )
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert "deploy.cli.app" in imported
    assert not imported & {"asyncio", "nats", "aiohttp", "kubernetes_asyncio", "pyroute2", "yaml"}


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["frob"], "stentor: No such command 'frob'"),
        (["status", "--frob"], "stentor: No such option"),
        (["status", "-o", "xml"], "stentor: Invalid value for '-o' / '--output'"),
        (["observe", "--for", "soon"], "'soon' is no duration: write 30s, 500ms, 2m"),
        (["observe", "--for", "-1s"], "'-1s' is no duration"),
        (["observe", "--last", "0"], "stentor: Invalid value for '--last'"),
        (["observe", "--follow", "--last", "3"], "stentor: --last chooses from a finished time span"),
        (["observe", "--pod", "a/b/c"], "stentor: --pod 'a/b/c': write NAMESPACE/NAME"),
        (["policy", "show", "/x"], "stentor: policy '/x': write NAMESPACE/NAME"),
        (["policy", "show"], "stentor: Missing argument 'NS/NAME'"),
        (["status", "--nats-url", "nats://127.0.0.1:1", "--lab", "x"], "name two different places"),
        (
            ["status", "--password-file", "/nonexistent"],
            "--password-file /nonexistent: there is no such file",
        ),
        (["status", "--lab", "NOT-A-NAME"], "stentor: lab name 'NOT-A-NAME': use 1 to 15"),
        (["lab", "pods", "--name", "nosuchlab"], "stentor: lab nosuchlab is not running"),
        (["lab", "exec", "x", "--name", "nosuchlab", "--", "true"], "there is no lab nosuchlab"),
        (["lab", "kubeconfig", "--name", "nosuchlab"], "there is no lab nosuchlab"),
        (["lab", "logs", "policy", "--name", "nosuchlab"], "there is no lab nosuchlab"),
        (["lab", "service", "stop", "policy", "--name", "nosuchlab"], "lab nosuchlab is not running"),
        (["lab", "up", "--nodes", "0"], "stentor: Invalid value for '--nodes'"),
    ],
)
def test_wrong_usage_is_one_sentence_and_exit_code_2(
    here: Here, arguments: list[str], complaint: str
) -> None:
    code, out, err = here(arguments)
    assert (code, out) == (2, "")
    assert complaint in err
    assert len(err.splitlines()) == 1
    assert err.startswith("stentor: ")


def test_group_without_command_shows_its_help(stentor: Run) -> None:
    done = stentor("policy", connect=False)
    assert done.returncode == 2
    assert "wait" in done.stdout + done.stderr


@pytest.mark.parametrize("command", [("status",), ("observe",), ("policy", "wait"), ("identity", "list")])
def test_nats_that_is_away(stentor: Run, command: tuple[str, ...]) -> None:
    done = stentor(*command, "--nats-url", "nats://127.0.0.1:9", connect=False)
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("stentor: cannot connect to NATS at nats://127.0.0.1:9: ")
    assert "--nats-url" in done.stderr
    assert "Traceback" not in done.stderr


def test_settings_come_from_the_environment(stentor: Run, nats_url: str) -> None:
    done = stentor("identity", "list", "-o", "json", connect=False, STENTOR_NATS_URL=nats_url)
    assert (done.returncode, done.stdout) == (0, "[]\n")


def test_version(stentor: Run) -> None:
    assert re.fullmatch(r"stentor \d+\.\d+\.\d+\n", stentor("version", connect=False).stdout)


def test_completion_offers_commands(stentor: Run) -> None:
    done = stentor(
        connect=False,
        _STENTOR_COMPLETE="complete_bash",
        COMP_WORDS="stentor pol",
        COMP_CWORD="1",
        _TYPER_COMPLETE_ARGS="stentor pol",
    )
    assert "policy" in done.stdout.split()


def test_completion_script(stentor: Run) -> None:
    assert "_STENTOR_COMPLETE" in stentor("--show-completion", "bash", connect=False).stdout


def on_terminal(*arguments: str, **variables: str) -> str:
    """What the program writes to a terminal."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "deploy.cli", *arguments],
        stdin=theirs,
        stdout=theirs,
        stderr=theirs,
        env=environment(TERM="xterm-256color", **variables),
    ) as process:
        os.close(theirs)
        written = b""
        try:
            while chunk := os.read(ours, 4096):
                written += chunk
        except OSError:  # the terminal hangs up when its last user ends
            pass
        process.wait()
    os.close(ours)
    return written.decode()


async def test_colours_are_for_terminals(world: World, nats_url: str) -> None:
    flags = ("--nats-url", nats_url, "--cluster", world.bus.cluster)
    assert "\x1b[32myes" in on_terminal("endpoint", "list", *flags)
    plain = on_terminal("endpoint", "list", *flags, NO_COLOR="1")
    assert "yes" in plain
    assert "\x1b[3" not in plain
    assert "\x1b" not in on_terminal("endpoint", "list", "-o", "json", *flags)


async def test_long_lines_are_never_cut(world: World, stentor: Run) -> None:
    done = stentor("identity", "list", COLUMNS="20")
    assert max(len(line) for line in done.stdout.splitlines()) > 80


def test_the_repository_need_not_be_the_working_directory(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "deploy.cli", "version"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env=environment(),
    )
    assert done.returncode == 0
