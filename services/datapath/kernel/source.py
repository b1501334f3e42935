"""The C text that BCC compiles: ``bpf/stentor.c`` with its own headers joined in.

BCC rewrites map accesses in the main file only and refuses them inside macros. So the headers are
inlined here, and what is written ``F(name)`` becomes ``name4`` or ``name6`` by plain substitution between
``#define FAMILY n`` and ``#undef FAMILY``; a header without ``#pragma once`` is inlined at each mention.
``#line`` directives keep the compiler's messages pointing at the real files.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

BPF_DIR = Path(__file__).resolve().parents[3] / "bpf"

_INCLUDE = re.compile(r'#include "([\w.]+)"')
_FAMILY = re.compile(r"#define FAMILY ([46])")
_FAMILY_NAME = re.compile(r"\bF\((\w+)\)")
_CONSTANT = re.compile(r"^#define (\w+) (-?\d+|0x[0-9a-f]+)\b", re.MULTILINE)


@dataclass(frozen=True)
class Sizes:
    """Capacities of the maps, in entries; each is the macro ``MAX_<NAME>`` in C."""

    identities: int = 65_536
    rows: int = 262_144
    ct: int = 262_144
    endpoints: int = 1_024
    ipcache: int = 262_144
    cidrs: int = 65_536
    frontends: int = 65_536
    backends: int = 262_144
    fragments: int = 8_192

    def macros(self) -> dict[str, str]:
        return {f"MAX_{name.upper()}": str(value) for name, value in vars(self).items()}


EVENT_PAGES = 256
"""Pages of each event ring: 1 MiB."""


class _Joiner:
    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._seen: set[str] = set()
        self._family = ""

    def join(self, name: str) -> str:
        text = (self._directory / name).read_text(encoding="utf-8")
        if "#pragma once" in text:
            if name in self._seen:
                return ""
            self._seen.add(name)
            text = text.replace("#pragma once", "")
        lines = [f'#line 1 "bpf/{name}"']
        for number, line in enumerate(text.splitlines(), start=1):
            if family := _FAMILY.match(line):
                self._family = family[1]
            elif line.startswith("#undef FAMILY"):
                self._family = ""
            if include := _INCLUDE.match(line):
                lines += [self.join(include[1]), f'#line {number + 1} "bpf/{name}"']
            elif self._family and not line.startswith("#define F("):
                lines.append(_FAMILY_NAME.sub(lambda match: match[1] + self._family, line))
            else:
                lines.append(line)
        return "\n".join(lines)


def program_text(*, pin_directory: Path, sizes: Sizes, directory: Path = BPF_DIR) -> str:
    """The whole program for one node. Deterministic: equal arguments give equal text."""
    macros: Mapping[str, str] = {
        "PIN_DIR": f'"{pin_directory}"',
        "EVENT_PAGES": str(EVENT_PAGES),
        **sizes.macros(),
    }
    defines = "".join(f"#define {name} {value}\n" for name, value in macros.items())
    return defines + _Joiner(directory).join("stentor.c") + "\n"


def layout_hash(sizes: Sizes, *, directory: Path = BPF_DIR) -> str:
    """Names the layout of all pinned maps: it changes when a structure, a code, a map or a capacity does."""
    digest = hashlib.sha256(repr(sizes).encode())
    for name in ("consts.h", "types.h", "maps.h", "family_types.h", "family_maps.h"):
        digest.update((directory / name).read_bytes())
    return digest.hexdigest()[:12]


def text_hash(text: str) -> str:
    """Names a program text."""
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def constants(name: str, *, directory: Path = BPF_DIR) -> dict[str, int]:
    """The integer ``#define`` lines of one header: the shared codes have their only home in C."""
    text = (directory / name).read_text(encoding="utf-8")
    return {match[1]: int(match[2], 0) for match in _CONSTANT.finditer(text)}


CONSTANTS = constants("consts.h")
"""The integer codes of ``bpf/consts.h`` by name."""
