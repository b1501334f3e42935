"""What the commands say of a policy whose last edit is refused while an earlier version stays in force."""

from __future__ import annotations

import asyncio
import json

import msgspec
import pytest

from shared.contract.policy import InForce, PolicyStatus
from tests.deploy.cli.conftest import Start
from tests.deploy.cli.world import POLICY, World, refused

ERROR = "spec.ingress[0].ports[0].port: is 70000"


@pytest.fixture
async def status(world: World) -> PolicyStatus:
    made = msgspec.structs.replace(
        refused(POLICY),
        in_force=InForce(resource_version="7", spec={}),
        revision=world.policy_revision,
        subjects=1,
        rules=1,
    )
    await world.put_status(made)
    return made


async def run(start: Start, *command: str) -> tuple[int, str]:
    async with asyncio.timeout(60):
        done = await start(*command)
    return done.returncode, done.stdout + done.stderr


async def test_list_show_and_wait_name_the_version_that_stays(
    world: World, status: PolicyStatus, start: Start
) -> None:
    name = f"{POLICY.namespace}/{POLICY.name}"
    _, text = await run(start, "policy", "list")
    assert f"refused, 7 in force   1          1       {status.revision}          2 of 2" in text
    (item,) = json.loads((await run(start, "policy", "list", "-o", "json"))[1])
    assert (item["accepted"], item["in_force"], item["realised"]) == (False, "7", 2)
    code, text = await run(start, "policy", "show", name)
    assert code == 1
    assert f"version 7 stays in force from revision {status.revision}, realised on 2 of 2 nodes" in text
    assert f"refused: {ERROR}" in text
    code, text = await run(start, "policy", "wait")
    assert code == 1
    assert text.endswith("; version 7 stays in force.\n")


async def test_status_does_too(world: World, status: PolicyStatus, start: Start) -> None:
    await world.answer_health()
    report = json.loads((await run(start, "status", "-o", "json"))[1])
    problem = f"policy {POLICY.namespace}/{POLICY.name} is refused: {ERROR}; version 7 stays in force"
    assert report["problems"] == [problem]
