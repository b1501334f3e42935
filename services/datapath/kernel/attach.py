"""Attaches the programs to interfaces with clsact filters that outlive this process.

Each filter has a fixed priority and handle, so that replacing one is atomic and needs no memory of what was
there. Direct action: the program's return value is the verdict. Filters of others are neither replaced nor
removed: an uplink may be theirs too. The functions block; they are given a pyroute2 ``IPRoute`` (or what
speaks like it) of the node's namespace.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from pyroute2.netlink.exceptions import NetlinkError

from services.datapath.errors import LinkError
from services.datapath.kernel.build import PROGRAMS

_PARENT = {"ingress": "ffff:fff2", "egress": "ffff:fff3"}
_PARENT_NUMBER = {"ingress": 0xFFFFFFF2, "egress": 0xFFFFFFF3}
_PRIORITY = 1
_HANDLE = 1
_GONE = (errno.ENOENT, errno.EINVAL, errno.ENODEV)


@dataclass(frozen=True)
class Hook:
    """One side of an interface and the program that is to be there."""

    ifindex: int
    side: str
    """``ingress``: what the interface receives; ``egress``: what it sends."""
    name: str
    """Of the filter: the program's name and a hash of its text, so that an older one is seen to be older."""
    fd: int


def attach(netlink: Any, hook: Hook) -> None:
    """Puts a program in its place, replacing the one that was there; raises LinkError for somebody else's."""
    with _passing_over(errno.EEXIST):
        netlink.tc("add", "clsact", hook.ifindex)
    what = {
        "kind": "bpf",
        "index": hook.ifindex,
        "fd": hook.fd,
        "name": hook.name,
        "parent": _PARENT[hook.side],
        "prio": _PRIORITY,
        "handle": _HANDLE,
        "direct_action": True,
    }
    try:
        netlink.tc("add-filter", **what)
        return
    except NetlinkError as error:
        if error.code != errno.EEXIST:
            raise
    for found in _filters(netlink, ifindex=hook.ifindex, side=hook.side):
        if found.in_place and not found.own:
            raise LinkError(
                f"interface {hook.ifindex}: its {hook.side} filter {found.name or found.kind} of priority "
                f"{_PRIORITY} is not Stentor's: move it to another priority"
            )
    netlink.tc("replace-filter", **what)


def detach(netlink: Any, ifindex: int) -> None:
    """Removes all own programs from an interface; one that is gone or bare is fine."""
    others = False
    for side, parent in _PARENT.items():
        for found in _filters(netlink, ifindex=ifindex, side=side):
            if not found.own:
                others = True
                continue
            with _passing_over(*_GONE):
                netlink.tc("del-filter", "bpf", ifindex, parent=parent, prio=_PRIORITY, handle=_HANDLE)
    if not others:
        with _passing_over(*_GONE):
            netlink.tc("del", "clsact", ifindex)


def attached(netlink: Any, *, ifindex: int, side: str) -> str | None:
    """The name of the own filter on one side of an interface, None without one."""
    own = (found.name for found in _filters(netlink, ifindex=ifindex, side=side) if found.own)
    return next(own, None)


@dataclass(frozen=True)
class _Filter:
    name: str
    kind: str
    in_place: bool
    """It has the priority and handle of the own ones."""

    @property
    def own(self) -> bool:
        return self.in_place and self.name.partition("-")[0] in PROGRAMS


def _filters(netlink: Any, *, ifindex: int, side: str) -> Iterator[_Filter]:
    found: list[Any] = []
    with _passing_over(*_GONE):
        found += netlink.get_filters(index=ifindex, parent=_PARENT_NUMBER[side])
    for message in found:
        options = message.get_attr("TCA_OPTIONS")
        # A list of filters names each priority once more, without options, for the chain itself.
        if options is None:
            continue
        name = options.get_attr("TCA_BPF_NAME") if message.get_attr("TCA_KIND") == "bpf" else None
        place = (message["info"] >> 16, message["handle"])
        yield _Filter(str(name or ""), message.get_attr("TCA_KIND"), in_place=place == (_PRIORITY, _HANDLE))


@contextmanager
def _passing_over(*codes: int) -> Iterator[None]:
    try:
        yield
    except NetlinkError as error:
        if error.code not in codes:
            raise
