"""Addresses that another plugin gives and takes back."""

from __future__ import annotations

import json

import pytest

from tests.deploy.cni.runtime import Runtime
from tests.deploy.lab.fake_datapath import Answer, Body, FakeDatapath, result

IPAM = {"ipam": {"type": "toy-ipam", "subnet": "10.9.0.0/24"}}
TOY_IPAM = """
case "$CNI_COMMAND" in
ADD) cat > "$(dirname "$0")/ipam-stdin"
     echo '{"cniVersion": "1.1.0", "ips": [{"address": "10.9.0.5/24", "gateway": "10.9.0.1"}]}';;
esac
"""
REFUSING_IPAM = """
echo '{"cniVersion": "1.1.0", "code": 11, "msg": "pool is empty", "details": "10.9.0.0/24"}'
exit 1
"""


async def test_delegated_ipam_gives_its_result_to_the_datapath(
    runtime: Runtime, datapath: FakeDatapath
) -> None:
    runtime.plugin("toy-ipam", TOY_IPAM)
    assert (await runtime.run("ADD", config=IPAM)).code == 0
    assert datapath.requests[0][1]["ipam"]["ips"][0]["address"] == "10.9.0.5/24"
    assert json.loads((runtime.folder / "ipam-stdin").read_text())["ipam"] == IPAM["ipam"]
    assert (await runtime.run("DEL", config=IPAM)).code == 0
    assert runtime.calls == ["toy-ipam ADD", "toy-ipam DEL"]


async def test_delegated_address_is_given_back_when_add_fails(runtime: Runtime) -> None:
    runtime.plugin("toy-ipam", TOY_IPAM)
    assert (await runtime.run("ADD", config=IPAM)).error == 11
    assert runtime.calls == ["toy-ipam ADD", "toy-ipam DEL"]


async def test_datapath_lets_go_before_the_address_is_given_back(
    runtime: Runtime, datapath: FakeDatapath
) -> None:
    seen: list[list[str]] = []

    async def note(operation: str, body: Body) -> Answer:
        seen.append(list(runtime.calls))
        return 200, {}

    datapath.answer = note
    runtime.plugin("toy-ipam", TOY_IPAM)
    assert (await runtime.run("DEL", config=IPAM)).code == 0
    assert seen == [[]]
    assert runtime.calls == ["toy-ipam DEL"]


async def test_refusal_of_ipam_is_passed_on_and_the_datapath_left_alone(
    runtime: Runtime, datapath: FakeDatapath
) -> None:
    runtime.plugin("toy-ipam", REFUSING_IPAM)
    outcome = await runtime.run("ADD", config=IPAM)
    assert outcome.error == 11
    assert "pool is empty" in outcome.output["msg"]
    assert datapath.requests == []


@pytest.mark.parametrize("script", ["echo nonsense", "echo '{}'", "true", "kill -9 $$"])
async def test_ipam_that_gives_no_address_is_an_error(
    runtime: Runtime, datapath: FakeDatapath, script: str
) -> None:
    runtime.plugin("toy-ipam", script)
    assert (await runtime.run("ADD", config=IPAM)).error == 102
    assert datapath.requests == []


async def test_check_asks_ipam_too(runtime: Runtime, datapath: FakeDatapath) -> None:
    runtime.plugin("toy-ipam", REFUSING_IPAM)
    previous = result(netns=str(runtime.netns))
    assert (await runtime.run("CHECK", config={"prevResult": previous, **IPAM})).error == 11
    assert datapath.requests == []
