"""`stentor policy wait`: when it returns, and what it says when it does not."""

from __future__ import annotations

import asyncio
import json
import re
import subprocess
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from shared.contract.names import Bucket
from shared.contract.policy import PolicyRef
from tests.deploy.cli.conftest import Run, Start, environment
from tests.deploy.cli.world import POLICY, World, refused, status_of

Waits = Callable[..., Awaitable["subprocess.CompletedProcess[str]"]]


class Api:
    """An API server that has NetworkPolicies and nothing else."""

    def __init__(self) -> None:
        self.policies: dict[tuple[str, str], str] = {(POLICY.namespace, POLICY.name): "7"}
        self.asked = 0
        self.kubeconfig = Path()

    async def list(self, request: web.Request) -> web.Response:
        self.asked += 1
        items = [
            {"metadata": {"namespace": namespace, "name": name, "resourceVersion": version}}
            for (namespace, name), version in self.policies.items()
        ]
        return web.json_response({"kind": "NetworkPolicyList", "items": items})


@pytest.fixture
async def api(tmp_path: Path) -> AsyncIterator[Api]:
    made = Api()
    application = web.Application()
    application.add_routes([web.get("/apis/networking.k8s.io/v1/networkpolicies", made.list)])
    runner = web.AppRunner(application)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    port = runner.addresses[0][1]
    made.kubeconfig = tmp_path / "kubeconfig"
    configuration: dict[str, Any] = {
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "test",
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        "clusters": [{"name": "test", "cluster": {"server": f"http://127.0.0.1:{port}"}}],
        "users": [{"name": "test", "user": {"token": "secret"}}],
    }
    made.kubeconfig.write_text(json.dumps(configuration))
    yield made
    await runner.cleanup()


@pytest.fixture
def waits(nats_url: str, cluster: str) -> Waits:
    """Runs `policy wait`, makes the change once it has said what it waits for, and returns its end."""

    async def run(change: Callable[[], Awaitable[None]], *arguments: str) -> subprocess.CompletedProcess[str]:
        flags = ("--nats-url", nats_url, "--cluster", cluster)
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "deploy.cli", "policy", "wait", *arguments, *flags),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
            env=environment(),
        )
        assert process.stderr is not None
        async with asyncio.timeout(40):
            first = await process.stderr.readline()
            await change()
            out, err = await process.communicate()
        assert process.returncode is not None
        return subprocess.CompletedProcess(
            arguments, process.returncode, out.decode(), (first + err).decode()
        )

    return run


async def test_returns_at_once_when_all_is_in_force(world: World, start: Start, api: Api) -> None:
    done = await start("policy", "wait", "--kubeconfig", str(api.kubeconfig))
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "revision 4 with 1 policy is in force on 2 nodes\n"


async def test_says_when_nothing_was_compared_with_an_api_server(world: World, start: Start) -> None:
    done = await start("policy", "wait")
    assert done.returncode == 0
    assert "not compared with an API server" in done.stdout


async def test_waits_for_every_node(world: World, waits: Waits) -> None:
    await world.realise("node-2", policy_revision=world.policy_revision - 1)
    done = await waits(lambda: world.realise("node-2"))
    assert done.returncode == 0
    assert done.stderr == "waiting for node node-2 to realise revision 4 (it has 3)\n"


async def test_names_the_node_that_is_late(world: World, start: Start) -> None:
    await world.realise("node-1", policy_revision=1)
    done = await start("policy", "wait", "--timeout", "500ms")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        "stentor: not in force after 0.5 s, still waiting for node node-1 to realise revision 4 (it has 1); "
        "`stentor status` shows what is wrong.\n"
    )


async def test_names_a_node_that_never_reported(world: World, start: Start) -> None:
    await world.put(Bucket.REALISED, [("node-2", None)])
    done = await start("policy", "wait", "--timeout", "0.5")
    assert done.returncode == 1
    assert "waiting for node node-2 to report" in done.stderr


async def test_a_revision_of_a_bucket_that_is_gone_counts_for_nothing(world: World, start: Start) -> None:
    await world.realise("node-2", policy_revision=1000)
    done = await start("policy", "wait", "--timeout", "0.5")
    assert done.returncode == 1
    assert "node node-2 to leave revision 1000 of a bucket that is gone" in done.stderr


async def test_a_node_that_is_not_to_enforce_is_not_waited_for(world: World, start: Start) -> None:
    await world.put(Bucket.NODES, [("node-2", None)])
    await world.realise("node-2", policy_revision=0, enforcing=False)
    assert (await start("policy", "wait")).returncode == 0


async def test_waits_until_the_policy_service_has_taken_in_the_change(
    world: World, waits: Waits, api: Api
) -> None:
    api.policies[POLICY.namespace, POLICY.name] = "8"

    async def take_in() -> None:
        await world.publish_policy()
        for node in ("node-1", "node-2"):
            await world.realise(node)
        await world.put_status(status_of(version="8", revision=world.policy_revision))

    done = await waits(take_in, "--kubeconfig", str(api.kubeconfig))
    assert done.returncode == 0
    assert (
        "waiting for the policy service to take in policy default/allow-frontend-to-backend version 8 "
        "(it has version 7)\n"
    ) in done.stderr


async def test_names_the_policy_that_was_not_taken_in(world: World, start: Start, api: Api) -> None:
    api.policies["prod", "new"] = "12"
    done = await start("policy", "wait", "--timeout", "0.5", "--kubeconfig", str(api.kubeconfig))
    assert done.returncode == 1
    assert "the policy service to take in policy prod/new version 12 (it has none)" in done.stderr


async def test_waits_for_the_withdrawal_of_a_deleted_policy(world: World, waits: Waits, api: Api) -> None:
    api.policies.clear()
    done = await waits(lambda: world.put_status(None), "--kubeconfig", str(api.kubeconfig))
    assert done.returncode == 0
    assert "to withdraw policy default/allow-frontend-to-backend, which was deleted" in done.stderr


async def test_one_policy_does_not_wait_for_others(world: World, start: Start, api: Api) -> None:
    api.policies["prod", "new"] = "12"
    arguments = ("policy", "wait", "allow-frontend-to-backend", "--kubeconfig", str(api.kubeconfig))
    assert (await start(*arguments)).returncode == 0


async def test_one_policy_that_does_not_exist(world: World, start: Start, api: Api) -> None:
    arguments = ("policy", "wait", "prod/none", "--timeout", "0.5", "--kubeconfig", str(api.kubeconfig))
    done = await start(*arguments)
    assert done.returncode == 1
    assert "policy prod/none, which the API server does not have" in done.stderr


async def test_refused_policy_fails_with_its_errors(world: World, start: Start) -> None:
    await world.put_status(refused(PolicyRef(kind="NetworkPolicy", namespace="prod", name="bad")))
    done = await start("policy", "wait")
    assert done.returncode == 1
    assert done.stderr == (
        "stentor: policy prod/bad is refused: spec.ingress[0].ports[0].port: is 70000 (use 1 to 65535).\n"
    )


def test_empty_cluster_is_not_in_force(stentor: Run) -> None:
    done = stentor("policy", "wait", "--timeout", "0.5")
    assert done.returncode == 1
    assert re.search(r"waiting for bucket [a-z-]+ to exist and be read", done.stderr)


def test_api_server_that_is_away(stentor: Run, tmp_path: Path) -> None:
    done = stentor("policy", "wait", "--kubeconfig", str(tmp_path / "missing"))
    assert done.returncode == 2
    assert done.stderr == f"stentor: kubeconfig {tmp_path / 'missing'}: no such file.\n"
