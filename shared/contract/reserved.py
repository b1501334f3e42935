"""Identities with a fixed number, numbered as Cilium's so that Hubble's tools understand them."""

from __future__ import annotations

from enum import IntEnum


class Reserved(IntEnum):
    """A reserved identity; its label is ``reserved:<name>`` with ``_`` written ``-``."""

    UNKNOWN = 0
    HOST = 1
    WORLD = 2
    UNMANAGED = 3
    HEALTH = 4
    INIT = 5
    REMOTE_NODE = 6
    KUBE_APISERVER = 7
    INGRESS = 8

    @property
    def label(self) -> str:
        """The one label of this identity, as Hubble prints it."""
        return "reserved:" + self.name.lower().replace("_", "-")


FIRST_ALLOCATED = 256
"""The least identity given to a label set."""

LAST_ALLOCATED = (1 << 24) - 1
"""The greatest identity: 24 bits survive in packet marks and on the wire."""
