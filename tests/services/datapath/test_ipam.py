"""Addresses are given once, remembered across restarts, and reused as late as possible."""

from __future__ import annotations

from ipaddress import ip_address, ip_network
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from services.datapath.errors import AddressesExhausted, NoPodCidr, StateError
from services.datapath.ipam import HostLocalIpam


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "ipam.json"


def ipam_at(path: Path, *cidrs: str) -> HostLocalIpam:
    ipam = HostLocalIpam(path)
    ipam.set_cidrs(cidrs or ("10.7.0.0/29",))
    return ipam


def test_network_gateway_and_broadcast_addresses_are_never_given(path: Path) -> None:
    ipam = ipam_at(path)
    given_ips = [ipam.allocate(f"c{n}/eth0") for n in range(5)]
    assert given_ips == [(f"10.7.0.{n}",) for n in range(2, 7)]
    assert ipam.capacity() == {4: 5}
    with pytest.raises(AddressesExhausted, match=r"all IPv4 addresses of 10\.7\.0\.0/29 are taken by 5 pods"):
        ipam.allocate("c5/eth0")


def test_an_owner_keeps_its_address_when_it_asks_again(path: Path) -> None:
    ipam = ipam_at(path)
    assert ipam.allocate("c1/eth0") == ipam.allocate("c1/eth0")
    assert ipam_at(path).allocate("c1/eth0") == ("10.7.0.2",)


def test_a_freed_address_is_the_last_to_be_given_again_also_after_a_restart(path: Path) -> None:
    ipam = ipam_at(path)
    assert ipam.allocate("a/eth0") == ("10.7.0.2",)
    assert ipam.release("a/eth0") == ("10.7.0.2",)
    assert ipam.release("a/eth0") == ()
    ipam = ipam_at(path)
    later = [ipam.allocate(f"b{n}/eth0")[0] for n in range(5)]
    assert later == ["10.7.0.3", "10.7.0.4", "10.7.0.5", "10.7.0.6", "10.7.0.2"]


def test_each_family_gives_one_address(path: Path) -> None:
    ipam = ipam_at(path, "fd00:7::/64", "10.7.0.0/24")
    assert ipam.allocate("a/eth0") == ("10.7.0.2", "fd00:7::2")
    assert ipam.allocate("b/eth0") == ("10.7.0.3", "fd00:7::3")


def test_nothing_is_taken_when_one_family_is_exhausted(path: Path) -> None:
    ipam = ipam_at(path, "fd00:7::/126", "10.7.0.0/24")
    ipam.allocate("a/eth0")
    ipam.allocate("b/eth0")
    with pytest.raises(AddressesExhausted, match="IPv6"):
        ipam.allocate("c/eth0")
    assert "c/eth0" not in ipam.owners
    assert not any("10.7.0.4" in ips for ips in ipam_at(path).owners.values())


def test_further_cidrs_are_used_when_the_first_is_full(path: Path) -> None:
    ipam = ipam_at(path, "10.7.0.0/30", "10.8.0.0/30")
    assert [ipam.allocate(f"c{n}/eth0") for n in range(2)] == [("10.7.0.2",), ("10.8.0.2",)]


@pytest.mark.parametrize("cidr", ["10.7.0.4/32", "10.7.0.4/31", "fd00::1/128"])
def test_a_cidr_without_room_for_pods_is_exhausted_at_once(path: Path, cidr: str) -> None:
    with pytest.raises(AddressesExhausted):
        ipam_at(path, cidr).allocate("a/eth0")


def test_without_a_cidr_the_error_says_what_is_missing(path: Path) -> None:
    with pytest.raises(NoPodCidr, match=r"spec\.podCIDR"):
        HostLocalIpam(path).allocate("a/eth0")


def test_addresses_outside_new_cidrs_stay_until_released(path: Path) -> None:
    ipam = ipam_at(path)
    ipam.allocate("a/eth0")
    ipam.set_cidrs(["10.9.0.0/24"])
    assert ipam.allocate("a/eth0") == ("10.7.0.2",)
    ipam.release("a/eth0")
    assert ipam.allocate("a/eth0") == ("10.9.0.2",)


@pytest.mark.parametrize("text", ["", "{", '{"owners": {"a/eth0": ["10.7.0.300"]}}', '{"owners": 3}'])
def test_a_damaged_file_is_kept_aside_and_named_and_addresses_can_be_adopted(path: Path, text: str) -> None:
    path.write_text(text)
    ipam = ipam_at(path)
    assert str(path) in ipam.problem
    assert path.with_name("ipam.json.broken").read_text() == text
    ipam.adopt("a/eth0", ["10.7.0.2"])
    assert ipam.allocate("b/eth0") == ("10.7.0.3",)


def test_an_address_that_cannot_be_written_down_is_not_given(tmp_path: Path) -> None:
    ipam = ipam_at(tmp_path / "missing" / "ipam.json")
    with pytest.raises(StateError, match=r"missing/ipam\.json"):
        ipam.allocate("a/eth0")
    assert ipam.owners == {}


def test_the_file_is_readable_by_its_user_alone(path: Path) -> None:
    ipam_at(path).allocate("a/eth0")
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(path.parent.iterdir()) == [path]


@given(steps=st.lists(st.tuples(st.booleans(), st.integers(0, 8), st.booleans()), max_size=40))
def test_no_address_has_two_owners_whatever_happens(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[bool, int, bool]]
) -> None:
    path = tmp_path_factory.mktemp("ipam") / "ipam.json"
    ipam = ipam_at(path)
    for take, number, restart in steps:
        if restart:
            ipam = ipam_at(path)
        try:
            if take:
                ipam.allocate(f"c{number}/eth0")
            else:
                ipam.release(f"c{number}/eth0")
        except AddressesExhausted:
            assert len(ipam.owners) == 5
        ips = [ip for held in ipam.owners.values() for ip in held]
        assert len(ips) == len(set(ips))
        assert all(ip_address(ip) in ip_network("10.7.0.0/29") for ip in ips)
