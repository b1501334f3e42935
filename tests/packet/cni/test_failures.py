"""An ADD that fails is undone, and says what it failed for."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from shared.bus import BucketStore
from shared.contract.identity import Claim
from tests.nats_server import NatsServer
from tests.packet.cni.datapath import Datapath, claim_gone, request
from tests.packet.namespaces import show
from tests.waiting import eventually


async def test_a_pod_whose_policy_does_not_come_is_undone_and_the_error_names_what_is_missing(
    namespaces: Callable[[], str], datapath: Datapath, store: BucketStore[Claim]
) -> None:
    datapath.kernel.policy_known.clear()
    pod = namespaces()
    status, reply = await datapath.add("web", pod, config={"timeoutSeconds": 0.6})
    assert (status, reply["code"]) == (503, 11)
    assert reply["msg"] == "identity of shop/web unknown: is the identity service running?"
    assert await datapath.remains() == []
    assert [link["ifname"] for link in show("link", netns=pod)] == ["lo"]
    await eventually(lambda: claim_gone(store, "web"))
    datapath.kernel.policy_known.set()
    assert (await datapath.add("web", pod))[0] == 200


async def test_any_failing_step_is_undone(namespaces: Callable[[], str], datapath: Datapath) -> None:
    datapath.kernel.failure = RuntimeError("no room in map endpoints4")
    status, reply = await datapath.add("web", namespaces())
    assert (status, reply["code"], reply["msg"]) == (500, 199, "RuntimeError: no room in map endpoints4")
    assert await datapath.remains() == []
    status, reply = await datapath.add("web", "no-such-namespace")
    assert (status, reply["code"]) == (400, 4)
    assert "no-such-namespace cannot be opened" in reply["msg"]
    assert await datapath.remains() == []


async def test_without_nats_add_fails_by_name_and_del_succeeds(
    namespaces: Callable[[], str], datapath: Datapath, nats: NatsServer, store: BucketStore[Claim]
) -> None:
    await datapath.add("old", namespaces())
    await nats.kill()
    status, reply = await datapath.add("web", namespaces(), config={"timeoutSeconds": 1.5})
    assert (status, reply["code"]) == (503, 11)
    assert "claim of shop/web to 10.7.0.3 cannot be published" in reply["msg"]
    assert await datapath.delete("old") == (200, {"cni": {}})
    assert await datapath.remains() == []
    await nats.start()
    await eventually(lambda: claim_gone(store, "old"))


async def test_a_plugin_that_goes_away_has_its_add_undone(
    namespaces: Callable[[], str], datapath: Datapath
) -> None:
    datapath.kernel.policy_known.clear()
    adding = asyncio.create_task(datapath.add("web", namespaces()))
    await datapath.kernel.waiting.wait()
    adding.cancel()
    async with asyncio.timeout(5):
        assert await datapath.delete("web") == (200, {"cni": {}})
    assert await datapath.remains() == []


@pytest.mark.parametrize(
    ("wrong", "code", "complaint"),
    [
        ({"containerID": "../x"}, 4, "`containerID`"),
        ({"ifname": "a/b"}, 4, "`ifname`"),
        ({"ifname": "sixteen-bytes-xx"}, 4, "`ifname`"),
        ({"netns": ""}, 4, "`netns`"),
        ({"args": {"K8S_POD_NAME": "web"}}, 4, "K8S_POD_NAMESPACE"),
        ({"args": []}, 6, "args"),
        ({"config": {"timeoutSeconds": -1}}, 7, "`timeoutSeconds`"),
        ({"ipam": {"ips": []}}, 7, "`ipam.ips`"),
    ],
)
async def test_malformed_requests_are_refused_by_field(
    datapath: Datapath, wrong: dict[str, Any], code: int, complaint: str
) -> None:
    status, reply = await datapath.call("add", request("web", "somewhere") | wrong)
    assert (status, reply["code"]) == (400, code)
    assert complaint in reply["msg"]
    assert await datapath.remains() == []
