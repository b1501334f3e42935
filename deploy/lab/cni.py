"""The runtime's side of CNI: runs plugin programs as a container runtime does (CNI specification, section 4).

A plugin runs in the node's network namespace with the configuration of its list on standard input. One
container is never given two operations at once; that is the caller's duty.
"""

from __future__ import annotations

import asyncio
import logging
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from deploy.lab.errors import CniPluginError
from deploy.lab.names import namespace_path
from deploy.lab.supervisor import bound_to_parent

log = logging.getLogger(__name__)

PLUGIN_FOLDER = Path(__file__).resolve().parent.parent / "cni"

TRY_AGAIN_LATER = 11
"""CNI specification, "Error"."""
NO_RESULT = 100
"""Ours, for a plugin that ended without an error object."""


class NetworkList(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """A network configuration list (``*.conflist``)."""

    cni_version: str
    name: str
    plugins: tuple[dict[str, Any], ...]


@dataclass(frozen=True, kw_only=True)
class Attachment:
    """What CNI knows of a pod: one container's one interface."""

    container_id: str
    namespace: str
    """Name of the network namespace."""
    ifname: str
    arguments: dict[str, str]

    @property
    def pod(self) -> str:
        """``namespace/name``, for logs."""
        return f"{self.arguments.get('K8S_POD_NAMESPACE', '')}/{self.arguments.get('K8S_POD_NAME', '')}"


def stentor_list(*, socket: Path, timeout_seconds: float = 30) -> NetworkList:
    """The list that makes ``stentor-cni`` the pods' only plugin."""
    return NetworkList(
        cni_version="1.1.0",
        name="stentor",
        plugins=({"type": "stentor-cni", "socket": str(socket), "timeoutSeconds": timeout_seconds},),
    )


class CniRuntime:
    """Runs the plugins of one list on one node.

    Each operation raises CniPluginError with the plugin's code.
    """

    def __init__(
        self, configuration: Path, *, node_namespace: str, folders: tuple[Path, ...] = (PLUGIN_FOLDER,)
    ) -> None:
        self._list = msgspec.json.decode(configuration.read_bytes(), type=NetworkList)
        self._node_namespace = node_namespace
        self._folders = folders

    async def add(self, attachment: Attachment) -> dict[str, Any]:
        """ADD through the list; the last plugin's result."""
        result: dict[str, Any] | None = None
        for plugin in self._list.plugins:
            result = await self._run("ADD", plugin, attachment=attachment, previous=result)
        if result is None:
            raise CniPluginError(command="ADD", code=NO_RESULT, message="the plugin gave no result")
        return result

    async def check(self, attachment: Attachment, *, result: dict[str, Any]) -> None:
        """CHECK against the result of ADD."""
        for plugin in self._list.plugins:
            await self._run("CHECK", plugin, attachment=attachment, previous=result)

    async def delete(self, attachment: Attachment, *, result: dict[str, Any] | None) -> None:
        """DEL, in reverse order; succeeds when there is nothing to delete."""
        for plugin in reversed(self._list.plugins):
            await self._run("DEL", plugin, attachment=attachment, previous=result)

    async def _run(
        self,
        command: str,
        plugin: dict[str, Any],
        *,
        attachment: Attachment,
        previous: dict[str, Any] | None,
    ) -> dict[str, Any] | None:
        config = {**plugin, "cniVersion": self._list.cni_version, "name": self._list.name}
        if previous is not None:
            config["prevResult"] = previous
        path = namespace_path(attachment.namespace)
        program = str(self._program(command, plugin["type"]))
        began = time.perf_counter()
        process = await asyncio.create_subprocess_exec(
            *bound_to_parent((program,), namespace=self._node_namespace),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env={
                "CNI_COMMAND": command,
                "CNI_CONTAINERID": attachment.container_id,
                # The specification allows DEL without a namespace, for one that is gone.
                "CNI_NETNS": str(path) if command != "DEL" or path.exists() else "",
                "CNI_IFNAME": attachment.ifname,
                "CNI_ARGS": ";".join(f"{key}={value}" for key, value in attachment.arguments.items()),
                "CNI_PATH": ":".join(str(folder) for folder in self._folders),
                "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            },
        )
        output, errors = await process.communicate(msgspec.json.encode(config))
        took = (time.perf_counter() - began) * 1000
        log.info(
            "CNI %s of %s ended with %s after %.2f ms", command, attachment.pod, process.returncode, took
        )
        try:
            answer = msgspec.json.decode(output, type=dict[str, Any]) if output.strip() else None
        except msgspec.DecodeError as error:
            raise CniPluginError(
                command=command, code=NO_RESULT, message="the plugin wrote no JSON object", details=str(error)
            ) from error
        if process.returncode != 0:
            given = answer or {}
            raise CniPluginError(
                command=command,
                code=int(given.get("code") or NO_RESULT),
                message=str(given.get("msg") or f"the plugin ended with {process.returncode}"),
                details=str(given.get("details") or errors.decode(errors="replace").strip()[-500:]),
            )
        return answer

    def _program(self, command: str, kind: str) -> Path:
        for folder in self._folders:
            if (folder / kind).is_file():
                return folder / kind
        searched = ", ".join(str(folder) for folder in self._folders)
        raise CniPluginError(command=command, code=NO_RESULT, message=f"no plugin {kind} in {searched}")
