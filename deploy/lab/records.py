"""What is kept on disk of each pod, for a kubelet that starts again and for ``exec``.

A record is replaced whole, so a reader sees the old one or the new one.
"""

from __future__ import annotations

import logging
from ipaddress import ip_interface
from pathlib import Path
from typing import Any

import msgspec

log = logging.getLogger(__name__)


class PodRecord(msgspec.Struct, frozen=True, kw_only=True):
    """What there is of a pod."""

    uid: str
    namespace: str
    name: str
    node: str
    network_namespace: str
    cgroup: str
    container_id: str = ""
    """Empty for a pod with ``hostNetwork``."""
    attempt: int = 0
    result: dict[str, Any] | None = None
    """Of ADD; None until it succeeded."""
    started_at: str = ""

    @property
    def ips(self) -> tuple[str, ...]:
        """The addresses that ADD gave."""
        given = (self.result or {}).get("ips") or []
        return tuple(str(ip_interface(entry["address"]).ip) for entry in given)


def write_record(file: Path, record: PodRecord) -> None:
    """Writes or replaces a record."""
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    temporary = file.with_suffix(".new")
    temporary.write_bytes(msgspec.json.encode(record))
    temporary.rename(file)


def read_records(folder: Path) -> list[PodRecord]:
    """The records of a node's pods; a broken one is told and left out."""
    found = []
    for file in sorted(folder.glob("*.json")):
        try:
            found.append(msgspec.json.decode(file.read_bytes(), type=PodRecord))
        except FileNotFoundError:
            continue  # removed with its pod in between
        except msgspec.DecodeError as error:
            log.error("pod record %s cannot be read: %s", file, error)
    return found
