"""Where NATS is and as whom to speak to it."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Self

DEFAULT_URL = "nats://127.0.0.1:4222"
DEFAULT_CLUSTER = "default"


@dataclass(frozen=True, kw_only=True)
class BusSettings:
    """Connection to NATS. ``url`` may name several servers, separated by commas."""

    url: str = DEFAULT_URL
    cluster: str = DEFAULT_CLUSTER
    user: str = ""
    password: str = ""
    password_file: Path | None = None
    """Read at each attempt to connect: a changed password needs no restart. Wins over ``password``."""
    request_seconds: float = 5.0
    """How long a put or request may take, waiting for the connection included."""
    idle_heartbeat_seconds: float = 2.0
    """A followed bucket that is silent for two and a half times this is asked for again."""

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] | None = None) -> Self:
        """From ``STENTOR_NATS_URL``, ``_USER``, ``_PASSWORD_FILE``, ``_PASSWORD`` and ``STENTOR_CLUSTER``."""
        given = os.environ if environment is None else environment
        file = given.get("STENTOR_NATS_PASSWORD_FILE")
        return cls(
            url=given.get("STENTOR_NATS_URL") or DEFAULT_URL,
            cluster=given.get("STENTOR_CLUSTER") or DEFAULT_CLUSTER,
            user=given.get("STENTOR_NATS_USER", ""),
            password=given.get("STENTOR_NATS_PASSWORD", ""),
            password_file=Path(file) if file else None,
        )

    @property
    def servers(self) -> list[str]:
        """The servers of ``url``."""
        return [server.strip() for server in self.url.split(",") if server.strip()]

    @property
    def inbox_prefix(self) -> str:
        """Where replies to this user go: its own branch, where no other user is allowed to listen."""
        return f"_INBOX.{self.user}" if self.user else "_INBOX"

    def read_password(self) -> str:
        """The password as of now; raises OSError naming the file when it cannot be read."""
        return self.password_file.read_text().strip() if self.password_file else self.password
