"""The version, which `pyproject.toml` alone states."""

from __future__ import annotations

import tomllib
from pathlib import Path

PROJECT = Path(__file__).resolve().parents[2] / "pyproject.toml"


def stentor_version() -> str:
    """Such as ``0.1.0``."""
    return str(tomllib.loads(PROJECT.read_text())["project"]["version"])
