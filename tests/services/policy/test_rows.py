"""Rules to disjoint ranges."""

from __future__ import annotations

from collections.abc import Mapping

from hypothesis import given
from hypothesis import strategies as st

from services.policy import rows
from services.policy.model import PortMatch, PortName, Rule
from services.policy.rows import DENY_ALL
from shared.contract.base import Protocol
from shared.contract.policy import Action, PortRange, Row

TCP, UDP = Protocol.TCP, Protocol.UDP


def rule(*ports: PortMatch, index: int = 0) -> Rule:
    return Rule(index=index, peers=None, ports=ports or None)


def resolve(rules: list[tuple[int, Rule]], *, numbers: Mapping[PortName, int] | None = None) -> Row:
    return rows.resolve(rules, numbers=numbers or {})


def allowed(protocol: Protocol, first: int, last: int, number: int) -> PortRange:
    return PortRange(protocol=protocol, first=first, last=last, rule=number)


def test_no_rule_is_the_default_deny() -> None:
    assert resolve([]) == DENY_ALL
    assert DENY_ALL.action is Action.DENY
    assert DENY_ALL.rule is None


def test_the_first_rule_decides_a_port() -> None:
    row = resolve([(0, rule(PortMatch(TCP, 80, 90))), (1, rule(PortMatch(TCP, 70, 100)))])
    assert row.ranges == (allowed(TCP, 70, 79, 1), allowed(TCP, 80, 90, 0), allowed(TCP, 91, 100, 1))
    assert row.action is Action.DENY


def test_a_rule_for_all_traffic_decides_the_rest_and_hides_what_follows() -> None:
    row = resolve([(0, rule(PortMatch(TCP, 80, 80))), (2, rule()), (3, rule(PortMatch(TCP, 90, 90)))])
    assert row == Row(action=Action.ALLOW, rule=2, ranges=(allowed(TCP, 80, 80, 0),))


def test_ranges_are_sorted_by_protocol_number() -> None:
    row = resolve([(0, rule(PortMatch(Protocol.SCTP, 1, 1), PortMatch(TCP, 9, 9), PortMatch(UDP, 1, 1)))])
    assert [item.protocol for item in row.ranges] == [TCP, UDP, Protocol.SCTP]


def test_adjacent_ranges_are_joined_for_one_rule_only() -> None:
    row = resolve([(0, rule(PortMatch(TCP, 80, 80))), (1, rule(PortMatch(TCP, 81, 81)))])
    assert row.ranges == (allowed(TCP, 80, 80, 0), allowed(TCP, 81, 81, 1))
    row = resolve([(0, rule(PortMatch(TCP, 80, 80), PortMatch(TCP, 81, 81)))])
    assert row.ranges == (allowed(TCP, 80, 81, 0),)


spans = st.tuples(st.sampled_from((TCP, UDP)), st.integers(0, 30), st.integers(0, 30)).map(
    lambda span: PortMatch(span[0], min(span[1:]), max(span[1:]))
)


@given(st.lists(st.one_of(st.none(), st.lists(spans, min_size=1, max_size=4)), max_size=6))
def test_each_port_has_the_verdict_of_the_first_rule_that_names_it(
    rules: list[list[PortMatch] | None],
) -> None:
    row = resolve([(number, rule(*(ports or ()))) for number, ports in enumerate(rules)])
    keys = [(item.protocol.number, item.first) for item in row.ranges]
    assert keys == sorted(keys)
    for protocol in (TCP, UDP):
        for port in range(32):
            deciding = (
                number
                for number, ports in enumerate(rules)
                if ports is None
                or any(item.protocol is protocol and item.first <= port <= item.last for item in ports)
            )
            wanted = next(deciding, None)
            found = [i for i in row.ranges if i.protocol is protocol and i.first <= port <= i.last]
            assert len(found) <= 1
            assert (found[0].rule if found else row.rule) == wanted


def test_a_name_is_the_number_that_the_destination_gives_it_or_nothing() -> None:
    web, dns = PortName(TCP, "web"), PortName(UDP, "dns")
    calls = Rule(index=0, peers=None, ports=(PortMatch(TCP, 443, 443),), names=(web, dns))
    assert resolve([(0, calls)], numbers={web: 8080}).ranges == (
        allowed(TCP, 443, 443, 0),
        allowed(TCP, 8080, 8080, 0),
    )
    assert resolve([(0, Rule(index=0, peers=None, ports=(), names=(web,)))]) == DENY_ALL
