"""The CNI plugin as a runtime meets it: a program with an environment, stdin, stdout and an exit code."""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import stat
import tempfile
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.deploy.lab.fake_datapath import Answer, Body, FakeDatapath, result, silent

PLUGIN = Path(__file__).resolve().parents[3] / "deploy" / "cni" / "stentor-cni"
VERSIONS = ["0.3.0", "0.3.1", "0.4.0", "1.0.0", "1.1.0"]


@dataclass
class Outcome:
    code: int
    output: Any

    @property
    def error(self) -> int:
        """The code of the error object, checked to be a whole one."""
        assert self.code == 1
        assert set(self.output) == {"cniVersion", "code", "msg", "details"}
        assert self.output["msg"]
        return int(self.output["code"])


@dataclass
class Runtime:
    """Runs the plugin as containerd would."""

    folder: Path
    config: dict[str, Any] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.netns = self.folder / "netns"
        self.netns.touch()
        self.socket = self.folder / "cni.sock"
        self.queue = self.folder / "cni-deleted"
        self.config = {
            "cniVersion": "1.1.0",
            "name": "stentor",
            "type": "stentor-cni",
            "socket": str(self.socket),
            "timeoutSeconds": 5,
            **self.config,
        }
        self.environment = {
            "CNI_CONTAINERID": "c0ffee",
            "CNI_NETNS": str(self.netns),
            "CNI_IFNAME": "eth0",
            "CNI_ARGS": "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-0;K8S_POD_UID=u-1",
            "CNI_PATH": str(self.folder),
            "PATH": os.environ["PATH"],
            **self.environment,
        }

    async def run(
        self,
        command: str,
        *,
        stdin: bytes | None = None,
        without: tuple[str, ...] = (),
        config: dict[str, Any] | None = None,
    ) -> Outcome:
        environment = {**self.environment, "CNI_COMMAND": command}
        for name in without:
            del environment[name]
        process = await asyncio.create_subprocess_exec(
            str(PLUGIN),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=environment,
        )
        text = json.dumps({**self.config, **(config or {})}).encode() if stdin is None else stdin
        output, _ = await process.communicate(text)
        assert process.returncode is not None
        return Outcome(code=process.returncode, output=json.loads(output) if output else None)

    def plugin(self, name: str, script: str) -> None:
        """A delegated plugin, which appends its command to the file ``calls``."""
        program = self.folder / name
        program.write_text(f'#!/bin/sh\necho "{name} $CNI_COMMAND" >> {self.folder}/calls\n{script}\n')
        program.chmod(program.stat().st_mode | stat.S_IXUSR)

    @property
    def calls(self) -> list[str]:
        file = self.folder / "calls"
        return file.read_text().splitlines() if file.exists() else []


@pytest.fixture
def folder() -> Iterator[Path]:
    # Not tmp_path: the path of a unix socket has at most 107 bytes.
    made = Path(tempfile.mkdtemp(prefix="stl-cni-"))
    yield made
    shutil.rmtree(made)


@pytest.fixture
def runtime(folder: Path) -> Runtime:
    return Runtime(folder)


@pytest.fixture
async def datapath(runtime: Runtime) -> AsyncIterator[FakeDatapath]:
    async with FakeDatapath(runtime.socket) as server:
        yield server


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


async def test_version_lists_all_supported_ones(runtime: Runtime) -> None:
    outcome = await runtime.run("VERSION", stdin=b'{"cniVersion": "1.0.0"}')
    assert outcome.code == 0
    assert outcome.output == {"cniVersion": "1.0.0", "supportedVersions": VERSIONS}


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


@pytest.mark.parametrize(
    ("command", "missing"),
    [
        ("ADD", "CNI_CONTAINERID"),
        ("ADD", "CNI_NETNS"),
        ("ADD", "CNI_IFNAME"),
        ("DEL", "CNI_CONTAINERID"),
        ("DEL", "CNI_IFNAME"),
        ("CHECK", "CNI_NETNS"),
    ],
)
async def test_missing_environment_is_code_4_and_named(
    runtime: Runtime, datapath: FakeDatapath, command: str, missing: str
) -> None:
    outcome = await runtime.run(command, without=(missing,))
    assert outcome.error == 4
    assert missing in outcome.output["msg"]
    assert datapath.requests == []


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("CNI_CONTAINERID", "../../etc/passwd"),
        ("CNI_IFNAME", "a-name-too-long-for-linux"),
        ("CNI_IFNAME", "eth/0"),
        ("CNI_IFNAME", ".."),
        ("CNI_NETNS", "/nowhere/at/all"),
        ("CNI_ARGS", "not a pair"),
        ("CNI_COMMAND", "PLEASE"),
    ],
)
async def test_unusable_environment_is_code_4(
    runtime: Runtime, datapath: FakeDatapath, name: str, value: str
) -> None:
    if name == "CNI_COMMAND":
        outcome = await runtime.run(value)
    else:
        runtime.environment[name] = value
        outcome = await runtime.run("ADD")
    assert outcome.error == 4
    assert datapath.requests == []


@pytest.mark.parametrize("stdin", [b"", b"{", b"[]", b'"text"', b"\xff\xfe"])
async def test_stdin_that_is_no_object_is_code_6(runtime: Runtime, stdin: bytes) -> None:
    assert (await runtime.run("ADD", stdin=stdin)).error == 6


@pytest.mark.parametrize(
    "config",
    [
        {"name": ""},
        {"name": "../x"},
        {"type": 7},
        {"socket": 7},
        {"timeoutSeconds": 0},
        {"timeoutSeconds": "30"},
        {"timeoutSeconds": True},
        {"ipam": "host-local"},
        {"ipam": {"type": "../host-local"}},
        {"ipam": {"type": "not-installed"}},
        {"prevResult": {}},
    ],
)
async def test_unusable_configuration_is_code_7(
    runtime: Runtime, datapath: FakeDatapath, config: dict[str, Any]
) -> None:
    assert (await runtime.run("ADD", config=config)).error == 7
    assert datapath.requests == []


@pytest.mark.parametrize(
    ("command", "version"),
    [
        ("ADD", "0.2.0"),
        ("ADD", "9.9.9"),
        ("ADD", None),
        ("CHECK", "0.3.1"),
        ("GC", "1.0.0"),
        ("STATUS", "1.0.0"),
    ],
)
async def test_version_that_cannot_serve_is_code_1(
    runtime: Runtime, datapath: FakeDatapath, command: str, version: str | None
) -> None:
    assert (await runtime.run(command, config={"cniVersion": version})).error == 1
    assert datapath.requests == []


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
