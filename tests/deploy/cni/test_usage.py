"""What the plugin cannot serve as it is asked: refused by the right code, with the datapath left alone."""

from __future__ import annotations

from typing import Any

import pytest

from tests.deploy.cni.runtime import VERSIONS, Runtime
from tests.deploy.lab.fake_datapath import FakeDatapath


async def test_version_lists_all_supported_ones(runtime: Runtime) -> None:
    outcome = await runtime.run("VERSION", stdin=b'{"cniVersion": "1.0.0"}')
    assert outcome.code == 0
    assert outcome.output == {"cniVersion": "1.0.0", "supportedVersions": VERSIONS}


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
