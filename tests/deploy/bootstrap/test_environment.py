"""The virtual environment: complete with working programs, or as it was. Real venv, real pip, no network."""

import base64
import hashlib
import io
import subprocess
import zipfile
from pathlib import Path

import pytest

from deploy.bootstrap import environment, stamps
from deploy.bootstrap.errors import StepFailedError
from deploy.bootstrap.layout import Layout
from deploy.bootstrap.progress import Progress

METADATA = {
    "greeter.py": "def main():\n    print('hello')\n",
    "greeter-1.0.dist-info/METADATA": "Metadata-Version: 2.1\nName: greeter\nVersion: 1.0\n",
    "greeter-1.0.dist-info/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    "greeter-1.0.dist-info/entry_points.txt": "[console_scripts]\ngreet = greeter:main\n",
}


def write_wheel(directory: Path) -> str:
    """A package with one program; returns the hash of its wheel."""
    wheel = directory / "greeter-1.0-py3-none-any.whl"
    record = "greeter-1.0.dist-info/RECORD"
    rows = [f"{record},,"]
    with zipfile.ZipFile(wheel, "w") as archive:
        for name, text in METADATA.items():
            archive.writestr(name, text)
            digest = base64.urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
            rows.append(f"{name},sha256={digest},{len(text)}")
        archive.writestr(record, "\n".join(rows))
    return hashlib.sha256(wheel.read_bytes()).hexdigest()


@pytest.fixture
def wheel_hash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """pip sees one package index: a directory with one wheel."""
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    return write_wheel(tmp_path)


def build(layout: Layout, *, hashed: str) -> None:
    layout.runtime_lock.write_text(f"greeter==1.0 \\\n    --hash=sha256:{hashed}\n")
    environment.build(layout, locks=[layout.runtime_lock], progress=Progress(steps=1, stream=io.StringIO()))


def greet(layout: Layout) -> str:
    return subprocess.run([layout.venv / "bin/greet"], capture_output=True, text=True, check=True).stdout


def test_programs_run_from_where_the_environment_ends_up(layout: Layout, wheel_hash: str) -> None:
    build(layout, hashed=wheel_hash)

    assert greet(layout) == "hello\n"
    assert stamps.is_current(layout, layout.runtime_lock)
    assert {path.name for path in layout.tree.iterdir()} == {".venv", "requirements.lock"}


def test_a_wrong_hash_leaves_the_old_environment_in_use(layout: Layout, wheel_hash: str) -> None:
    build(layout, hashed=wheel_hash)

    with pytest.raises(StepFailedError, match="installing the Python packages failed") as failure:
        build(layout, hashed="0" * 64)

    assert any("HASH" in line for line in failure.value.tail)
    assert greet(layout) == "hello\n"
    assert not stamps.is_current(layout, layout.runtime_lock), "the next start tries again"
    assert {path.name for path in layout.tree.iterdir()} == {".venv", "requirements.lock"}


def test_another_lock_system_or_processor_needs_another_environment(layout: Layout) -> None:
    layout.venv.mkdir()
    layout.runtime_lock.write_text("greeter==1.0\n")
    assert not stamps.is_current(layout, layout.runtime_lock)
    stamps.write(layout, layout.runtime_lock, venv=layout.venv)
    assert stamps.is_current(layout, layout.runtime_lock)

    assert not stamps.is_current(layout._replace(system="ubuntu-24.04"), layout.runtime_lock)
    assert not stamps.is_current(layout._replace(machine="riscv64"), layout.runtime_lock)
    layout.runtime_lock.write_text("greeter==1.1\n")
    assert not stamps.is_current(layout, layout.runtime_lock)
