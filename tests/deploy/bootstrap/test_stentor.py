"""`./stentor` as a person meets it: from anywhere, with or without rights."""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[3]
NOBODY = 65534


@pytest.fixture
def fresh_tree() -> Iterator[Path]:
    """A copy of what the set-up consists of, without an environment, readable to everybody."""
    with tempfile.TemporaryDirectory(prefix="stentor-test-") as directory:
        tree = Path(directory)
        tree.chmod(0o755)
        for name in ("stentor", "requirements.lock", "requirements-dev.lock"):
            shutil.copy(REPOSITORY / name, tree)
        (tree / "deploy").mkdir()
        shutil.copy(REPOSITORY / "deploy/__init__.py", tree / "deploy")
        shutil.copytree(REPOSITORY / "deploy/bootstrap", tree / "deploy/bootstrap")
        yield tree


def stentor(
    program: Path, *arguments: str, directory: Path, user: int | None = None
) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [program, *arguments],
        cwd=directory,
        user=user,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )


def test_without_root_the_first_run_says_what_to_do_and_does_nothing(fresh_tree: Path) -> None:
    user = NOBODY if os.geteuid() == 0 else None
    for arguments in (["observe"], ["test"], ["setup"], []):
        answer = stentor(fresh_tree / "stentor", *arguments, directory=fresh_tree, user=user)
        assert answer.returncode == 2
        assert answer.stdout == ""
        assert answer.stderr.count("\n") == 1
        assert "run it once as root" in answer.stderr
    assert not (fresh_tree / ".venv").exists()


def test_help_needs_neither_root_nor_set_up(fresh_tree: Path) -> None:
    answer = stentor(fresh_tree / "stentor", "--help", directory=fresh_tree)
    assert (answer.returncode, answer.stderr) == (0, "")
    assert "sudo ./stentor demo" in answer.stdout
    assert not (fresh_tree / ".venv").exists()


def test_starts_through_a_link_in_a_directory_full_of_traps(fresh_tree: Path, tmp_path: Path) -> None:
    for trap in ("os.py", "fcntl.py", "hashlib.py", "deploy.py"):
        (tmp_path / trap).write_text("raise SystemExit('imported from the working directory')\n")
    link = tmp_path / "st"
    link.symlink_to(fresh_tree / "stentor")

    answer = stentor(link, "setup", "--help", directory=tmp_path)

    assert answer.returncode == 0, answer.stderr
    assert answer.stdout.startswith("usage: stentor setup")


def test_an_unknown_option_of_setup_is_refused(fresh_tree: Path) -> None:
    answer = stentor(fresh_tree / "stentor", "setup", "--everything", directory=fresh_tree)
    assert answer.returncode == 2
    assert answer.stderr.startswith("usage: stentor setup")


def test_starts_with_standard_input_closed(fresh_tree: Path) -> None:
    answer = subprocess.run(
        ["sh", "-c", 'exec "$0" setup --help <&-', fresh_tree / "stentor"],
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert answer.returncode == 0, answer.stderr
