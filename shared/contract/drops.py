"""Why a packet was dropped. The numbers are Hubble's ``flow.DropReason``; ``bpf/drops.h`` has the same."""

from __future__ import annotations

from enum import IntEnum


class DropReason(IntEnum):
    """A drop reason; ``text`` is its name in flows."""

    INVALID_SOURCE_IP = 132
    POLICY_DENIED = 133
    INVALID_PACKET = 134
    CT_INVALID_HEADER = 135
    UNSUPPORTED_L3_PROTOCOL = 139
    MISSED_TAIL_CALL = 140
    WRITE_ERROR = 141
    CT_MAP_INSERTION_FAILED = 155
    INVALID_EXTENSION_HEADER = 156
    SERVICE_BACKEND_NOT_FOUND = 158
    POLICY_NOT_READY = 165
    UNSUPPORTED_L2_PROTOCOL = 166
    INVALID_IDENTITY = 171
    FRAGMENT_NOT_FOUND = 175
    PROXY_REDIRECTION_NOT_SUPPORTED = 180
    POLICY_DENY = 181
    ENDPOINT_NOT_READY = 203

    @property
    def text(self) -> str:
        """The name in flows and metrics, such as ``POLICY_DENIED``."""
        return self.name
