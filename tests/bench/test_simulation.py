"""The simulated cluster is as large, and as varied, as it says."""

from __future__ import annotations

import json
from ipaddress import ip_address, ip_network

import pytest

from bench import simulation
from bench.simulation import Size


def test_the_selectors_are_distinct_and_all_of_them_are_used() -> None:
    size = Size()
    wanted = {json.dumps(peer, sort_keys=True) for peer in simulation.peers(size)}
    used = {
        json.dumps(peer, sort_keys=True)
        for policy in simulation.policies(size)
        for rule in policy["spec"]["ingress"]
        for peer in rule["from"]
    }
    assert len(wanted) == size.selectors
    assert used == wanted


def test_every_address_is_another_and_in_the_pod_cidr_of_its_node() -> None:
    size = Size(identities=50, addresses=500)
    entries = [simulation.ip_entry(number, size) for number in range(size.addresses)]
    networks = {node.name: node.pod_cidrs[0] for node in simulation.nodes()}
    assert len({entry.ip for entry in entries}) == size.addresses
    assert len({entry.identity for entry in entries}) == size.identities
    assert len(set(networks.values())) == simulation.NODES
    assert all(ip_address(entry.ip) in ip_network(networks[entry.node]) for entry in entries)


def test_a_size_beyond_the_simulated_nodes_is_refused() -> None:
    with pytest.raises(ValueError, match="at most"):
        Size(addresses=1_000_000)
