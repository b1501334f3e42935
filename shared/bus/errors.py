"""What can go wrong on the bus.

::

    BusError
    ├── BusUnavailable      no answer from NATS in time; the caller tries again later
    ├── BucketMissing       the bucket's owner has not created it yet
    ├── NotPermitted        these credentials may not use the subject
    ├── BadKey              a key that NATS cannot hold
    ├── TooLarge            a message beyond the server's ``max_payload``
    ├── KeyExists           ``create`` of a key that has a value
    ├── RevisionConflict    ``update`` of a key that was changed by another writer
    └── JetStreamError      any other refusal by the server, with its text
    ContractError
    └── EntryError          the value of one key cannot be read; reported in ``Batch.errors``, never raised
"""

from __future__ import annotations

from shared.contract.base import ContractError


class BusError(Exception):
    """Base of all errors of the bus."""


class BusUnavailable(BusError):
    """NATS could not be reached or did not answer in time. State is level-triggered: put it again later."""


class BucketMissing(BusError):
    """The bucket does not exist. The service that owns it creates it when it starts."""


class NotPermitted(BusError):
    """NATS refused a subject for this user: check the permissions in the nats-server configuration."""


class BadKey(BusError):
    """A key may hold letters, digits and ``- / _ = .``, and no empty token."""


class TooLarge(BusError):
    """The message is larger than the server takes: raise ``max_payload``, or make it smaller."""


class KeyExists(BusError):
    """The key to be created has a value already."""


class RevisionConflict(BusError):
    """The key was changed since the given revision: read it again and decide anew."""


class JetStreamError(BusError):
    """The server refused a request; ``code`` is JetStream's ``err_code``."""

    def __init__(self, text: str, *, code: int = 0) -> None:
        super().__init__(text)
        self.code = code


class EntryError(ContractError):
    """The value of ``key`` at ``revision`` cannot be read: keep the last good one."""

    def __init__(self, text: str, *, key: str, revision: int) -> None:
        super().__init__(f"{key}: {text}")
        self.key = key
        self.revision = revision
