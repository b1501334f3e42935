"""Supervision and processes: restarts, holds, and that no reused pid is ever harmed."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest

from deploy.lab import processes
from deploy.lab.errors import ChildError
from deploy.lab.processes import ProcessId
from deploy.lab.supervisor import ChildSpec, ChildState, Supervisor
from tests.waiting import eventually


@pytest.fixture
def sleeper() -> Iterator[subprocess.Popen[bytes]]:
    process = subprocess.Popen(["sleep", "60"])
    yield process
    process.kill()
    process.wait()


@pytest.fixture
async def supervisor(tmp_path: Path) -> AsyncIterator[Supervisor]:
    async with (
        asyncio.TaskGroup() as tasks,
        Supervisor(
            tasks, logs=tmp_path / "logs", records=tmp_path / "records", env={"MARKED": "yes"}
        ) as made,
    ):
        yield made


def spec(name: str, script: str) -> ChildSpec:
    return ChildSpec(name=name, argv=(sys.executable, "-S", "-c", script))


FOREVER = "import signal; print('up', flush=True); signal.pause()"


def test_process_is_known_by_its_start_time(sleeper: subprocess.Popen[bytes]) -> None:
    process = processes.identify(sleeper.pid)
    assert process is not None
    assert processes.alive(process)
    reused = ProcessId(pid=process.pid, start_time=process.start_time - 1)
    assert not processes.alive(reused)
    processes.stop(reused, grace_seconds=0)
    processes.kill_all([reused])
    assert sleeper.poll() is None
    processes.kill_all([process])
    assert sleeper.wait(5) == -signal.SIGKILL
    assert processes.identify(sleeper.pid) is None


def test_zombie_is_no_process() -> None:
    process = subprocess.Popen(["true"])
    os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
    assert processes.identify(process.pid) is None
    process.wait()


def test_stop_wakes_a_stopped_process_and_kills_a_deaf_one() -> None:
    script = "import signal; signal.signal(15, signal.SIG_IGN); print(flush=True); signal.pause()"
    with subprocess.Popen([sys.executable, "-S", "-c", script], stdout=subprocess.PIPE) as deaf:
        assert deaf.stdout is not None
        deaf.stdout.readline()
        deaf.send_signal(signal.SIGSTOP)
        process = processes.identify(deaf.pid)
        assert process is not None
        processes.stop(process, grace_seconds=0.2)
        assert deaf.wait(5) == -signal.SIGKILL


def test_marked_processes_are_found_and_others_are_not(tmp_path: Path) -> None:
    mark = {**os.environ, "STENTOR_LAB_STATE": str(tmp_path / "one")}
    with subprocess.Popen(["sleep", "60"], env=mark) as process:
        assert [found.pid for found in processes.marked(tmp_path / "one")] == [process.pid]
        assert processes.marked(tmp_path / "on") == []
        process.kill()


def test_torn_record_is_no_record(tmp_path: Path) -> None:
    file = tmp_path / "records" / "x.json"
    assert processes.read_record(file) is None
    processes.write_record(file, ProcessId(pid=1, start_time=2))
    assert processes.read_record(file) == ProcessId(pid=1, start_time=2)
    file.write_text('{"pid": 1, "sta')
    assert processes.read_record(file) is None


async def test_child_runs_logs_and_is_recorded(supervisor: Supervisor, tmp_path: Path) -> None:
    child = supervisor.add(spec("one", FOREVER))
    log = tmp_path / "logs" / "one.log"
    await eventually(lambda: log.exists() and log.read_text() == "up\n")
    recorded = processes.read_record(tmp_path / "records" / "one.json")
    assert recorded is not None
    assert recorded.pid == child.status.pid
    assert b"MARKED=yes" in Path(f"/proc/{recorded.pid}/environ").read_bytes()
    await child.stop()
    assert not processes.alive(recorded)
    assert not (tmp_path / "records" / "one.json").exists()


async def test_killed_child_is_started_again(supervisor: Supervisor) -> None:
    child = supervisor.add(spec("one", FOREVER))
    await eventually(lambda: child.status.state is ChildState.RUNNING)
    first = child.status.pid
    child.kill(signal.SIGKILL)
    await eventually(lambda: child.status.state is ChildState.PAUSED)
    assert child.status.last_exit == -signal.SIGKILL
    await eventually(lambda: child.status.state is ChildState.RUNNING)
    assert child.status.pid != first
    assert child.status.restarts == 1


async def test_start_cuts_the_pause_short(supervisor: Supervisor) -> None:
    child = supervisor.add(spec("one", FOREVER))
    for _ in range(6):
        await eventually(lambda: child.status.state is ChildState.RUNNING)
        child.kill(signal.SIGKILL)
        await eventually(lambda: child.status.state is ChildState.PAUSED)
        child.start()
    await eventually(lambda: child.status.state is ChildState.RUNNING, seconds=2)


async def test_stopped_child_stays_stopped_until_started(supervisor: Supervisor) -> None:
    child, other = (supervisor.add(spec(name, FOREVER)) for name in ("one", "other"))
    await eventually(lambda: child.status.state is other.status.state is ChildState.RUNNING)
    await child.stop()
    assert child.status.state is ChildState.HELD
    # One that ends later by itself is started again, so this one would have been too.
    other.kill(signal.SIGKILL)
    await eventually(lambda: other.restarts == 1 and other.status.state is ChildState.RUNNING)
    assert child.status.state is ChildState.HELD
    with pytest.raises(ChildError, match="one is not running"):
        child.kill(signal.SIGKILL)
    child.start()
    await eventually(lambda: child.status.state is ChildState.RUNNING)


async def test_held_child_runs_on_but_is_not_restarted(supervisor: Supervisor) -> None:
    child = supervisor.add(spec("one", FOREVER))
    await eventually(lambda: child.status.state is ChildState.RUNNING)
    child.hold()
    assert child.status.state is ChildState.RUNNING
    assert child.status.held
    child.kill(signal.SIGKILL)
    await eventually(lambda: child.status.state is ChildState.HELD)


async def test_unknown_child_is_refused_with_those_there_are(supervisor: Supervisor) -> None:
    supervisor.add(spec("one", FOREVER))
    with pytest.raises(ChildError, match="no child 'two'; there are one"):
        supervisor.child("two")
    with pytest.raises(ChildError, match="already"):
        supervisor.add(spec("one", FOREVER))


async def test_children_end_highest_stage_first(tmp_path: Path) -> None:
    told = tmp_path / "told"
    script = (
        "import signal, sys\n"
        "def end(*_):\n"
        f"    with open({str(told)!r}, 'a') as file: file.write(sys.argv[1] + '\\n')\n"
        "    sys.exit()\n"
        "signal.signal(15, end)\nprint('up', flush=True)\nsignal.pause()\n"
    )
    logs = tmp_path / "logs"
    async with (
        asyncio.TaskGroup() as tasks,
        Supervisor(tasks, logs=logs, records=tmp_path / "records", env={}) as made,
    ):
        for stage, name in enumerate(("low", "middle", "high")):
            argv = (sys.executable, "-S", "-c", script, name)
            made.add(ChildSpec(name=name, argv=argv, stage=stage))
        await eventually(lambda: all((logs / f"{n}.log").exists() for n in ("low", "middle", "high")))
        await eventually(lambda: all((logs / f"{n}.log").read_text() for n in ("low", "middle", "high")))
    assert told.read_text().split() == ["high", "middle", "low"]


PARENT = """
import asyncio, sys
from pathlib import Path
from deploy.lab.supervisor import ChildSpec, Supervisor
async def main(folder):
    async with asyncio.TaskGroup() as tasks:
        async with Supervisor(tasks, logs=folder / "logs", records=folder / "records", env={}) as made:
            made.add(ChildSpec(name="one", argv=("sleep", "1000")))
            await asyncio.Event().wait()
asyncio.run(main(Path(sys.argv[1])))
"""


async def test_children_die_with_a_killed_daemon(tmp_path: Path) -> None:
    repository = Path(__file__).resolve().parents[3]
    parent = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PARENT, str(tmp_path), cwd=repository, env={**os.environ, "PYTHONPATH": "."}
    )
    file = tmp_path / "records" / "one.json"
    await eventually(lambda: processes.read_record(file) is not None)
    recorded = processes.read_record(file)
    assert recorded is not None
    # Until it is sleep, the death signal may not be set yet.
    await eventually(lambda: Path(f"/proc/{recorded.pid}/comm").read_text() == "sleep\n")
    parent.kill()
    await parent.wait()
    await eventually(lambda: not processes.alive(recorded))
