"""A block around all pods is part of identities' classes: a commit says for which addresses that holds."""

from __future__ import annotations

from services.policy.compiler import Compiler
from shared.contract.names import COMMIT_KEY
from shared.contract.policy import AddressClass, Commit
from tests.services.policy.test_compiler import DB, WEB, compiler, policy
from tests.services.policy.test_planner import Publisher

BLOCK = policy(podSelector={}, ingress=[{"from": [{"ipBlock": {"cidr": "10.0.0.0/8"}}]}])


def commit(publisher: Publisher) -> Commit:
    found = publisher.bucket[COMMIT_KEY]
    assert isinstance(found, Commit)
    return found


def publisher(desired: Compiler) -> Publisher:
    desired.set_node("node-1", ("10.1.0.0/24",))
    desired.set_node("node-2", ("10.1.1.0/24",))
    made = Publisher(desired)
    made.publish()
    return made


def test_without_such_a_block_any_address_will_do() -> None:
    assert commit(publisher(compiler())).pod_space is None


def test_with_one_it_is_the_space_that_the_block_holds() -> None:
    made = publisher(compiler(BLOCK))
    assert commit(made).pod_space == ("10.1.0.0/23",)
    made.desired.set_node("node-3", ("10.2.0.0/24",))
    assert made.publish() == [COMMIT_KEY], "nothing else changes, and the new node's pods wait for this"
    assert commit(made).pod_space == ("10.1.0.0/23", "10.2.0.0/24")


def test_an_address_outside_of_it_ends_that_for_all() -> None:
    made = publisher(compiler(BLOCK))
    made.desired.set_address("10.1.0.5", DB)
    made.desired.set_address("192.168.7.7", WEB)
    made.publish()
    assert commit(made).pod_space is None
    assert isinstance(made.bucket["address.10-1-0-5"], AddressClass)
    assert made.publish() == []
