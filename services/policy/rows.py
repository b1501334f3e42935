"""Rule rows: the verdicts of rules in order, resolved into disjoint port ranges.

The first rule in order that speaks about a port decides it. So each rule paints what is still blank, and
the first rule for all traffic ends the painting.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping

from services.policy.model import PortMatch, PortName, Rule
from shared.contract.base import Protocol
from shared.contract.policy import PortRange, Row

DENY_ALL = Row()
"""No rule matches: the default deny of a set."""


def resolve(rules: Iterable[tuple[int, Rule]], *, numbers: Mapping[PortName, int]) -> Row:
    """The row of the matching rules, given in deciding order with their index in the set.

    ``numbers`` is what names of ports mean; what it lacks, the destination has no port by.
    """
    painted: defaultdict[Protocol, list[PortRange]] = defaultdict(list)
    rest = DENY_ALL
    for number, rule in rules:
        if rule.ports is None:
            rest = Row(action=rule.action, rule=number)
            break
        named = (
            PortMatch(name.protocol, numbers[name], numbers[name]) for name in rule.names if name in numbers
        )
        for port in (*rule.ports, *named):
            ranges = painted[port.protocol]
            ranges.extend(
                PortRange(protocol=port.protocol, first=first, last=last, action=rule.action, rule=number)
                for first, last in _blank(ranges, first=port.first, last=port.last)
            )
            ranges.sort(key=_first)
    if not painted:
        return rest
    ordered = sorted(painted, key=lambda protocol: protocol.number)
    return Row(
        action=rest.action,
        rule=rest.rule,
        ranges=tuple(item for protocol in ordered for item in _joined(painted[protocol])),
    )


def _first(item: PortRange) -> int:
    return item.first


def _blank(ranges: list[PortRange], *, first: int, last: int) -> list[tuple[int, int]]:
    """The parts of ``first``..``last`` that no range (sorted, disjoint) covers."""
    parts: list[tuple[int, int]] = []
    for item in ranges:
        if item.last < first:
            continue
        if item.first > last:
            break
        if item.first > first:
            parts.append((first, item.first - 1))
        first = item.last + 1
        if first > last:
            return parts
    parts.append((first, last))
    return parts


def _joined(ranges: list[PortRange]) -> list[PortRange]:
    """Adjacent ranges of one rule as one."""
    joined: list[PortRange] = []
    for item in ranges:
        last = joined[-1] if joined else None
        if last is not None and last.rule == item.rule and last.last + 1 == item.first:
            joined[-1] = PortRange(
                protocol=item.protocol, first=last.first, last=item.last, action=item.action, rule=item.rule
            )
        else:
            joined.append(item)
    return joined
