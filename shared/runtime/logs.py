"""Structured logs on standard error: ``key=value`` lines or one JSON object a line.

A record may carry more fields by ``log.info(..., extra={"fields": {"node": ...}})``.
"""

from __future__ import annotations

import logging
import sys
from datetime import UTC, datetime

import msgspec


def set_up_logging(*, log_format: str, level: str, service: str) -> None:
    """Send all logging of this process to standard error in one format."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_JsonLines(service) if log_format == "json" else _KeyValueLines(service))
    logging.basicConfig(level=level.upper(), handlers=[handler], force=True)
    logging.getLogger("aiohttp.access").setLevel(logging.WARNING)


class _StructuredLines(logging.Formatter):
    def __init__(self, service: str) -> None:
        super().__init__()
        self._service = service

    def fields(self, record: logging.LogRecord) -> dict[str, object]:
        """The record in the order in which it is printed."""
        fields: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "service": self._service,
            "logger": record.name,
            "message": record.getMessage(),
        }
        fields.update(getattr(record, "fields", {}))
        if record.exc_info:
            fields["error"] = self.formatException(record.exc_info)
        return fields


class _JsonLines(_StructuredLines):
    def format(self, record: logging.LogRecord) -> str:
        return msgspec.json.encode(self.fields(record), enc_hook=str).decode()


class _KeyValueLines(_StructuredLines):
    def format(self, record: logging.LogRecord) -> str:
        fields = self.fields(record)
        # A traceback is read by people: it follows as it is.
        error = fields.pop("error", None)
        line = " ".join(f"{key}={_quoted(value)}" for key, value in fields.items())
        return f"{line}\n{error}" if error else line


def _quoted(value: object) -> str:
    text = str(value)
    plain = text and not any(character in text for character in ' "=\n')
    return text if plain else msgspec.json.encode(text).decode()
