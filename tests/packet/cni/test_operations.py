"""DEL, CHECK, GC and STATUS, and all of them through the real plugin."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from shared.bus import BucketStore
from shared.contract.identity import Claim
from tests.packet.cni.datapath import Datapath, claim_gone, request
from tests.packet.namespaces import ip, path_of
from tests.waiting import eventually

PLUGIN = Path(__file__).parents[3] / "deploy" / "cni" / "stentor-cni"


async def test_del_leaves_nothing_and_may_be_repeated(
    namespaces: Callable[[], str], datapath: Datapath, store: BucketStore[Claim]
) -> None:
    await datapath.add("web", namespaces())
    for _ in range(2):
        assert await datapath.delete("web") == (200, {"cni": {}})
    assert await datapath.remains() == []
    await eventually(lambda: claim_gone(store, "web"))


async def test_check_tells_every_difference(namespaces: Callable[[], str], datapath: Datapath) -> None:
    pod = namespaces()
    status, reply = await datapath.call("check", request("web", pod))
    assert (status, reply["code"]) == (404, 3)
    _, added = await datapath.add("web", pod)
    ip("route", "del", "default", netns=pod)
    remembered = added["cni"] | {"ips": [{"address": "10.7.0.9/32"}]}
    status, reply = await datapath.call("check", request("web", pod) | {"config": {"prevResult": remembered}})
    assert (status, reply["code"]) == (409, 100)
    assert reply["details"] == (
        "eth0 of the pod has no default route by 169.254.1.1;"
        " the runtime remembers 10.7.0.9, the pod has 10.7.0.2"
    )


async def test_gc_deletes_what_the_runtime_does_not_know(
    namespaces: Callable[[], str], datapath: Datapath
) -> None:
    for pod in ("keep", "lost"):
        await datapath.add(pod, namespaces())
    status, reply = await datapath.call("gc", {"config": {}})
    assert (status, reply["code"]) == (400, 7)
    valid = [{"containerID": "c-keep", "ifname": "eth0"}]
    assert (await datapath.call("gc", {"config": {"cni.dev/valid-attachments": valid}}))[0] == 200
    assert [endpoint.pod for endpoint in datapath.registry.all()] == ["keep"]
    assert list(datapath.ipam.owners) == ["c-keep/eth0"]


async def test_status_says_why_no_pod_can_be_added(datapath: Datapath) -> None:
    assert await datapath.call("status", {}) == (200, {"cni": {}})
    datapath.reason = "no policy is known"
    status, reply = await datapath.call("status", {})
    assert (status, reply["code"]) == (503, 50)
    assert reply["msg"].endswith("not ready: no policy is known")


async def test_the_real_plugin_adds_checks_and_deletes(
    namespaces: Callable[[], str], datapath: Datapath
) -> None:
    pod = namespaces()
    config: dict[str, Any] = {
        "cniVersion": "1.0.0",
        "name": "stentor",
        "type": "stentor-cni",
        "socket": str(datapath.socket),
    }
    environment = {
        "CNI_CONTAINERID": "c1",
        "CNI_NETNS": path_of(pod),
        "CNI_IFNAME": "eth0",
        "CNI_ARGS": "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web",
        "CNI_PATH": "/nowhere",
    }

    async def plugin(command: str, **extra: Any) -> tuple[int, dict[str, Any]]:
        process = await asyncio.create_subprocess_exec(
            PLUGIN,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=environment | {"CNI_COMMAND": command},
        )
        output, _ = await process.communicate(json.dumps(config | extra).encode())
        assert process.returncode is not None
        return process.returncode, json.loads(output) if output.strip() else {}

    code, added = await plugin("ADD")
    assert code == 0, added
    assert added["ips"] == [{"address": "10.7.0.2/32", "gateway": "169.254.1.1", "interface": 1}]
    assert await plugin("CHECK", prevResult=added) == (0, {})
    ip("link", "set", "eth0", "down", netns=pod)
    code, failed = await plugin("CHECK", prevResult=added)
    assert (code, failed["code"]) == (1, 100)
    assert "eth0 of the pod is down" in failed["msg"]
    assert await plugin("DEL") == (0, {})
    assert await datapath.remains() == []
