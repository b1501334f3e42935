"""ADD gives the datapath what it needs, and the runtime the answer in its version."""

from __future__ import annotations

import pytest

from tests.deploy.cni.runtime import VERSIONS, Runtime
from tests.deploy.lab.fake_datapath import Answer, Body, FakeDatapath, result, silent


async def test_add_gives_the_datapath_everything_it_needs(runtime: Runtime, datapath: FakeDatapath) -> None:
    outcome = await runtime.run("ADD")
    assert outcome.code == 0
    assert outcome.output["ips"] == [{"address": "10.244.1.7/32", "gateway": "169.254.1.1", "interface": 1}]
    assert outcome.output["interfaces"][1]["sandbox"] == str(runtime.netns)
    ((operation, body),) = datapath.requests
    assert operation == "add"
    assert body["containerID"] == "c0ffee"
    assert body["netns"] == str(runtime.netns)
    assert body["ifname"] == "eth0"
    assert body["args"]["K8S_POD_NAMESPACE"] == "shop"
    assert body["args"]["K8S_POD_NAME"] == "web-0"
    assert body["args"]["K8S_POD_UID"] == "u-1"
    assert body["config"]["name"] == "stentor"
    assert body["ipam"] is None


@pytest.mark.parametrize("version", VERSIONS)
async def test_result_has_the_shape_of_the_version_asked_for(
    runtime: Runtime, datapath: FakeDatapath, version: str
) -> None:
    outcome = await runtime.run("ADD", config={"cniVersion": version})
    assert outcome.code == 0
    assert outcome.output["cniVersion"] == version
    new = version == "1.1.0"
    assert ("mtu" in outcome.output["interfaces"][0]) == new
    assert ("mtu" in outcome.output["routes"][0]) == new
    assert outcome.output["ips"][0].get("version") == ("4" if version < "1.0.0" else None)


async def test_old_versions_tell_ipv6_addresses_apart(runtime: Runtime, datapath: FakeDatapath) -> None:
    async def six(operation: str, body: Body) -> Answer:
        return 200, {"cni": result(netns=body["netns"], ip="fd00::7/128")}

    datapath.answer = six
    outcome = await runtime.run("ADD", config={"cniVersion": "0.4.0"})
    assert outcome.output["ips"][0]["version"] == "6"


async def test_add_without_datapath_is_try_again_later(runtime: Runtime) -> None:
    outcome = await runtime.run("ADD")
    assert outcome.error == 11
    assert str(runtime.socket) in outcome.output["details"]
    assert not runtime.queue.exists()


async def test_add_does_not_wait_for_ever(runtime: Runtime, datapath: FakeDatapath) -> None:
    datapath.answer = silent
    assert (await runtime.run("ADD", config={"timeoutSeconds": 0.3})).error == 11


async def test_refusal_of_the_datapath_is_passed_on(runtime: Runtime, datapath: FakeDatapath) -> None:
    async def refuse(operation: str, body: Body) -> Answer:
        return 503, {"code": 110, "msg": "no identity for shop/web-0 yet", "details": "bucket endpoints"}

    datapath.answer = refuse
    outcome = await runtime.run("ADD")
    assert outcome.error == 110
    assert outcome.output["msg"] == "no identity for shop/web-0 yet"
    assert outcome.output["details"] == "bucket endpoints"


@pytest.mark.parametrize(
    "answer",
    [
        (200, "no JSON"),
        (200, {}),
        (200, []),
        (200, {"cni": {"ips": [7]}}),
        (500, "no JSON"),
        (500, {"code": 0}),
    ],
)
async def test_nonsense_of_the_datapath_is_never_success(
    runtime: Runtime, datapath: FakeDatapath, answer: Answer
) -> None:
    async def nonsense(operation: str, body: Body) -> Answer:
        return answer

    datapath.answer = nonsense
    assert (await runtime.run("ADD")).error == 101
