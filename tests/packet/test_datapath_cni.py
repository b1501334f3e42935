"""Pods come and go through the datapath's CNI socket: real links, a real NATS, the real plugin. Needs root.

The kernel's maps are replaced by memory: what matters here is the order of things, and that failures leave
nothing behind.
"""

from __future__ import annotations

import asyncio
import json
import os
import socket
import statistics
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from services.datapath.claims import Claims
from services.datapath.cni import CniServer
from services.datapath.endpoints import EndpointRegistry, LocalEndpoint, host_ifname
from services.datapath.errors import NotRealised, StateError
from services.datapath.ipam import HostLocalIpam
from services.datapath.lifecycle import PodNetwork
from services.datapath.netlink import Netlink
from shared.bus import BucketStore, BusUnavailable
from shared.contract.identity import Claim
from shared.contract.names import Bucket
from tests.packet.namespaces import inside, ip, make_node, maker, path_of, show
from tests.services.datapath.nats import NatsServer

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="network namespaces need root")

PLUGIN = Path(__file__).parents[2] / "deploy" / "cni" / "stentor-cni"

Reply = tuple[int, dict[str, Any]]


class MemoryKernel:
    """Remembers what it is told, and whether the link was up at that moment."""

    def __init__(self, node: str) -> None:
        self.endpoints: dict[str, LocalEndpoint] = {}
        self.was_up: list[bool] = []
        self.policy_known = asyncio.Event()
        self.policy_known.set()
        self.waiting = asyncio.Event()
        self.failure: Exception | None = None
        self._node = node

    async def prepare(self, endpoint: LocalEndpoint) -> None:
        (link,) = show("link", "show", endpoint.host_ifname, netns=self._node)
        self.was_up.append("UP" in link["flags"])
        if self.failure:
            raise self.failure
        self.endpoints[endpoint.host_ifname] = endpoint

    async def realised(self, endpoint: LocalEndpoint, *, deadline: float) -> None:
        self.waiting.set()
        try:
            async with asyncio.timeout_at(deadline):
                await self.policy_known.wait()
        except TimeoutError as error:
            raise NotRealised(
                f"identity of {endpoint.name} unknown: is the identity service running?"
            ) from error

    async def remove(self, endpoint: LocalEndpoint) -> None:
        self.endpoints.pop(endpoint.host_ifname, None)


class Datapath:
    """The parts of a datapath that serve CNI, and what a runtime says to them."""

    def __init__(self, state: Path, node: str, store: BucketStore[Claim]) -> None:
        self.socket = state / "run" / "cni.sock"
        self.reason = ""
        self.events: list[str] = []
        (state / "endpoints").mkdir(parents=True, exist_ok=True)
        self.kernel = MemoryKernel(node)
        self.netlink = Netlink()
        self.ipam = HostLocalIpam(state / "ipam.json")
        self.ipam.set_cidrs(["10.7.0.0/27"])
        self.registry = EndpointRegistry(state / "endpoints")
        self.claims = Claims(node="n1", store=store, reconnected=store.bus.reconnected)
        self.network = PodNetwork(
            ipam=self.ipam,
            registry=self.registry,
            netlink=self.netlink,
            kernel=self.kernel,
            claims=self.claims,
            mtu=lambda: 1400,
            report=self.report,
        )
        self.server = CniServer(
            network=self.network, path=self.socket, readiness=lambda: self.reason, report=self.report
        )

    async def report(self, *, kind: str, object: str, message: str) -> None:
        self.events.append(f"{kind} {object}: {message}")

    @asynccontextmanager
    async def running(self) -> AsyncIterator[Datapath]:
        async def both() -> None:
            async with asyncio.TaskGroup() as tasks:
                tasks.create_task(self.claims.run())
                tasks.create_task(self.server.run())

        task = asyncio.create_task(both())
        serving = asyncio.create_task(self.server.serving.wait())
        try:
            await asyncio.wait([task, serving], return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                task.result()
            yield self
        finally:
            serving.cancel()
            task.cancel()
            await asyncio.wait([task])
            await self.netlink.close()

    async def call(self, operation: str, body: dict[str, Any]) -> Reply:
        connector = aiohttp.UnixConnector(path=str(self.socket))
        async with (
            aiohttp.ClientSession(connector=connector) as session,
            session.post(f"http://datapath/v1/cni/{operation}", json=body) as response,
        ):
            return response.status, await response.json()

    async def add(self, pod: str, netns: str, *, container: str = "", **extra: Any) -> Reply:
        return await self.call("add", request(pod, netns, container=container, **extra))

    async def delete(self, pod: str, *, container: str = "") -> Reply:
        return await self.call("del", request(pod, "", container=container))

    async def remains(self) -> list[object]:
        """All that a pod leaves behind if it is not wholly gone."""
        return [
            *self.kernel.v4.endpoints,
            *self.ipam.owners,
            *self.registry.all(),
            *await self.netlink.pod_links(),
        ]


def request(
    pod: str, netns: str, *, container: str = "", timeout: float = 20, **extra: Any
) -> dict[str, Any]:
    return {
        "containerID": container or f"c-{pod}",
        "netns": path_of(netns) if netns else "",
        "ifname": "eth0",
        "args": {"K8S_POD_NAMESPACE": "shop", "K8S_POD_NAME": pod, "K8S_POD_UID": "u1"},
        "config": {"timeoutSeconds": timeout},
        "ipam": None,
    } | extra


@pytest.fixture
def namespaces() -> Iterator[Callable[[], str]]:
    with maker() as make:
        yield make


@pytest.fixture
def node(namespaces: Callable[[], str]) -> Iterator[str]:
    name = make_node(namespaces)
    with inside(name):
        yield name


@pytest.fixture
async def nats(tmp_path: Path, node: str) -> AsyncIterator[NatsServer]:
    server = NatsServer(tmp_path / "nats")
    (tmp_path / "nats").mkdir()
    await server.start()
    try:
        yield server
    finally:
        await server.kill()


@pytest.fixture
async def store(nats: NatsServer) -> AsyncIterator[BucketStore[Claim]]:
    bus = await nats.connect()
    try:
        yield await bus.bucket(Bucket.CLAIMS, as_type=Claim, create=True)
    finally:
        await bus.close()


@pytest.fixture
def make_datapath(tmp_path: Path, node: str, store: BucketStore[Claim]) -> Callable[[], Datapath]:
    return lambda: Datapath(tmp_path / "state", node, store)


@pytest.fixture
async def datapath(make_datapath: Callable[[], Datapath]) -> AsyncIterator[Datapath]:
    async with make_datapath().running() as datapath:
        yield datapath


async def claim_of(store: BucketStore[Claim], pod: str) -> Claim | None:
    entry = await store.get(f"n1.shop.{pod}")
    return entry.value if entry else None


async def claim_gone(store: BucketStore[Claim], pod: str) -> None:
    async with asyncio.timeout(10):
        while True:
            try:
                if await claim_of(store, pod) is None:
                    return
            except BusUnavailable:
                continue
            await asyncio.sleep(0.02)


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
    assert set(datapath.kernel.v4.endpoints) == {name}
    assert await claim_of(store, "web") == Claim(
        node="n1", namespace="shop", pod="web", uid="u1", container_id="c-web", ips=("10.7.0.2",)
    )
    assert await datapath.call("check", request("web", pod)) == (200, {"cni": {}})


async def test_del_leaves_nothing_and_may_be_repeated(
    namespaces: Callable[[], str], datapath: Datapath, store: BucketStore[Claim]
) -> None:
    await datapath.add("web", namespaces())
    for _ in range(2):
        assert await datapath.delete("web") == (200, {"cni": {}})
    assert await datapath.remains() == []
    await claim_gone(store, "web")


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
    await claim_gone(store, "web")
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
    await claim_gone(store, "old")


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


async def test_only_root_can_open_the_socket_and_a_second_server_is_refused(
    datapath: Datapath, make_datapath: Callable[[], Datapath]
) -> None:
    assert datapath.socket.stat().st_mode & 0o777 == 0o600
    assert datapath.socket.parent.stat().st_mode & 0o777 == 0o700
    with pytest.raises(ExceptionGroup) as caught:
        async with make_datapath().running():
            pass
    assert caught.group_contains(StateError, match="another datapath serves there")
    assert (await datapath.call("status", {}))[0] == 200


async def test_a_restart_keeps_whole_pods_and_clears_what_is_broken(
    namespaces: Callable[[], str], make_datapath: Callable[[], Datapath], node: str, store: BucketStore[Claim]
) -> None:
    pods = {name: namespaces() for name in ("whole", "linkless")}
    async with make_datapath().running() as first:
        for name, netns in pods.items():
            await first.add(name, netns)
        first.ipam.allocate("never-finished/eth0")
        path = first.socket
    ip("link", "del", host_ifname("c-linkless", "eth0"), netns=node)
    ip("link", "add", "stnffffffffff", "type", "veth", "peer", "name", "x", netns=node)
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(str(path))

    async with make_datapath().running() as second:
        assert [endpoint.pod for endpoint in second.registry.all()] == ["whole"]
        assert set(second.ipam.owners) == {"c-whole/eth0"}
        assert set(await second.netlink.pod_links()) == {host_ifname("c-whole", "eth0")}
        assert (await second.call("check", request("whole", pods["whole"])))[0] == 200
        assert [event.split()[0] for event in second.events] == ["endpoint-orphaned", "link-orphaned"]
        await claim_gone(store, "linkless")
        assert await claim_of(store, "whole") is not None


async def test_waiting_dels_are_carried_out_before_anything_is_served(
    namespaces: Callable[[], str], make_datapath: Callable[[], Datapath]
) -> None:
    async with make_datapath().running() as first:
        for pod in ("gone", "stays"):
            await first.add(pod, namespaces())
        waiting = first.socket.parent / "cni-deleted"
    waiting.mkdir()
    (waiting / "c-gone@eth0.json").write_text(json.dumps(request("gone", "")))
    (waiting / "broken@eth0.json").write_text("{")
    (waiting / ".half-written.json.17").write_text("{")
    async with make_datapath().running() as second:
        assert [endpoint.pod for endpoint in second.registry.all()] == ["stays"]
        assert sorted(path.name for path in waiting.iterdir()) == [
            ".half-written.json.17",
            "broken@eth0.json.broken",
        ]
        assert [event.split()[0] for event in second.events] == ["waiting-del-broken"]


async def test_pods_go_in_parallel_and_requests_for_one_container_in_turn(
    namespaces: Callable[[], str], datapath: Datapath
) -> None:
    datapath.kernel.policy_known.clear()
    names = [f"p{n}" for n in range(12)]
    adds = [asyncio.create_task(datapath.add(name, namespaces())) for name in names]
    async with asyncio.timeout(10):
        while True:
            if len(datapath.kernel.v4.endpoints) == len(names):
                break
            await asyncio.sleep(0.01)
    deleting = asyncio.create_task(datapath.delete("p0"))
    done, _ = await asyncio.wait([deleting], timeout=0.2)
    assert not done, "a DEL waits for the ADD of its container"
    datapath.kernel.policy_known.set()
    replies = await asyncio.gather(*adds)
    assert {status for status, _ in replies} == {200}
    assert len({reply["cni"]["ips"][0]["address"] for _, reply in replies}) == len(names)
    assert await deleting == (200, {"cni": {}})
    assert len(datapath.registry.all()) == len(names) - 1


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
