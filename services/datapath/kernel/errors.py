"""Errors of the kernel layer.

KernelError
 +-- KernelUnusable   this machine lacks something that the datapath needs
 +-- BuildFailed      the programs did not compile or the verifier refused them
 +-- LayoutMismatch   a pinned map is not what the program expects
 +-- MapFull          a map has no room; the change that needed it is not in the kernel
"""

from __future__ import annotations


class KernelError(Exception):
    """The base of the kernel layer's errors."""


class KernelUnusable(KernelError):
    """This machine lacks something that the datapath needs; the message says what to install or mount."""


class BuildFailed(KernelError):
    """The programs did not compile, or the kernel's verifier refused them; holds the compiler's output."""


class LayoutMismatch(KernelError):
    """A pinned map differs from the program's declaration; remove the named pin to start afresh."""


class MapFull(KernelError):
    """A map has no room for an entry. Names the map; its capacity is an option of the datapath."""
