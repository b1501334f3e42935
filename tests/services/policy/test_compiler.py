"""Identities, addresses and policies to classes and sets."""

from __future__ import annotations

from typing import Any

import pytest

from services.policy.compiler import Compiler, address_key, identity_key
from services.policy.errors import HashCollision
from services.policy.ids import NO_SELECTOR, Signature, class_id
from services.policy.model import Policy
from services.policy.networkpolicy import policy_ref, read_network_policy
from shared.contract.base import Identity
from shared.contract.identity import IdentityRecord
from shared.contract.policy import PolicyRef
from shared.contract.reserved import Reserved
from shared.labels import EVERY_LABEL

WEB, DB, OTHER = Identity(256), Identity(257), Identity(258)


def identity(number: Identity, **labels: str) -> IdentityRecord:
    return IdentityRecord(id=number, namespace="default", pod_labels=labels)


def policy(name: str = "p", *, namespace: str = "default", **spec: Any) -> Policy:
    data = {"metadata": {"name": name, "namespace": namespace}, "spec": spec}
    return read_network_policy(data, namespace=namespace, name=name, selectable=EVERY_LABEL)


def from_app(app: str) -> dict[str, Any]:
    return {"podSelector": {"matchLabels": {"app": app}}}


def compiler(*policies: Policy) -> Compiler:
    made = Compiler()
    made.set_identity(identity(WEB, app="web"))
    made.set_identity(identity(DB, app="db"))
    made.set_identity(identity(OTHER))
    for each in policies:
        made.set_policy(each)
    made.refresh()
    return made


def signature_of(made: Compiler, number: int) -> Signature:
    return made.identities[identity_key(number)].signature


def test_identities_with_one_signature_have_one_class() -> None:
    made = compiler(policy(podSelector={}, ingress=[{"from": [from_app("web")]}]))
    assert signature_of(made, DB) == signature_of(made, OTHER) == NO_SELECTOR
    assert signature_of(made, WEB) != NO_SELECTOR


def test_every_reserved_identity_but_unknown_has_the_empty_class_and_no_sets() -> None:
    made = compiler(policy(podSelector={}, ingress=[{"from": [{"namespaceSelector": {}}]}]))
    for number in Reserved:
        state = made.identities.get(identity_key(number))
        if number is Reserved.UNKNOWN:
            assert state is None
        else:
            assert state == (NO_SELECTOR, None, None)


def test_labels_of_a_reserved_number_select_nothing() -> None:
    made = compiler(policy(podSelector={}, ingress=[{"from": [{"namespaceSelector": {}}]}]))
    made.set_identity(identity(Identity(Reserved.WORLD), app="web"))
    made.refresh()
    assert signature_of(made, Reserved.WORLD) == NO_SELECTOR


def test_endpoints_with_the_same_policies_share_a_set_and_ids_do_not_depend_on_order() -> None:
    first, second = policy("a", podSelector={}), policy("b", podSelector={}, policyTypes=["Egress"])
    made, other = compiler(first, second), compiler(second, first)
    states = {made.identities[identity_key(number)] for number in (WEB, DB, OTHER)}
    assert len(states) == 1
    assert made.identities == other.identities
    state = states.pop()
    assert state.ingress is not None
    assert made.sets[state.ingress].policies == (first.ref,)


def test_a_policy_of_another_namespace_selects_nothing_here() -> None:
    made = compiler(policy(namespace="elsewhere", podSelector={}))
    assert not made.sets
    assert made.subjects(made.policies[policy_ref(namespace="elsewhere", name="p")]) == 0


def test_namespaces_can_be_selected_by_name_although_the_record_lacks_the_label() -> None:
    peer = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "default"}}}
    made = compiler(policy(podSelector={}, ingress=[{"from": [peer]}]))
    assert signature_of(made, WEB)


def test_rules_outside_policy_types_are_not_enforced() -> None:
    made = compiler(policy(podSelector={}, ingress=[{}], egress=[{}], policyTypes=["Egress"]))
    state = made.identities[identity_key(WEB)]
    assert state.ingress is None
    assert state.egress is not None


def test_an_address_has_a_class_of_its_own_only_where_a_block_sets_it_apart() -> None:
    made = compiler(policy(podSelector={}, egress=[{"to": [{"ipBlock": {"cidr": "10.0.1.0/24"}}]}]))
    made.set_address("10.0.1.5", WEB)
    made.set_address("10.0.2.5", WEB)
    made.refresh()
    assert set(made.addresses) == {address_key("10.0.1.5")}
    made.set_policy(policy("q", podSelector={}, ingress=[{"from": [from_app("web")]}]))
    made.refresh()
    (address,) = made.addresses.values()
    assert address.signature > signature_of(made, WEB) > NO_SELECTOR


def test_an_address_of_an_unknown_identity_waits_for_it() -> None:
    made = compiler(policy(podSelector={}, egress=[{"to": [{"ipBlock": {"cidr": "10.0.1.0/24"}}]}]))
    made.set_address("10.0.1.5", Identity(300))
    made.refresh()
    assert not made.addresses
    made.set_identity(identity(Identity(300)))
    assert made.refresh() == {identity_key(300), address_key("10.0.1.5")}


def test_a_block_around_all_pods_needs_no_entry_for_any_pod() -> None:
    made = compiler(policy(podSelector={}, egress=[{"to": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]}]))
    made.set_node("node", ["10.0.0.0/16"])
    made.set_address("10.0.1.5", WEB)
    made.set_address("192.168.0.1", Identity(Reserved.REMOTE_NODE))
    made.refresh()
    assert not made.addresses
    assert signature_of(made, WEB) == signature_of(made, OTHER) != NO_SELECTOR
    assert signature_of(made, Reserved.WORLD) == NO_SELECTOR
    made.set_address("172.16.0.1", WEB)  # a pod outside of all pod CIDRs
    made.refresh()
    assert set(made.addresses) == {address_key("10.0.1.5")}
    assert signature_of(made, WEB) == NO_SELECTOR


def test_a_node_address_is_matched_by_blocks_too() -> None:
    made = compiler(policy(podSelector={}, egress=[{"to": [{"ipBlock": {"cidr": "0.0.0.0/0"}}]}]))
    made.set_address("192.168.0.1", Identity(Reserved.REMOTE_NODE))
    made.refresh()
    assert set(made.addresses) == {address_key("192.168.0.1")}


def test_only_what_a_change_touches_is_reported() -> None:
    made = compiler(policy(podSelector={}, ingress=[{"from": [from_app("web")]}]))
    made.set_policy(policy("q", podSelector={"matchLabels": {"app": "db"}}, ingress=[]))
    assert made.refresh() == {identity_key(DB)}
    made.set_identity(identity(Identity(300), app="web"))
    assert made.refresh() == {identity_key(300)}
    made.remove_policy(PolicyRef(kind="NetworkPolicy", namespace="default", name="q"))
    assert made.refresh() == {identity_key(DB)}
    made.remove_identity(Identity(300))
    assert made.refresh() == {identity_key(300)}
    assert made.refresh() == set()


def test_one_id_with_two_contents_is_refused_loudly() -> None:
    first = policy("a", podSelector={})
    second = policy("b", podSelector={"matchLabels": {"app": "web"}})
    forged = Policy(
        ref=second.ref,
        uid="",
        resource_version="",
        tier=0,
        subject=type(second.subject)(id=first.subject.id, term=second.subject.term),
        ingress=second.ingress,
        egress=None,
    )
    made = compiler(first)
    with pytest.raises(HashCollision, match=f"have the id {first.subject.id}"):
        made.set_policy(forged)


def test_ids_are_part_of_the_contract_between_replicas_of_all_versions() -> None:
    made = compiler(policy(podSelector={}, ingress=[{"from": [from_app("web")], "ports": [{"port": 80}]}]))
    assert class_id(NO_SELECTOR) == "d06737620b190856"
    assert class_id(signature_of(made, WEB)) == "3c71caca8ec2dd6b"
    assert set(made.sets) == {"bc59aebfc7c04c66"}
