"""Python's structures and codes against what the compiler makes of ``bpf/``."""

from __future__ import annotations

import ctypes
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from services.datapath.kernel import layout
from services.datapath.kernel.source import Sizes, constants, program_text
from shared.contract.drops import DropReason
from shared.contract.reserved import Reserved
from tests.packet.guardian import PINS
from tests.packet.runs import RUN

_TOKEN = re.compile(r"(\d*)([xBHIQs])")
_BYTES = {"x": 1, "B": 1, "H": 2, "I": 4, "Q": 8, "s": 1}


@pytest.fixture(scope="module")
def compiled() -> Iterator[Any]:
    """The program as BCC compiled it, with its maps pinned in a directory of this test."""
    from bcc import BPF

    directory = Path(f"/sys/fs/bpf/{PINS}{RUN}-layout")
    directory.mkdir()
    try:
        sizes = Sizes(rows=16, ct=16, ipcache=16, frontends=16, backends=16, cidrs=16, identities=16)
        text = program_text(pin_directory=directory, sizes=sizes)
        yield BPF(text=text.encode(), cflags=["-O2", "-Wall", "-Werror"])
    finally:
        for pin in directory.iterdir():
            pin.unlink()
        directory.rmdir()


def python_fields(codec: struct.Struct) -> list[tuple[int, int]]:
    """Offset and size of each value of a struct format, padding left out."""
    fields = []
    offset = 0
    for count, letter in _TOKEN.findall(codec.format):
        number = int(count or 1)
        if letter in "xs":
            if letter == "s":
                fields.append((offset, number))
            offset += number
            continue
        for _ in range(number):
            fields.append((offset, _BYTES[letter]))
            offset += _BYTES[letter]
    assert offset == codec.size
    return fields


def c_fields(structure: Any) -> list[tuple[int, int]]:
    """Offset and size of each member of a C structure, padding left out."""
    return [
        (getattr(structure, name).offset, getattr(structure, name).size)
        for name, *_ in structure._fields_
        if not name.startswith("pad")
    ]


def one(structure: Any) -> Any:
    """The structure itself where BCC gives an array with one for each CPU."""
    return getattr(structure, "_type_", structure)


@pytest.mark.parametrize(
    ("table", "part", "codec"),
    [
        ("node_config", "Leaf", layout.NODE_CONFIG),
        ("policy_rows", "Key", layout.ROW_KEY),
        ("drops", "Leaf", layout.DROP_COUNTER),
        *(
            (f"{table}{family.version}", part, codec)
            for family in (layout.IPV4, layout.IPV6)
            for table, part, codec in (
                ("ct", "Key", family.tuple_),
                ("ct", "Leaf", family.ct_entry),
                ("endpoints", "Leaf", layout.ENDPOINT),
                ("ipcache", "Leaf", layout.PEER),
                ("cidrs", "Key", family.prefix),
                ("cidrs", "Leaf", layout.PEER),
                ("frontends", "Key", family.frontend_key),
                ("frontends", "Leaf", layout.FRONTEND),
                ("backends", "Key", layout.SLOT_KEY),
                ("backends", "Leaf", family.backend),
                ("fragments", "Key", family.fragment_key),
            )
        ),
    ],
)
def test_structures_agree(compiled: Any, table: str, part: str, codec: struct.Struct) -> None:
    structure = one(getattr(compiled[table.encode()], part))
    assert ctypes.sizeof(structure) == codec.size
    assert c_fields(structure) == python_fields(codec)


def test_events_agree(compiled: Any) -> None:
    event = dict(one(compiled[b"decisions4"].Leaf)._fields_)["event"]
    assert ctypes.sizeof(event) == layout.EVENT.size
    assert c_fields(event) == python_fields(layout.EVENT)


def test_rows_agree(compiled: Any) -> None:
    block = compiled[b"policy_rows"].Leaf
    assert ctypes.sizeof(block) == layout.ROW_SIZE
    header, ranges = c_fields(block)[:-1], block.range
    assert header == python_fields(layout.ROW_HEADER)
    assert ranges.offset == layout.ROW_HEADER.size
    port_range = dict(block._fields_)["range"]._type_
    assert ctypes.sizeof(port_range) == layout.PORT_RANGE.size
    assert c_fields(port_range) == python_fields(layout.PORT_RANGE)


def test_drop_reasons_agree() -> None:
    in_c = {name.removeprefix("DROP_"): code for name, code in constants("drops.h").items()}
    assert in_c == {reason.name: int(reason) for reason in DropReason}


def test_reserved_identities_agree() -> None:
    in_c = {
        name.removeprefix("IDENTITY_"): code
        for name, code in constants("consts.h").items()
        if name.startswith("IDENTITY_")
    }
    assert in_c
    assert all(Reserved[name] == code for name, code in in_c.items())
