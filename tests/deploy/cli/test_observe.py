"""`stentor observe` on a real NATS."""

from __future__ import annotations

import asyncio
import subprocess
from collections.abc import Awaitable, Callable

import pytest

from shared.contract.base import decode
from shared.contract.flow import Flow, FlowsLost
from tests.deploy.cli.conftest import Run, Start
from tests.deploy.cli.world import TIME, World, dropped, forwarded

Observe = Callable[..., Awaitable["subprocess.CompletedProcess[str]"]]

FOREIGN = dropped(namespace="prod", pod="client")


@pytest.fixture
def observe(world: World, start: Start) -> Observe:
    """Runs `observe` while the same few flows are published all the time, so that it hears some."""

    async def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        running = start("observe", *arguments)
        while not running.done():
            for flow in (forwarded(), dropped(), FOREIGN):
                await world.flow(flow)
            await world.lose(FlowsLost(node="node-2", time=TIME, events={"flow": 5}))
            await asyncio.wait([running], timeout=0.1)
        return running.result()

    return run


def read(done: subprocess.CompletedProcess[str]) -> list[Flow]:
    assert done.returncode == 0, done.stderr
    return [decode(line.encode(), as_type=Flow) for line in done.stdout.splitlines()]


async def test_json_is_one_flow_a_line_as_on_nats(observe: Observe) -> None:
    seen = read(await observe("--for", "1s", "-o", "json"))
    assert {flow.source.pod for flow in seen} == {"frontend-a", "other", "client"}
    assert all(flow in (forwarded(), dropped(), FOREIGN) for flow in seen)


async def test_compact_names_the_policy_that_dropped(observe: Observe) -> None:
    done = await observe("--for", "1s")
    assert (
        "default/other:50000 -> default/backend-a:80  TCP ingress  DROPPED  POLICY_DENIED"
        "  policy default/allow-frontend-to-backend (no ingress rule allows it)"
    ) in done.stdout
    assert "\x1b" not in done.stdout + done.stderr


async def test_lost_flows_are_never_passed_over(observe: Observe) -> None:
    done = await observe("--for", "1s", "--verdict", "dropped")
    assert "warning: node node-2 lost events at 03:04:05.678: 5 of class flow." in done.stderr


@pytest.mark.parametrize(
    ("filters", "pods"),
    [
        (["--verdict", "dropped"], {"other", "client"}),
        (["--verdict", "dropped", "--verdict", "forwarded"], {"other", "client", "frontend-a"}),
        (["--namespace", "prod"], {"client"}),
        (["--namespace", "default"], {"other", "client", "frontend-a"}),
        (["--pod", "default/other"], {"other"}),
        (["--pod", "frontend-a"], {"frontend-a"}),
        (["--pod", "prod/client", "--pod", "default/other", "--verdict", "dropped"], {"other", "client"}),
    ],
)
async def test_filters(observe: Observe, filters: list[str], pods: set[str]) -> None:
    seen = read(await observe("--for", "1s", "-o", "json", *filters))
    assert {flow.source.pod for flow in seen} == pods


async def test_last_prints_only_so_many(observe: Observe) -> None:
    assert len(read(await observe("--for", "1s", "--last", "2", "-o", "json"))) == 2


def test_silence_is_explained(stentor: Run) -> None:
    done = stentor("observe", "--for", "200ms")
    assert (done.returncode, done.stdout) == (0, "")
    assert "no flow in 0.2 s; history is not kept" in done.stderr


async def test_a_reader_that_goes_away_ends_it_quietly(observe: Observe, world: World, start: Start) -> None:
    running = start("observe", "--follow", head=1)
    while not running.done():
        await world.flow(forwarded())
        await asyncio.wait([running], timeout=0.05)
    done = running.result()
    assert done.returncode == 141
    assert done.stderr == ""
