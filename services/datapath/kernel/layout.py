"""Python's view of the structures in ``bpf/types.h`` and ``bpf/family_types.h``.

C is the truth; ``tests/packet/test_layout.py`` compares each codec with what the compiler made, field by
field. Addresses and ports are in network order, everything else in the host's (x86-64 and arm64: little).
"""

from __future__ import annotations

import struct
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

from services.datapath.kernel.source import CONSTANTS

RANGES_PER_BLOCK = CONSTANTS["ROW_RANGES"]
BLOCKS_PER_ROW = CONSTANTS["ROW_BLOCKS"]
RULE_NONE = CONSTANTS["RULE_NONE"]
SET_OPEN = CONSTANTS["SET_OPEN"]
SET_NOT_READY = CONSTANTS["SET_NOT_READY"]
CLASS_DEFAULT = CONSTANTS["CLASS_DEFAULT"]
ENDPOINT_READY = CONSTANTS["ENDPOINT_READY"]


U32 = struct.Struct("=I")
U64 = struct.Struct("=Q")

NODE_CONFIG = struct.Struct("=I6s6x")
ROW_KEY = struct.Struct("=QQI4x")
PORT_RANGE = struct.Struct("=HHBBHHxx")
ROW_HEADER = struct.Struct("=HHB3x")
ROW_SIZE = ROW_HEADER.size + RANGES_PER_BLOCK * PORT_RANGE.size
DROP_COUNTER = struct.Struct("=QQ")
EVENT = struct.Struct("=QQQ16s16s16sIIII2s2s2sHHBBBBBBBB6x")

ENDPOINT = struct.Struct("=QQIII4x")
PEER = struct.Struct("=QI4x")
FRONTEND = struct.Struct("=QII")
SLOT_KEY = struct.Struct("=QI4x")


@dataclass(frozen=True)
class Family:
    """Structures that hold addresses, for one family."""

    version: int
    address_size: int

    @property
    def tuple_(self) -> struct.Struct:
        """``struct tuple``: source, destination, ports, protocol."""
        return struct.Struct(f"={self.address_size}s{self.address_size}s2s2sB3x")

    @property
    def ct_entry(self) -> struct.Struct:
        """``struct ct_entry`` without the translated tuple's parts: that is one field of bytes."""
        return struct.Struct(f"=IIIIBB2x{self.tuple_.size}s")

    @property
    def frontend_key(self) -> struct.Struct:
        """``struct frontend_key``."""
        return struct.Struct(f"={self.address_size}s2sBx")

    @property
    def backend(self) -> struct.Struct:
        """``struct backend``."""
        return struct.Struct(f"={self.address_size}s2sH")

    @property
    def prefix(self) -> struct.Struct:
        """``struct prefix``."""
        return struct.Struct(f"=I{self.address_size}s")

    @property
    def fragment_key(self) -> struct.Struct:
        """``struct fragment_key``."""
        return struct.Struct(f"={self.address_size}s{self.address_size}sII")


IPV4 = Family(version=4, address_size=4)
IPV6 = Family(version=6, address_size=16)
FAMILIES = {4: IPV4, 6: IPV6}
"""By IP version."""


def packed(ip: str) -> bytes:
    """An address in network order, 4 or 16 bytes."""
    return ip_address(ip).packed


def unpacked(address: bytes, *, version: int) -> str:
    """The text of an address from an event: of IPv4 the first four bytes."""
    return str(IPv4Address(address[:4]) if version == 4 else IPv6Address(address))


def port_bytes(port: int) -> bytes:
    """A port in network order."""
    return port.to_bytes(2, "big")


def prefix_key(cidr: str) -> bytes:
    """Key of the longest-prefix map."""
    network = ip_network(cidr)
    family = FAMILIES[network.version]
    return family.prefix.pack(network.prefixlen, network.network_address.packed)


def set_number(set_id: str | None) -> int:
    """A policy set's number in the kernel; None, no policy, is the open set."""
    return SET_OPEN if set_id is None else int(set_id, 16)
