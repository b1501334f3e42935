"""Policies for which a kernel has no room: closed or kept as configured, named, and no other harmed."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from services.datapath.kernel.layout import ENDPOINT, ENDPOINT_READY, SET_OPEN, packed
from services.datapath.kernel.loader import Loaded
from services.datapath.setrows import WhenFull
from shared.contract.base import Direction, Identity, Message, SetId
from shared.contract.policy import IdentityPolicy, PolicyRef, PolicySet, Row
from tests.packet.desiring import COMMIT, POD_IP, Kernel, enter_local, peer_class
from tests.packet.runs import ROOM

IDENTITY = 300


class Node(Kernel):
    """A node whose one pod has the identity :data:`IDENTITY`, and whose map of rows has little room."""

    def publish(self, ingress: int | None, sizes: dict[int, int], *, first: int = 1000) -> None:
        """Sets by number with so many rows; the pod has one of them at ingress."""
        values: dict[str, Message | None] = {
            f"set.{number:016x}": policy_set(number, rows=rows, first=first) for number, rows in sizes.items()
        }
        chosen = None if ingress is None else SetId(f"{ingress:016x}")
        values[f"identity.{IDENTITY}"] = IdentityPolicy(
            identity=Identity(IDENTITY), peer_class=peer_class(IDENTITY), ingress=chosen
        )
        assert self.desire.take_policy(self.batch({**values, "commit": COMMIT}))

    def ingress(self) -> tuple[int, int]:
        """The pod's set at ingress as the kernel has it, and how many rows the kernel holds of that set."""
        found = self.endpoint()
        assert found is not None
        assert found[4] == ENDPOINT_READY
        return found[0], sum(key[:8] == found[0].to_bytes(8, "little") for key in self.state.rows.known())

    def unfit(self) -> list[int]:
        return [int(each.id, 16) for each in self.desire.unfit_sets]


def policy_set(number: int, *, rows: int, first: int) -> PolicySet:
    """One with a default row, and rows for classes from ``first`` on."""
    return PolicySet(
        id=SetId(f"{number:016x}"),
        direction=Direction.INGRESS,
        policies=(PolicyRef(kind="NetworkPolicy", namespace="shop", name=f"policy-{number}"),),
        rules=(),
        default=Row(),
        rows={peer_class(first + each): Row(rule=each) for each in range(rows - 1)},
    )


@pytest.fixture
def closing(small: Loaded) -> Iterator[Node]:
    node = Node(small)
    yield node
    node.close()


@pytest.fixture
def keeping(small: Loaded) -> Iterator[Node]:
    node = Node(small, when_full=WhenFull.KEEP)
    yield node
    node.close()


def test_a_pod_whose_policy_has_no_room_is_closed(closing: Node) -> None:
    closing.publish(10, {10: ROOM})
    enter_local(closing, IDENTITY)
    assert closing.ingress() == (10, ROOM)
    assert closing.unfit() == []

    closing.publish(11, {11: ROOM + 1})
    assert closing.ingress() == (11, 0)
    assert closing.unfit() == [11]
    assert "shop/policy-11" in closing.desire.unfit_sets[0].reason
    assert "--map-size" in closing.desire.unfit_sets[0].reason

    closing.publish(12, {12: 2})
    assert closing.ingress() == (12, 2)
    assert closing.unfit() == []


def test_a_policy_that_outgrows_its_room_is_closed_as_a_whole(closing: Node) -> None:
    closing.publish(10, {10: ROOM})
    enter_local(closing, IDENTITY)
    assert closing.ingress() == (10, ROOM)
    closing.publish(10, {10: ROOM + 1})
    for _ in range(3):
        assert closing.ingress() == (10, 0)
        assert closing.unfit() == [10]
    closing.publish(10, {10: 3})
    assert closing.ingress() == (10, 3)


def test_a_policy_that_waits_for_the_room_of_its_predecessor_gets_it(closing: Node) -> None:
    closing.publish(10, {10: ROOM - 1})
    enter_local(closing, IDENTITY)
    assert closing.ingress() == (10, ROOM - 1)
    # Both do not fit beside each other: the pod is closed in between, never open.
    closing.publish(11, {11: ROOM - 1})
    assert closing.ingress() == (11, 0)
    assert closing.ingress() == (11, ROOM - 1)
    assert closing.unfit() == []


def test_rows_that_make_way_for_others_of_their_set_do_not_block_a_full_map(closing: Node) -> None:
    closing.publish(10, {10: ROOM})
    enter_local(closing, IDENTITY)
    assert closing.ingress() == (10, ROOM)
    # New rows are written before old ones are erased, and there is no room for both.
    closing.publish(10, {10: ROOM}, first=2000)
    assert closing.ingress() == (10, 0)
    assert closing.ingress() == (10, ROOM)
    assert closing.unfit() == []


def test_what_the_kernel_holds_counts_though_nobody_wants_it_any_more(closing: Node) -> None:
    closing.publish(10, {10: ROOM - 2})
    enter_local(closing, IDENTITY)
    assert closing.ingress() == (10, ROOM - 2)
    # The rows of set 11 are written, and then its pod does not get it.
    closing.publish(11, {11: 2})
    closing.desire.want_local()
    closing.state.rows.write()
    closing.publish(12, {12: 3})
    for _ in range(3):
        ingress = closing.ingress()
    assert ingress == (12, 3)
    assert closing.unfit() == []


def test_drift_is_not_what_is_kept(keeping: Node) -> None:
    keeping.publish(10, {10: 3})
    enter_local(keeping, IDENTITY)
    assert keeping.ingress() == (10, 3)
    keeping.publish(11, {11: ROOM + 1})
    assert keeping.ingress() == (10, 3)

    endpoints = keeping.state.v4.endpoints
    key = packed(POD_IP)
    opened = ENDPOINT.pack(SET_OPEN, SET_OPEN, *ENDPOINT.unpack(endpoints.get(key) or b"")[2:])
    drift: dict[str, dict[bytes, bytes | None]] = {mirror.name: {} for mirror in keeping.state.mirrors} | {
        endpoints.name: {key: opened}
    }
    keeping.state.repair(drift)
    assert keeping.ingress() == (10, 3)


def test_a_pod_keeps_its_last_complete_policy_if_that_is_wanted(keeping: Node) -> None:
    keeping.publish(10, {10: 3})
    enter_local(keeping, IDENTITY)
    assert keeping.ingress() == (10, 3)

    keeping.publish(11, {11: ROOM + 1})
    for _ in range(3):
        assert keeping.ingress() == (10, 3)
        assert keeping.unfit() == [11]
    assert "keep what they had before" in keeping.desire.unfit_sets[0].reason

    keeping.publish(12, {12: 4})
    assert keeping.ingress() == (12, 4)
    assert keeping.unfit() == []


def test_a_kept_policy_outlives_its_publication(keeping: Node) -> None:
    keeping.publish(10, {10: 3})
    enter_local(keeping, IDENTITY)
    assert keeping.ingress() == (10, 3)
    keeping.publish(11, {11: ROOM + 1})
    gone: dict[str, Message | None] = {f"set.{10:016x}": None, "commit": COMMIT}
    assert keeping.desire.take_policy(keeping.batch(gone))
    assert keeping.ingress() == (10, 3)


def test_an_open_pod_stays_open_if_what_was_is_kept(keeping: Node) -> None:
    keeping.publish(None, {})
    enter_local(keeping, IDENTITY)
    assert keeping.ingress() == (SET_OPEN, 0)
    keeping.publish(11, {11: ROOM + 1})
    assert keeping.ingress() == (SET_OPEN, 0)
    assert keeping.unfit() == [11]


def test_a_new_pod_has_nothing_to_keep_and_is_closed(keeping: Node) -> None:
    keeping.publish(11, {11: ROOM + 1})
    enter_local(keeping, IDENTITY)
    assert keeping.ingress() == (11, 0)
    assert keeping.unfit() == [11]
