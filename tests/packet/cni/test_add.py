"""What an ADD gives the runtime, and when it answers."""

from __future__ import annotations

import asyncio
import statistics
import time
from collections.abc import Callable
from contextlib import AsyncExitStack

import aiohttp
import pytest

from services.datapath.endpoints import host_ifname
from shared.bus import BucketStore
from shared.contract.identity import Claim
from tests.packet.cni.datapath import Datapath, claim_of, request
from tests.packet.namespaces import path_of
from tests.waiting import eventually


async def test_add_answers_as_cni_wants_when_everything_is_in_force(
    namespaces: Callable[[], str], datapath: Datapath, store: BucketStore[Claim]
) -> None:
    pod = namespaces()
    status, reply = await datapath.add("web", pod)
    name = host_ifname("c-web", "eth0")
    assert (status, reply) == (
        200,
        {
            "cni": {
                "cniVersion": "1.1.0",
                "interfaces": [
                    {"name": name, "mac": "0a:53:54:00:00:01", "mtu": 1400},
                    {"name": "eth0", "mac": "0e:53:0a:07:00:02", "mtu": 1400, "sandbox": path_of(pod)},
                ],
                "ips": [{"address": "10.7.0.2/32", "gateway": "169.254.1.1", "interface": 1}],
                "routes": [{"dst": "0.0.0.0/0", "gw": "169.254.1.1"}],
                "dns": {},
            }
        },
    )
    assert datapath.kernel.was_up == [False], "programs are attached before the link is up"
    assert set(datapath.kernel.endpoints) == {name}
    assert await claim_of(store, "web") == Claim(
        node="n1", namespace="shop", pod="web", uid="u1", container_id="c-web", ips=("10.7.0.2",)
    )
    assert await datapath.call("check", request("web", pod)) == (200, {"cni": {}})


async def test_the_same_add_again_gives_the_same_answer_and_keeps_a_running_pod_when_it_fails(
    namespaces: Callable[[], str], datapath: Datapath
) -> None:
    pod = namespaces()
    first = await datapath.add("web", pod)
    assert await datapath.add("web", pod) == first
    datapath.kernel.policy_known.clear()
    status, _ = await datapath.add("web", pod, config={"timeoutSeconds": 0.2})
    assert status == 503
    assert (await datapath.call("check", request("web", pod)))[0] == 200


async def test_a_pod_with_a_new_sandbox_replaces_its_former_endpoint(
    namespaces: Callable[[], str], datapath: Datapath, store: BucketStore[Claim]
) -> None:
    await datapath.add("web", namespaces(), container="old")
    status, reply = await datapath.add("web", namespaces(), container="new")
    assert status == 200
    assert reply["cni"]["ips"][0]["address"] == "10.7.0.3/32"
    assert [endpoint.container_id for endpoint in datapath.registry.all()] == ["new"]
    assert set(await datapath.netlink.pod_links()) == {host_ifname("new", "eth0")}
    assert await datapath.delete("web", container="old") == (200, {"cni": {}})
    claim = await claim_of(store, "web")
    assert claim is not None
    assert claim.ips == ("10.7.0.3",)


async def test_an_exhausted_node_says_so(namespaces: Callable[[], str], datapath: Datapath) -> None:
    datapath.ipam.set_cidrs(["10.7.0.0/30"])
    assert (await datapath.add("one", namespaces()))[0] == 200
    status, reply = await datapath.add("two", namespaces())
    assert (status, reply["code"]) == (503, 11)
    assert "all IPv4 addresses of 10.7.0.0/30 are taken" in reply["msg"]


async def test_addresses_of_another_ipam_plugin_are_used(
    namespaces: Callable[[], str], datapath: Datapath
) -> None:
    given = {"cniVersion": "1.0.0", "ips": [{"address": "172.20.3.9/16", "gateway": "172.20.0.1"}]}
    status, reply = await datapath.add("web", namespaces(), ipam=given)
    assert status == 200
    assert reply["cni"]["ips"][0]["address"] == "172.20.3.9/32"
    assert datapath.ipam.owners == {}
    assert (await datapath.delete("web"))[0] == 200
    assert await datapath.remains() == []
    status, reply = await datapath.add("web", namespaces(), ipam={"ips": [{"address": "nonsense"}]})
    assert (status, reply["code"]) == (400, 7)


async def test_pods_go_in_parallel_and_requests_for_one_container_in_turn(
    namespaces: Callable[[], str], datapath: Datapath
) -> None:
    await datapath.add("other", namespaces())
    datapath.kernel.policy_known.clear()
    names = [f"p{n}" for n in range(12)]
    adds = [asyncio.create_task(datapath.add(name, namespaces())) for name in names]
    await eventually(lambda: len(datapath.kernel.endpoints) == len(names) + 1)
    deleting = asyncio.create_task(datapath.delete("p0"))
    # A DEL that has nothing to wait for, and as much to do, is done meanwhile.
    assert await datapath.delete("other") == (200, {"cni": {}})
    assert not deleting.done(), "a DEL waits for the ADD of its container"
    datapath.kernel.policy_known.set()
    replies = await asyncio.gather(*adds)
    assert {status for status, _ in replies} == {200}
    assert len({reply["cni"]["ips"][0]["address"] for _, reply in replies}) == len(names)
    assert await deleting == (200, {"cni": {}})
    assert len(datapath.registry.all()) == len(names) - 1


async def test_an_add_costs_a_few_milliseconds(
    namespaces: Callable[[], str], datapath: Datapath, capsys: pytest.CaptureFixture[str]
) -> None:
    pods = [namespaces() for _ in range(10)]
    adds: list[float] = []
    dels: list[float] = []
    async with AsyncExitStack() as stack:
        session = await stack.enter_async_context(
            aiohttp.ClientSession(connector=aiohttp.UnixConnector(path=str(datapath.socket)))
        )
        for number, pod in enumerate(pods):
            for operation, times in (("add", adds), ("del", dels)):
                start = time.perf_counter()
                async with session.post(
                    f"http://datapath/v1/cni/{operation}", json=request(f"p{number}", pod)
                ) as response:
                    assert response.status == 200
                times.append((time.perf_counter() - start) * 1e3)
    with capsys.disabled():
        print(f"\nCNI: ADD {statistics.median(adds):.1f} ms, DEL {statistics.median(dels):.1f} ms (medians)")
    assert statistics.median(adds) < 100
