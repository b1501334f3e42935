"""The base of all messages, and the only place where they are encoded and decoded.

Fails with :class:`ContractError`, which names the message type and the JSON path of the field; a caller
must keep the last good state when that happens.
"""

from __future__ import annotations

from datetime import UTC, datetime
from enum import StrEnum
from typing import ClassVar, NewType, TypeVar, cast

import msgspec

Identity = NewType("Identity", int)
"""A 24-bit security identity; below 256 reserved."""

SetId = NewType("SetId", str)
"""Content hash of a policy set: 16 lower-case hexadecimal digits (64 bits)."""

ClassId = NewType("ClassId", str)
"""Content hash of a peer class: 16 lower-case hexadecimal digits (64 bits)."""


class ContractError(ValueError):
    """A message cannot be read: wrong type, missing field, or written by a newer version."""


class Message(msgspec.Struct, frozen=True, kw_only=True):
    """A message on NATS. ``v`` is the version of its meaning; additions alone do not raise it."""

    VERSION: ClassVar[int] = 1
    v: int = 1


class Direction(StrEnum):
    """Of a packet, as seen by the pod."""

    INGRESS = "ingress"
    EGRESS = "egress"


class Protocol(StrEnum):
    """Transport protocols that policies and Services name (Kubernetes ``core/v1.Protocol``), and ICMP."""

    TCP = "TCP"
    UDP = "UDP"
    SCTP = "SCTP"
    ICMP = "ICMP"
    ICMPV6 = "ICMPv6"

    @property
    def number(self) -> int:
        """The IANA protocol number."""
        return _PROTOCOL_NUMBERS[self]

    @classmethod
    def from_number(cls, number: int) -> Protocol | None:
        """The protocol of an IANA number, None for one that has no name here."""
        return _PROTOCOLS_BY_NUMBER.get(number)


_PROTOCOL_NUMBERS = {
    Protocol.TCP: 6,
    Protocol.UDP: 17,
    Protocol.SCTP: 132,
    Protocol.ICMP: 1,
    Protocol.ICMPV6: 58,
}
_PROTOCOLS_BY_NUMBER = {number: protocol for protocol, number in _PROTOCOL_NUMBERS.items()}

M = TypeVar("M", bound=Message)

_encoder = msgspec.json.Encoder()
_decoders: dict[type[Message], msgspec.json.Decoder[Message]] = {}


def timestamp() -> str:
    """Now, as messages give times: RFC 3339, UTC."""
    return datetime.now(UTC).isoformat().replace("+00:00", "Z")


def encode(message: Message) -> bytes:
    """The message as UTF-8 JSON."""
    return _encoder.encode(message)


def decode(data: bytes, *, as_type: type[M]) -> M:
    """The message in ``data``; raises :class:`ContractError` naming type and field."""
    decoder = _decoders.get(as_type)
    if decoder is None:
        decoder = _decoders[as_type] = msgspec.json.Decoder(as_type)
    try:
        message = decoder.decode(data)
    except msgspec.DecodeError as error:
        raise ContractError(f"{as_type.__name__}: {error}") from error
    if message.v > as_type.VERSION:
        raise ContractError(
            f"{as_type.__name__}: version {message.v} is newer than {as_type.VERSION}; upgrade the reader"
        )
    return cast("M", message)
