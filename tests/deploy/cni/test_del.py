"""DEL reaches the datapath now, or waits in a folder for it."""

from __future__ import annotations

import json
from pathlib import Path

from tests.deploy.cni.runtime import Runtime
from tests.deploy.lab.fake_datapath import Answer, Body, FakeDatapath, silent


async def test_del_tells_the_datapath(runtime: Runtime, datapath: FakeDatapath) -> None:
    outcome = await runtime.run("DEL", without=("CNI_NETNS",))
    assert (outcome.code, outcome.output) == (0, None)
    assert datapath.operations == ["del"]
    assert datapath.requests[0][1]["netns"] == ""
    assert not runtime.queue.exists()


async def test_del_without_datapath_succeeds_and_is_left_for_it(runtime: Runtime) -> None:
    for _ in range(2):
        assert (await runtime.run("DEL")).code == 0
    (file,) = runtime.queue.iterdir()
    left = json.loads(file.read_text())
    assert file.suffix == ".json"
    assert left["containerID"] == "c0ffee"
    assert left["ifname"] == "eth0"
    assert left["args"]["K8S_POD_NAME"] == "web-0"
    assert left["config"]["name"] == "stentor"


async def test_del_is_left_for_a_datapath_that_hangs(runtime: Runtime, datapath: FakeDatapath) -> None:
    datapath.answer = silent
    assert (await runtime.run("DEL", config={"timeoutSeconds": 0.3})).code == 0
    assert len(list(runtime.queue.iterdir())) == 1


async def test_del_refused_by_the_datapath_is_an_error(runtime: Runtime, datapath: FakeDatapath) -> None:
    async def refuse(operation: str, body: Body) -> Answer:
        return 500, {"code": 5, "msg": "cannot write the map"}

    datapath.answer = refuse
    assert (await runtime.run("DEL")).error == 5
    assert not runtime.queue.exists()


async def test_del_that_cannot_be_left_is_an_io_failure(runtime: Runtime) -> None:
    runtime.queue.write_text("in the way")
    assert (await runtime.run("DEL")).error == 5


async def test_interfaces_of_one_container_are_left_apart(runtime: Runtime) -> None:
    await runtime.run("DEL")
    runtime.environment["CNI_IFNAME"] = "net1"
    await runtime.run("DEL")
    assert len(list(runtime.queue.iterdir())) == 2


async def test_add_withdraws_the_waiting_del_of_its_container(runtime: Runtime, folder: Path) -> None:
    await runtime.run("DEL")
    other = Runtime(folder, environment={"CNI_CONTAINERID": "beef"})
    await other.run("DEL")
    async with FakeDatapath(runtime.socket):
        assert (await runtime.run("ADD")).code == 0
    (left,) = runtime.queue.iterdir()
    assert json.loads(left.read_text())["containerID"] == "beef"
