"""A container runtime that runs the plugin: a program with an environment, stdin, stdout and an exit code."""

from __future__ import annotations

import asyncio
import json
import os
import stat
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

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
