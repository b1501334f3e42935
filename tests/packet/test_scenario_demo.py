"""`stentor demo`, the first thing that anybody runs: it shows what it promises, and leaves nothing."""

from __future__ import annotations

import asyncio
import json
import os
import re
import signal
from collections.abc import AsyncIterator

import pytest

from deploy.cli.matrix import Column
from deploy.lab import client
from deploy.lab.state import Phase
from tests.packet.labs import Lab, remains, stentor, stentor_under_way
from tests.packet.runs import lab_name

Table = list[tuple[str, dict[Column, str]]]
"""Whose row it is, and what it says, from above."""

WITHIN_SECONDS = 60.0
POLICY = "default/allow-frontend-to-backend"
BACKEND_80 = (Column.BACKEND_80_SAME, Column.BACKEND_80_OTHER, Column.SERVICE_80)
BACKEND_81 = (Column.BACKEND_81_SAME, Column.BACKEND_81_OTHER, Column.SERVICE_81)
"""Nothing listens on port 81 of the pods: before the policy, a reset comes back from them."""


@pytest.fixture
async def name() -> AsyncIterator[str]:
    """A name for the demo's lab."""
    made = lab_name("demo")
    try:
        yield made
    finally:
        await client.down(made)


def tables(output: str) -> list[Table]:
    """The matrices. Cells are apart by blanks, and none of a row is empty."""
    lines = output.splitlines()
    begins = [number for number, line in enumerate(lines) if line.startswith("TO ")]
    # Two lines of headings above the rows, the legend below them.
    blocks = [lines[begin + 1 : lines.index("", begin) - 1] for begin in begins]
    found = []
    for headings, *rows in ([re.split(" {2,}", line) for line in block] for block in blocks):
        assert headings == ["FROM", *(column.heading[1] for column in Column)]
        found.append([(whose, dict(zip(Column, cells, strict=True))) for whose, *cells in rows])
    return found


def outcomes(table: Table, part: str, *columns: Column) -> set[str]:
    """What the pods of one part found in some columns."""
    rows = [cells for whose, cells in table if whose.startswith(f"{part} on ")]
    assert len(rows) == (1 if part == "other" else 2), table
    return {cells[column] for cells in rows for column in columns}


async def test_demo_shows_the_policy_at_work_and_leaves_nothing(name: str) -> None:
    began = asyncio.get_running_loop().time()
    done = await stentor("demo", "--name", name)
    assert done.code == 0, done.output + done.errors
    assert asyncio.get_running_loop().time() - began < WITHIN_SECONDS
    assert remains(name) == {}

    before, after = tables(done.output)
    assert {whose for whose, _ in before[:2]} == {"frontend on node-1", "frontend on node-2"}
    for part in ("frontend", "other"):
        assert outcomes(before, part, *BACKEND_80) == {"open"}
        assert outcomes(before, part, *BACKEND_81) == {"refused"}
    for part in ("other", "backend"):
        assert outcomes(before, part, Column.FRONTEND_80) == {"open"}
        assert outcomes(after, part, Column.FRONTEND_80) == {"open"}
    assert outcomes(after, "frontend", *BACKEND_80) == {"open"}
    assert outcomes(after, "frontend", *BACKEND_81) == {"denied"}
    assert outcomes(after, "other", *BACKEND_80, *BACKEND_81) == {"denied"}

    assert f"NetworkPolicy {POLICY}" in done.output
    assert re.search(r"^in force on 2 nodes \(revision \d+\) after \d+ ms$", done.output, re.MULTILINE)
    told = [line for line in done.output.splitlines() if " TCP ingress " in line]
    for client_, port, verdict in (
        ("frontend-", 80, f"FORWARDED  policy {POLICY} (ingress rule 0 allows it)"),
        ("frontend-", 81, f"DROPPED  POLICY_DENIED  policy {POLICY} (no ingress rule allows it)"),
        ("other:", 80, f"DROPPED  POLICY_DENIED  policy {POLICY} (no ingress rule allows it)"),
    ):
        pattern = rf"default/{client_}\S* -> default/backend-\S+:{port}  TCP ingress  {re.escape(verdict)}"
        assert [line for line in told if re.search(pattern, line)], f"no line is like {pattern}"


@pytest.mark.parametrize(
    ("number", "told"),
    [
        (signal.SIGTERM, b"NATS and services\n"),
        (signal.SIGINT, b"[4] the same connections again"),
    ],
    ids=["SIGTERM while the lab is made", "Ctrl-C while it is probed"],
)
async def test_interrupted_demo_leaves_nothing(name: str, number: signal.Signals, told: bytes) -> None:
    async with stentor_under_way("demo", "--name", name) as process:
        stream = process.stdout if told.startswith(b"[") else process.stderr
        assert stream is not None
        while not (line := await stream.readline()).startswith(told):
            assert line, "it ended too soon"
        assert client.is_running(name)
        # As a terminal does it: to all of the job.
        os.killpg(process.pid, number)
        _, errors = await asyncio.wait_for(process.communicate(), 30)
        assert process.returncode == 130
        assert b"Traceback" not in errors
        assert remains(name) == {}


async def test_kept_demo_can_be_looked_at_and_no_other_takes_its_name(name: str) -> None:
    done = await stentor("demo", "--keep", "--name", name)
    assert done.code == 0, done.output + done.errors
    assert f"stentor lab down --name {name}" in done.output
    policies = json.loads((await Lab(name).cli("policy", "list", "-o", "json")).output)
    assert [(item["name"], item["realised"]) for item in policies] == [("allow-frontend-to-backend", 2)]

    before = await client.status(name)
    assert before.phase is Phase.READY
    again = await stentor("demo", "--name", name)
    assert (again.code, again.output) == (2, "")
    assert f"stentor: lab {name} is running already" in again.errors
    assert await client.status(name) == before
