"""``from`` and ``to`` of a rule: each peer becomes one peer selector.

``podSelector`` with ``namespaceSelector`` is one condition on both; ``podSelector`` alone means the
policy's own namespace; ``namespaceSelector`` alone means all pods of those namespaces.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from ipaddress import IPv4Network, IPv6Network, ip_network

from services.policy.faults import Faults
from services.policy.model import (
    BlockTerm,
    LabelSelector,
    PeerSelector,
    PodTerm,
    block_selector,
    pod_selector,
)
from services.policy.raw import RawBlock, RawPeer
from services.policy.selectors import read_selector
from shared.labels import EVERY_LABEL, LabelFilter

Network = IPv4Network | IPv6Network

_PREFIX = re.compile(r"[0-9A-Fa-f:.]+/[0-9]{1,3}")
_MAPPED = IPv6Network("::ffff:0:0/96")


def read_peers(
    raw: Sequence[RawPeer] | None, *, path: str, namespace: str, faults: Faults, selectable: LabelFilter
) -> tuple[PeerSelector, ...] | None:
    """Peer selectors sorted by id without duplicates; None, every peer, when the list is absent or empty."""
    if not raw:
        return None
    peers: dict[str, PeerSelector] = {}
    for index, item in enumerate(raw):
        peer = _read_peer(
            item, path=f"{path}[{index}]", namespace=namespace, faults=faults, selectable=selectable
        )
        if peer is not None and peers.setdefault(peer.id, peer) != peer:
            faults.add(f"{path}[{index}]", "its id is that of another peer", remedy="write it in another way")
    return tuple(peers[id] for id in sorted(peers))


def _read_peer(
    raw: RawPeer, *, path: str, namespace: str, faults: Faults, selectable: LabelFilter
) -> PeerSelector | None:
    if raw.ip_block is not None:
        if raw.pod_selector is not None or raw.namespace_selector is not None:
            faults.add(
                f"{path}.ipBlock", "a peer is either addresses or pods", remedy="write one peer for each"
            )
            return None
        block = _read_block(raw.ip_block, path=f"{path}.ipBlock", faults=faults)
        return None if block is None else block_selector(block)
    if raw.pod_selector is None and raw.namespace_selector is None:
        faults.add(path, "the peer has no fields", remedy="set podSelector, namespaceSelector or ipBlock")
        return None
    pods = LabelSelector()
    if raw.pod_selector is not None:
        pods = read_selector(
            raw.pod_selector, path=f"{path}.podSelector", faults=faults, selectable=selectable
        )
    if raw.namespace_selector is None:
        return pod_selector(PodTerm(namespace=namespace, pods=pods))
    namespaces = read_selector(
        raw.namespace_selector, path=f"{path}.namespaceSelector", faults=faults, selectable=EVERY_LABEL
    )
    return pod_selector(PodTerm(namespaces=namespaces, pods=pods))


def _read_block(raw: RawBlock, *, path: str, faults: Faults) -> BlockTerm | None:
    cidr = _read_prefix(raw.cidr, field=f"{path}.cidr", faults=faults)
    excepts: list[Network] = []
    for index, text in enumerate(raw.excepts or ()):
        field = f"{path}.except[{index}]"
        exception = _read_prefix(text, field=field, faults=faults)
        if cidr is None or exception is None:
            continue
        if exception.prefixlen <= cidr.prefixlen or not _inside(exception, cidr):
            faults.add(field, f"{text} is not a part of {raw.cidr}", remedy="name prefixes inside cidr only")
        else:
            excepts.append(exception)
    if cidr is None:
        return None
    outermost = {one for one in excepts if not any(one != other and _inside(one, other) for other in excepts)}
    return BlockTerm(cidr=str(cidr), excepts=tuple(sorted(str(network) for network in outermost)))


def _read_prefix(text: str, *, field: str, faults: Faults) -> Network | None:
    try:
        if not _PREFIX.fullmatch(text):
            raise ValueError(f"{text!r} is not of the form address/length")
        network = ip_network(text, strict=False)
        if _inside(network, _MAPPED):
            raise ValueError(f"{text} is an IPv4 prefix written as IPv6")
    except ValueError as error:
        faults.add(field, str(error), remedy="write a prefix such as 10.0.0.0/8 or fd00::/8")
        return None
    return network


def _inside(inner: Network, outer: Network) -> bool:
    return (
        inner.version == outer.version
        and int(outer.network_address) <= int(inner.network_address)
        and int(inner.broadcast_address) <= int(outer.broadcast_address)
    )
