"""A datapath in miniature: how a node looks verdicts up, and how it applies a commit step by step."""

from __future__ import annotations

import ipaddress
import random
from collections.abc import Iterable, Iterator, Mapping
from typing import TypeVar

from shared.contract.base import Direction, Message
from shared.contract.policy import (
    Action,
    AddressClass,
    CidrClass,
    IdentityPolicy,
    PolicySet,
    Row,
)
from shared.contract.reserved import Reserved

T = TypeVar("T")

OPEN = Row(action=Action.ALLOW)


class Reader:
    """The state of one node's kernel."""

    def __init__(self) -> None:
        self.rows: dict[tuple[str, str], Row] = {}
        self.defaults: dict[str, Row] = {}
        self.classes: dict[int, str] = {}
        self.sets: dict[tuple[int, Direction], str] = {}
        self.addresses: dict[str, AddressClass] = {}
        self.prefixes: dict[str, str] = {}
        self.revision = 0

    def apply(self, bucket: Mapping[str, Message], *, revision: int, order: random.Random) -> Iterator[str]:
        """Apply a committed state; gives a name after each step. Only the promised order is kept."""
        sets = {value.id: value for value in bucket.values() if isinstance(value, PolicySet)}
        identities = {value.identity: value for value in bucket.values() if isinstance(value, IdentityPolicy)}
        addresses = {value.ip: value for value in bucket.values() if isinstance(value, AddressClass)}
        prefixes = {value.cidr: value.peer_class for value in bucket.values() if isinstance(value, CidrClass)}
        rows = {(value.id, peer): row for value in sets.values() for peer, row in value.rows.items()}
        for id, value in sets.items():
            # A set's default row and rows come into being together, before anything refers to the set.
            self.defaults[id] = value.default
        for key in shuffled(rows, order):
            if self.rows.get(key) != rows[key]:
                self.rows[key] = rows[key]
                yield f"row {key}"
        for cidr in shuffled(prefixes, order):
            if self.prefixes.get(cidr) != prefixes[cidr]:
                self.prefixes[cidr] = prefixes[cidr]
                yield f"prefix {cidr}"
        for ip in shuffled(addresses, order):
            if self.addresses.get(ip) != addresses[ip]:
                self.addresses[ip] = addresses[ip]
                yield f"address {ip}"
        classes = {int(number): value.peer_class for number, value in identities.items()}
        flips: list[tuple[str, str | int]] = [("class", number) for number in classes]
        flips += [("address", ip) for ip in sorted(self.addresses.keys() - addresses.keys())]
        flips += [("prefix", cidr) for cidr in sorted(self.prefixes.keys() - prefixes.keys())]
        for kind, name in shuffled(flips, order):
            match kind, name:
                case "class", int(number):
                    if self.classes.get(number) == classes[number]:
                        continue
                    self.classes[number] = classes[number]
                case "address", str(ip):
                    del self.addresses[ip]
                case "prefix", str(cidr):
                    del self.prefixes[cidr]
            yield f"{kind} {name}"
        wanted: dict[tuple[int, Direction], str] = {}
        for number, identity in identities.items():
            wanted[number, Direction.INGRESS] = identity.ingress or ""
            wanted[number, Direction.EGRESS] = identity.egress or ""
        for subject in shuffled(wanted, order):
            if self.sets.get(subject) != wanted[subject]:
                self.sets[subject] = wanted[subject]
                yield f"set of {subject}"
        for row in shuffled(sorted(self.rows.keys() - rows.keys()), order):
            del self.rows[row]
            yield f"row {row} gone"
        self.defaults = {id: value.default for id, value in sets.items()}
        self.classes = dict(classes)
        self.sets = wanted
        self.revision = revision

    def row(
        self, *, subject: int, direction: Direction, peer_ip: str, ipcache: Mapping[str, int]
    ) -> Row | None:
        """The row that decides; None when the subject or peer is not known yet, so nothing passes."""
        set_id = self.sets.get((subject, direction))
        peer_class = self.class_of(peer_ip, ipcache=ipcache)
        if set_id is None or peer_class is None:
            return None
        if not set_id:
            return OPEN
        return self.rows.get((set_id, peer_class), self.defaults[set_id])

    def class_of(self, ip: str, *, ipcache: Mapping[str, int]) -> str | None:
        """Exact address, else the longest prefix, else the world."""
        identity = ipcache.get(ip)
        if identity is not None:
            own = self.addresses.get(ip)
            if own is None or identity not in self.classes:
                return self.classes.get(identity)
            return own.peer_class if own.identity == identity else None
        address = ipaddress.ip_address(ip)
        around = [cidr for cidr in self.prefixes if address in ipaddress.ip_network(cidr)]
        if around:
            return self.prefixes[max(around, key=lambda cidr: ipaddress.ip_network(cidr).prefixlen)]
        return self.classes.get(Reserved.WORLD)


def passes(row: Row | None, *, protocol: str, port: int) -> bool:
    """What the kernel finds in a row for a port."""
    if row is None:
        return False
    for item in row.ranges:
        if item.protocol == protocol and item.first <= port <= item.last:
            return item.action is Action.ALLOW
    return row.action is Action.ALLOW


def shuffled(items: Iterable[T], order: random.Random) -> list[T]:
    """The items in a random order."""
    found = list(items)
    order.shuffle(found)
    return found
