"""Publications one by one: what they hold, in which order, and when they take things away."""

from __future__ import annotations

from typing import Any

import pytest

from services.policy.compiler import Compiler, identity_key
from services.policy.planner import Planner, Publication
from services.policy.published import Published
from services.policy.retirement import Patience, Retirement
from services.policy.turn import Turn
from shared.contract.base import Identity, Message
from shared.contract.names import COMMIT_KEY
from shared.contract.policy import (
    AddressClass,
    CidrClass,
    Commit,
    IdentityPolicy,
    PolicySet,
    Row,
)
from shared.contract.reserved import Reserved
from tests.services.policy.test_compiler import DB, OTHER, WEB, compiler, from_app, identity, policy

NO_NODE_LAGS = float("inf")


class Publisher:
    """A planner with a bucket behind it."""

    def __init__(self, desired: Compiler, *, bucket: dict[str, Message] | None = None) -> None:
        self.desired = desired
        self.planner = Planner(desired, patience=Patience(settle=1.0, grace=60.0))
        self.bucket = {} if bucket is None else bucket
        self.sequence = 0
        self.now = 0.0
        self.realised = NO_NODE_LAGS

    def plan(self) -> Publication | None:
        return self.planner.plan(realised=self.realised, now=self.now, time="now")

    def publish(self) -> list[str]:
        """The keys of the publication in order, those that are deleted with a minus."""
        made = self.plan()
        if made is None:
            return []
        self.store(made)
        self.planner.committed(made, revision=self.sequence, now=self.now)
        return [key if value is not None else f"-{key}" for key, value in made.items]

    def store(self, made: Publication) -> None:
        for key, value in made.items:
            self.sequence += 1
            if value is None:
                del self.bucket[key]
            else:
                self.bucket[key] = value

    def mirror(self) -> Published:
        mirror = Published()
        for key, value in self.bucket.items():
            mirror.enter(key, value, revision=self.sequence)
        return mirror

    def identity(self, number: int) -> IdentityPolicy:
        value = self.bucket[identity_key(number)]
        assert isinstance(value, IdentityPolicy)
        return value

    def sets(self) -> dict[str, PolicySet]:
        return {value.id: value for value in self.bucket.values() if isinstance(value, PolicySet)}

    def row(self, subject: int, peer: int) -> Row:
        set_id = self.identity(subject).ingress
        assert set_id is not None
        chosen = self.sets()[set_id]
        return chosen.rows.get(self.identity(peer).peer_class, chosen.default)


def let_in(*apps: str, **more: Any) -> Any:
    return policy(podSelector={}, ingress=[{"from": [from_app(app)]} for app in apps], **more)


def test_the_first_publication_of_an_empty_cluster_is_the_reserved_identities() -> None:
    publisher = Publisher(Compiler())
    keys = publisher.publish()
    assert keys == [*(identity_key(number) for number in sorted(Reserved) if number), COMMIT_KEY]
    commit = publisher.bucket[COMMIT_KEY]
    assert commit == Commit(time="now", policies=0, identities=len(Reserved) - 1, sets=0, rows=0)
    assert publisher.publish() == []


def test_order_is_sets_then_exceptions_then_identities_then_the_commit() -> None:
    block = {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}
    desired = compiler(let_in("web"), policy("q", podSelector={}, egress=[{"to": [{"ipBlock": block}]}]))
    desired.set_address("10.2.0.1", WEB)
    desired.set_address("10.1.0.1", DB)
    made = Publisher(desired).plan()
    assert made is not None
    kinds = [type(value) for _, value in made.items]
    order: list[type[Message]] = [PolicySet, CidrClass, AddressClass, IdentityPolicy, Commit]
    assert kinds == sorted(kinds, key=lambda kind: order.index(kind))  # type: ignore[arg-type]  # no deletions here
    cidrs = [value.cidr for _, value in made.items if isinstance(value, CidrClass)]
    assert cidrs == ["10.1.0.0/16", "10.0.0.0/8"], "the longest prefix first"


def test_planning_changes_nothing_until_the_publication_is_stored() -> None:
    publisher = Publisher(compiler(let_in("web")))
    first, second = publisher.plan(), publisher.plan()
    assert first is not None
    assert second is not None
    assert first.items == second.items


def test_another_pod_with_known_labels_costs_one_entry() -> None:
    publisher = Publisher(compiler(let_in("web")))
    publisher.publish()
    publisher.desired.set_identity(identity(Identity(300), app="web", version="2"))
    assert publisher.publish() == [identity_key(300), COMMIT_KEY]


def test_an_edited_policy_flips_each_identity_once_and_then_leaves_the_old_set() -> None:
    publisher = Publisher(compiler(let_in("web")))
    publisher.publish()
    (old,) = publisher.sets()
    classes = {number: publisher.identity(number).peer_class for number in (WEB, DB, OTHER)}
    publisher.desired.set_policy(let_in("db"))
    keys = publisher.publish()
    assert not any(key.startswith("-") for key in keys)
    assert publisher.identity(WEB).peer_class == classes[WEB], "still told apart for the old set"
    assert publisher.identity(DB).peer_class != classes[DB]
    assert publisher.sets()[old].rows.keys() >= {classes[WEB]}
    assert publisher.row(WEB, DB).rule == 0
    assert publisher.row(WEB, WEB) == Row()
    assert publisher.publish() == []
    publisher.now += 1.5
    keys = publisher.publish()
    assert f"-set.{old}" in keys
    assert publisher.identity(WEB).peer_class == classes[OTHER]
    publisher.now += 1.5
    publisher.publish()
    assert all(len(value.rows) == 1 for value in publisher.sets().values())
    publisher.now += 100.0
    assert publisher.publish() == []
    assert publisher.planner.pending == 0
    assert publisher.planner.next_release(realised=NO_NODE_LAGS, now=publisher.now) is None


def test_nothing_is_taken_away_before_the_slowest_node_is_there_or_the_grace_is_over() -> None:
    publisher = Publisher(compiler(let_in("web")))
    publisher.publish()
    publisher.realised = publisher.sequence
    (old,) = publisher.sets()
    publisher.desired.set_policy(let_in("db"))
    publisher.publish()
    committed = publisher.sequence
    publisher.now += 59.0
    assert publisher.publish() == []
    assert publisher.planner.next_release(realised=publisher.realised, now=publisher.now) == 60.0
    publisher.realised = committed
    assert f"-set.{old}" in publisher.publish()

    publisher.realised = committed
    publisher.desired.set_policy(let_in("web"))
    publisher.publish()
    publisher.now += 61.0
    assert any(key.startswith("-set.") for key in publisher.publish())


def test_an_identity_that_is_gone_is_known_to_be_and_comes_back_with_the_sets_of_then() -> None:
    publisher = Publisher(compiler())
    publisher.publish()
    publisher.realised = 0.0
    publisher.desired.remove_identity(WEB)
    publisher.publish()
    assert publisher.identity(WEB).gone
    publisher.desired.set_policy(let_in("db"))
    publisher.publish()
    assert publisher.identity(WEB).gone
    publisher.desired.set_identity(identity(WEB, app="web"))
    publisher.publish()
    assert not publisher.identity(WEB).gone
    assert publisher.identity(WEB).ingress == publisher.identity(DB).ingress is not None


def test_a_set_that_comes_back_has_rows_for_classes_that_came_meanwhile() -> None:
    nobody = {"matchLabels": {"app": "nobody"}}
    new = {"podSelector": {"matchLabels": {"tier": "new"}}}
    keeps_selectors = policy("k", podSelector=nobody, ingress=[{"from": [from_app("web"), new]}])
    publisher = Publisher(compiler(let_in("web"), keeps_selectors))
    publisher.publish()
    publisher.desired.set_policy(let_in("db"))
    publisher.publish()
    publisher.desired.set_identity(identity(Identity(300), app="web", tier="new"))
    publisher.publish()
    publisher.desired.set_policy(let_in("web"))
    publisher.publish()
    assert publisher.row(DB, 300).rule == 0


def test_a_pod_that_gets_other_labels_while_a_policy_is_edited_meets_the_old_set_as_before() -> None:
    """Nodes give its address the new identity a moment before their own pods leave the old set."""
    publisher = Publisher(compiler(let_in("web")))
    publisher.publish()
    (old,) = publisher.sets()
    both = {"podSelector": {"matchExpressions": [{"key": "app", "operator": "In", "values": ["web", "www"]}]}}
    publisher.desired.set_policy(policy(podSelector={}, ingress=[{"from": [both]}]))
    publisher.desired.set_identity(identity(Identity(300), app="web", version="2"))
    publisher.publish()
    assert publisher.sets()[old].rows[publisher.identity(300).peer_class].rule == 0
    assert publisher.row(DB, 300).rule == 0


def test_an_address_set_apart_stays_so_for_the_old_set_when_its_pod_gets_other_labels() -> None:
    def let_in_from(cidr: str) -> Any:
        return policy(podSelector={}, ingress=[{"from": [{"ipBlock": {"cidr": cidr}}]}])

    desired = compiler(let_in_from("10.0.1.5/32"))
    desired.set_address("10.0.1.5", WEB)
    publisher = Publisher(desired)
    publisher.publish()
    (old,) = publisher.sets()
    desired.set_policy(let_in_from("10.0.2.0/24"))
    desired.set_address("10.0.1.5", DB)
    publisher.publish()
    entry = publisher.bucket["address.10-0-1-5"]
    assert isinstance(entry, AddressClass)
    assert entry.identity == DB
    assert publisher.sets()[old].rows[entry.peer_class].rule == 0
    (new,) = publisher.sets().keys() - {old}
    assert entry.peer_class not in publisher.sets()[new].rows


def test_a_restart_while_nodes_lag_keeps_what_they_go_by() -> None:
    """The selectors of old sets are not in the bucket: a new process knows their rows alone."""
    publisher = Publisher(compiler(let_in("web")))
    publisher.publish()
    (old,) = publisher.sets()
    before = {peer: publisher.row(WEB, peer) for peer in (WEB, DB, OTHER)}
    again = Publisher(compiler(let_in("db")), bucket=publisher.bucket)
    again.sequence = publisher.sequence
    again.planner.adopt(again.mirror())
    again.publish()
    kept = again.sets()[old]
    for peer, row in before.items():
        assert kept.rows.get(again.identity(peer).peer_class, kept.default) == row
    assert {peer: again.row(WEB, peer).rule for peer in (WEB, DB, OTHER)} == {WEB: None, DB: 0, OTHER: None}
    for _ in range(3):
        again.now += 1.5
        again.publish()
    fresh = Publisher(compiler(let_in("db")))
    fresh.publish()
    assert again.bucket == fresh.bucket


def test_a_class_of_an_earlier_process_that_is_wanted_again_has_its_rows() -> None:
    publisher = Publisher(compiler(let_in("web")))
    publisher.publish()
    web_alone = publisher.identity(WEB).peer_class
    labelled = {"podSelector": {"matchExpressions": [{"key": "app", "operator": "Exists"}]}}
    other = policy("r", podSelector={"matchLabels": {"app": "nobody"}}, ingress=[{"from": [labelled]}])
    renamed = policy("q", podSelector={}, ingress=[{"from": [from_app("web")]}])
    again = Publisher(compiler(renamed, other), bucket=publisher.bucket)
    again.sequence = publisher.sequence
    again.realised = 0.0
    again.planner.adopt(again.mirror())
    again.publish()
    assert again.identity(WEB).peer_class != web_alone
    again.desired.remove_policy(other.ref)
    again.publish()
    assert again.row(DB, WEB).rule == 0
    again.realised = float("inf")
    for _ in range(3):
        again.now += 1.5
        again.publish()
        assert again.row(DB, WEB).rule == 0
    assert again.identity(WEB).peer_class == web_alone


def test_a_publication_that_broke_off_before_its_commit_is_committed() -> None:
    publisher = Publisher(compiler(let_in("web")))
    made = publisher.plan()
    assert made is not None
    publisher.store(Publication(made.items[:-1], made.draft, made.generation))
    publisher.planner.adopt(publisher.mirror())
    assert publisher.publish() == [COMMIT_KEY]


def test_what_others_do_to_the_bucket_is_put_right() -> None:
    publisher = Publisher(compiler(let_in("web")))
    publisher.publish()
    good = dict(publisher.bucket)
    (value,) = publisher.sets().values()
    key = f"set.{value.id}"
    opened = PolicySet(
        id=value.id,
        direction=value.direction,
        policies=value.policies,
        rules=value.rules,
        default=Row(action=value.rows[publisher.identity(WEB).peer_class].action),
    )
    mirror = publisher.planner.published
    for changed in (opened, None):
        publisher.sequence += 1
        assert mirror.enter(key, changed, revision=publisher.sequence)
        publisher.bucket[key] = opened
        publisher.planner.adopt(mirror)
        assert publisher.publish() == [key, COMMIT_KEY]
        assert publisher.bucket == good


def test_values_that_cannot_be_read_are_put_anew_or_deleted() -> None:
    publisher = Publisher(compiler(let_in("web")))
    publisher.publish()
    (set_id,) = publisher.sets()
    mirror = publisher.planner.published
    bad = (f"set.{set_id}", "set.0123456789abcdef", identity_key(WEB), identity_key(999), "note.x")
    for key in bad:
        publisher.bucket[key] = Commit(time="", policies=0, identities=0, sets=0, rows=0)
    mirror.enter_unreadable(bad)
    publisher.planner.adopt(mirror)
    keys = publisher.publish()
    assert keys == [
        f"set.{set_id}", identity_key(WEB), f"-{identity_key(999)}", "-set.0123456789abcdef", COMMIT_KEY
    ]  # fmt: skip
    assert publisher.publish() == []
    mirror.enter_unreadable([COMMIT_KEY])
    assert publisher.publish() == [COMMIT_KEY]


def test_echoes_of_a_publication_under_way_are_no_news() -> None:
    publisher = Publisher(compiler(let_in("web")))
    made = publisher.plan()
    assert made is not None
    publisher.planner.sending(made)
    mirror = publisher.planner.published
    for number, (key, value) in enumerate(made.items[:3]):
        assert not mirror.enter(key, value, revision=number + 1)
    assert mirror.enter(made.items[0][0], None, revision=5), "somebody else deleted it"
    publisher.planner.adopt(mirror)
    publisher.store(made)
    publisher.planner.committed(made, revision=publisher.sequence, now=0.0)
    assert publisher.plan() is not None, "what was stored has to be read back first"


def test_an_address_given_to_another_pod_is_not_held_back() -> None:
    """Readers withhold an address whose entry is of another identity, so it becomes its own at once."""
    desired = compiler(policy(podSelector={}, egress=[{"to": [{"ipBlock": {"cidr": "10.0.1.5/32"}}]}]))
    desired.set_address("10.0.1.5", WEB)
    publisher = Publisher(desired)
    publisher.publish()
    desired.remove_policy(policy(podSelector={}).ref)
    desired.remove_address("10.0.1.5")
    publisher.publish()
    assert "address.10-0-1-5" in publisher.bucket
    desired.set_address("10.0.1.5", DB)
    publisher.publish()
    entry = publisher.bucket["address.10-0-1-5"]
    assert isinstance(entry, AddressClass)
    assert entry.identity == DB, "the old set still asks about the address"
    for _ in range(3):
        publisher.now += 1.5
        publisher.publish()
    assert "address.10-0-1-5" not in publisher.bucket


def test_the_commit_counts() -> None:
    publisher = Publisher(compiler(let_in("web", "db")))
    publisher.publish()
    reserved = len(Reserved) - 1
    assert publisher.bucket[COMMIT_KEY] == Commit(
        time="now", policies=1, identities=3 + reserved, sets=1, rows=2
    )
    publisher.desired.set_policy(policy("q", podSelector={"matchLabels": {"app": "nobody"}}))
    assert publisher.publish() == [COMMIT_KEY], "a policy that selects nobody is counted"
    publisher.desired.remove_identity(DB)
    publisher.publish()
    publisher.now += 1.5
    assert f"-{identity_key(DB)}" in publisher.publish()
    commit = publisher.bucket[COMMIT_KEY]
    assert isinstance(commit, Commit)
    assert commit.identities == 2 + reserved


@pytest.mark.parametrize(
    ("realised", "now", "released"), [(4, 9.0, False), (5, 0.5, False), (5, 1.0, True), (4, 60.0, True)]
)
def test_release(realised: int, now: float, released: bool) -> None:
    retirement = Retirement(Patience(settle=1.0, grace=60.0))
    retirement.update(["set.a"], revision=5, now=0.0)
    assert retirement.released("set.a", realised=realised, now=now) is released
    assert not retirement.released("set.b", realised=99, now=99.0)


def test_what_is_wanted_again_starts_anew_when_it_retires_again() -> None:
    retirement = Retirement(Patience(settle=1.0, grace=60.0))
    retirement.update(["set.a"], revision=5, now=0.0)
    retirement.update(["set.a"], revision=6, now=3.0)
    assert retirement.released("set.a", realised=5, now=3.0)
    retirement.update([], revision=7, now=4.0)
    retirement.update(["set.a"], revision=8, now=5.0)
    assert not retirement.released("set.a", realised=7, now=9.0)


def test_replicas_leave_the_turn_to_the_one_that_published_last() -> None:
    turn = Turn(patience=1.0)
    assert turn.is_own(revision=0, now=0.0), "nobody has published yet"
    turn.taken(revision=7)
    assert turn.is_own(revision=7, now=0.1)
    assert not turn.is_own(revision=9, now=1.0), "another replica published"
    assert turn.due == 2.0
    assert turn.is_own(revision=9, now=2.0), "it does not keep up"
    turn.nothing_to_do()
    assert not turn.is_own(revision=9, now=3.0), "it waits again"
