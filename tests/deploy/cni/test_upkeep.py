"""CHECK, STATUS and GC."""

from __future__ import annotations

import json
from typing import Any

import pytest

from tests.deploy.cni.runtime import Runtime
from tests.deploy.lab.fake_datapath import FakeDatapath, result


async def test_check_passes_prev_result_to_the_datapath(runtime: Runtime, datapath: FakeDatapath) -> None:
    previous = (await runtime.run("ADD")).output
    assert (await runtime.run("CHECK", config={"prevResult": previous})).code == 0
    assert datapath.operations == ["add", "check"]
    assert datapath.requests[1][1]["config"]["prevResult"] == previous


@pytest.mark.parametrize(
    ("previous", "code"),
    [
        (None, 7),
        ("text", 7),
        ({"interfaces": "eth0"}, 7),
        ({"interfaces": [{"name": "eth0", "sandbox": "NETNS"}], "ips": "10.0.0.1"}, 7),
        ({"cniVersion": "0.1.0", "interfaces": []}, 1),
        ({"cniVersion": "1.1.0", "interfaces": [{"name": "eth0", "sandbox": "/another"}]}, 100),
        ({"cniVersion": "1.1.0", "interfaces": [{"name": "eth1", "sandbox": "NETNS"}]}, 100),
    ],
)
async def test_check_refuses_a_prev_result_that_is_not_of_this_container(
    runtime: Runtime, datapath: FakeDatapath, previous: Any, code: int
) -> None:
    text = json.dumps(previous).replace("NETNS", str(runtime.netns))
    assert (await runtime.run("CHECK", config={"prevResult": json.loads(text)})).error == code
    assert datapath.requests == []


async def test_check_without_datapath_is_try_again_later(runtime: Runtime) -> None:
    previous = result(netns=str(runtime.netns))
    assert (await runtime.run("CHECK", config={"prevResult": previous})).error == 11


async def test_status_needs_the_datapath(runtime: Runtime) -> None:
    assert (await runtime.run("STATUS", without=("CNI_CONTAINERID", "CNI_NETNS", "CNI_IFNAME"))).error == 50
    async with FakeDatapath(runtime.socket) as datapath:
        assert (await runtime.run("STATUS", without=("CNI_CONTAINERID",))).code == 0
        assert datapath.operations == ["status"]


async def test_gc_tells_the_datapath_what_is_valid(runtime: Runtime, datapath: FakeDatapath) -> None:
    valid = [{"containerID": "c0ffee", "ifname": "eth0"}]
    outcome = await runtime.run("GC", config={"cni.dev/valid-attachments": valid})
    assert outcome.code == 0
    assert datapath.requests[0][1]["config"]["cni.dev/valid-attachments"] == valid
    assert (await runtime.run("GC")).error == 7
