"""The files that are written."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from contextlib import aclosing
from pathlib import Path

from deploy.nats import datapath_user, user_names, write_configuration
from shared.bus import Bus
from shared.contract.identity import NodeRecord
from shared.contract.names import Bucket
from tests.nats_server import NatsServer
from tests.waiting import PATIENCE_SECONDS, free_port


def test_everything_written_is_private(tmp_path: Path) -> None:
    layout = write_configuration(tmp_path / "nats", cluster="c", nodes=["a", "b"])
    files = [layout.configuration, *(layout.password_file(user) for user in user_names(["a", "b"]))]
    assert {file.stat().st_mode & 0o777 for file in files} == {0o600}
    assert {each.stat().st_mode & 0o777 for each in (tmp_path / "nats", layout.store, layout.passwords)} == {
        0o700
    }
    passwords = [file.read_text() for file in files[1:]]
    assert len(set(passwords)) == len(passwords)


def test_writing_again_with_another_node_keeps_the_passwords(tmp_path: Path) -> None:
    first = write_configuration(tmp_path, cluster="c", nodes=["a"])
    password = first.password_file(datapath_user("a")).read_text()
    second = write_configuration(tmp_path, cluster="c", nodes=["a", "b"])
    assert second.password_file(datapath_user("a")).read_text() == password
    assert '"datapath-b"' in second.configuration.read_text()


def test_the_server_accepts_it_without_nodes_and_with_many(tmp_path: Path) -> None:
    for count in (0, 1, 250):
        layout = write_configuration(
            tmp_path / str(count), cluster="c", nodes=[f"node-{number}.example" for number in range(count)]
        )
        checked = subprocess.run(
            ["nats-server", "-t", "-c", layout.configuration], capture_output=True, text=True, check=False
        )
        assert checked.returncode == 0, checked.stderr


async def test_a_node_added_by_reloading_gets_in_and_the_others_stay(tmp_path: Path) -> None:
    port = free_port()
    layout = write_configuration(tmp_path, cluster="test", nodes=["a"], port=port)
    server = NatsServer(tmp_path, configuration=layout.configuration, port=port)
    await server.start()
    buses: list[Bus] = []

    async def connect(user: str) -> Bus:
        buses.append(await server.connect(user=user, password_file=layout.password_file(user)))
        return buses[-1]

    try:
        identity, first = await connect("identity"), await connect(datapath_user("a"))
        nodes = await identity.bucket(Bucket.NODES, as_type=NodeRecord, create=True)
        await nodes.put("a", NodeRecord(name="a"))
        async with aclosing((await first.bucket(Bucket.NODES, as_type=NodeRecord)).follow()) as seen:
            await anext(seen)
            write_configuration(tmp_path, cluster="test", nodes=["a", "b"], port=port)
            server.reload()
            second = await asyncio.wait_for(connect(datapath_user("b")), PATIENCE_SECONDS)
            server.reload()
            async with aclosing((await second.bucket(Bucket.NODES, as_type=NodeRecord)).follow()) as added:
                assert len((await asyncio.wait_for(anext(added), PATIENCE_SECONDS)).entries) == 1
                await nodes.put("b", NodeRecord(name="b"))
                for each in (seen, added):
                    batch = await asyncio.wait_for(anext(each), PATIENCE_SECONDS)
                    assert [(entry.key, entry.revision) for entry in batch.entries] == [("b", 2)]
    finally:
        for bus in buses:
            await bus.close()
        await server.kill()


def test_the_command_prints_the_path(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "deploy.nats",
        "--directory",
        str(tmp_path),
        "--node",
        "a",
        "--port",
        "4333",
    ]
    printed = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert printed.strip() == str(tmp_path / "nats-server.conf")
    assert "127.0.0.1:4333" in (tmp_path / "nats-server.conf").read_text()
