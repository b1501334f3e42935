"""Writing the nats-server configuration of a cluster, and its users' passwords.

The configuration holds all passwords: it is written with mode 0600, as is each user's own password file.
Writing again keeps the passwords that are there, so nodes can be added and the server reloaded by SIGHUP:
twice, because nats-server 2.9 sets up a new account's imports at the reload after the one that added it.

nats-server 2.9 syncs its store to disk about every two minutes and cannot be told to do so more often. After
a power failure the last writes may be missing; readers notice (see :mod:`shared.bus.follow`) and owners
publish again what they find missing.
"""

from __future__ import annotations

import json
import os
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from deploy.nats.permissions import API, CONTROL, Account, User, accounts, user_names
from shared.bus.session import IMPORTED_API

MAX_PAYLOAD_BYTES = 8 * 1024 * 1024
"""A policy set with thousands of peer classes is larger than the default of 1 MiB."""


@dataclass(frozen=True, kw_only=True)
class NatsLayout:
    """Where the files of a cluster's NATS are."""

    configuration: Path
    store: Path
    passwords: Path

    @classmethod
    def below(cls, directory: Path) -> NatsLayout:
        """Everything below one directory."""
        return cls(
            configuration=directory / "nats-server.conf",
            store=directory / "jetstream",
            passwords=directory / "passwords",
        )

    def password_file(self, user: str) -> Path:
        """The file with a user's password, for ``STENTOR_NATS_PASSWORD_FILE``."""
        return self.passwords / user


def write_configuration(
    directory: Path, *, cluster: str, nodes: Sequence[str], host: str = "127.0.0.1", port: int = 4222
) -> NatsLayout:
    """Write the configuration and one password file for each user below ``directory`` (mode 0700)."""
    layout = NatsLayout.below(directory)
    for each in (directory, layout.store, layout.passwords):
        each.mkdir(mode=0o700, parents=True, exist_ok=True)
    passwords: dict[str, str] = {}
    for user in user_names(nodes):
        file = layout.password_file(user)
        if not file.exists():
            _write_private(file, secrets.token_urlsafe(24) + "\n")
        passwords[user] = file.read_text().strip()
    text = server_configuration(
        cluster=cluster, nodes=nodes, passwords=passwords, store=layout.store, host=host, port=port
    )
    _write_private(layout.configuration, text)
    return layout


def server_configuration(
    *,
    cluster: str,
    nodes: Sequence[str],
    passwords: Mapping[str, str],
    store: Path,
    host: str = "127.0.0.1",
    port: int = 4222,
) -> str:
    """The text of the configuration; ``passwords`` has one for each of :func:`user_names`."""
    return "\n".join(
        (
            f"listen: {json.dumps(f'{host}:{port}')}",
            f"server_name: {json.dumps(f'stentor-{cluster}')}",
            f"max_payload: {MAX_PAYLOAD_BYTES}",
            'ping_interval: "20s"',
            'write_deadline: "10s"',
            f"jetstream {{ store_dir: {json.dumps(str(store))} }}",
            "accounts {",
            *(
                line
                for account in accounts(cluster=cluster, nodes=nodes)
                for line in _account(account, passwords)
            ),
            "}",
            "",
        )
    )


def _account(account: Account, passwords: Mapping[str, str]) -> Iterable[str]:
    yield f"  {json.dumps(account.name)} {{"
    if account.jetstream:
        yield "    jetstream: enabled"
    yield from _users(account.users, passwords)
    yield "    exports: ["
    for subject in account.answers:
        yield f"      {{ service: {json.dumps(subject)} }}"
    for subject in account.tells:
        yield f"      {{ stream: {json.dumps(subject)} }}"
    yield "    ]"
    yield "    imports: ["
    for subject in account.asks:
        # The account's own $JS.API answers that it has no JetStream, so CONTROL's needs another name there.
        local = IMPORTED_API + subject.removeprefix(API) if subject.startswith(API) else subject
        service = f"service: {{ account: {CONTROL}, subject: {json.dumps(subject)} }}"
        yield f"      {{ {service}, to: {json.dumps(local)} }}"
    for other, subject in account.hears:
        yield f"      {{ stream: {{ account: {json.dumps(other)}, subject: {json.dumps(subject)} }} }}"
    yield "    ]"
    yield "  }"


def _users(users: Iterable[User], passwords: Mapping[str, str]) -> Iterable[str]:
    yield "    users: ["
    for user in users:
        yield f"      {{ user: {json.dumps(user.name)}, password: {json.dumps(passwords[user.name])}"
        yield "        permissions: {"
        yield f"          publish: {{ allow: {json.dumps([user.inbox, *user.publish])} }}"
        yield f"          subscribe: {{ allow: {json.dumps([user.inbox, *user.subscribe])} }}"
        yield "        }"
        yield "      }"
    yield "    ]"


def _write_private(file: Path, text: str) -> None:
    """Replace a file at once, readable by its owner alone."""
    fresh = file.with_name(f".{file.name}.new")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w") as out:
        out.write(text)
    fresh.replace(file)
