"""What the kernel is to hold while buckets are being filled, lost, or say something new of an address."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from services.datapath.kernel.layout import ENDPOINT_READY, PEER, ROW_KEY, SET_OPEN, prefix_key
from services.datapath.kernel.loader import Loaded
from shared.bus import Batch
from shared.contract.base import Direction, Identity, Message, Protocol, SetId
from shared.contract.identity import IpEntry
from shared.contract.names import ip_key
from shared.contract.policy import (
    CidrClass,
    IdentityPolicy,
    PolicyRef,
    PolicySet,
    PortRange,
    Row,
)
from shared.contract.reserved import Reserved
from tests.packet.desiring import (
    COMMIT,
    LOCAL,
    NODE,
    NODE_IP,
    POD_IP,
    REMOTE_IP,
    Kernel,
    enter_local,
    local,
    nodes,
    peer_class,
    remote,
)


@pytest.fixture
def kernel(loaded: Loaded) -> Iterator[Kernel]:
    kernel = Kernel(loaded)
    yield kernel
    kernel.close()


def test_an_address_is_entered_when_its_identity_has_a_class(kernel: Kernel) -> None:
    kernel.desire.addresses.take_ipcache(kernel.batch(remote(300), snapshot=True))
    assert kernel.address(REMOTE_IP) is None
    kernel.policy(300)
    assert kernel.address(REMOTE_IP) == (0, 300)


def test_a_pod_with_new_labels_keeps_its_identity_until_the_new_one_has_a_class(kernel: Kernel) -> None:
    kernel.policy(300)
    kernel.desire.addresses.take_ipcache(kernel.batch(remote(300), snapshot=True))
    kernel.desire.addresses.take_ipcache(kernel.batch(remote(301)))
    assert kernel.address(REMOTE_IP) == (0, 300)
    kernel.policy(301)
    assert kernel.address(REMOTE_IP) == (0, 301)


def test_an_address_that_waits_for_its_new_identity_has_the_new_classes_of_the_old_one(
    kernel: Kernel,
) -> None:
    """Sets that come into force meanwhile know only those."""
    kernel.policy(300, addresses={REMOTE_IP: (300, 7)})
    kernel.desire.addresses.take_ipcache(kernel.batch(remote(300), snapshot=True))
    kernel.desire.addresses.take_ipcache(kernel.batch(remote(301)))
    assert kernel.address(REMOTE_IP) == (7, 300)
    kernel.policy(300, addresses={REMOTE_IP: (300, 8)})
    assert kernel.address(REMOTE_IP) == (8, 300)
    kernel.policy(300, addresses={REMOTE_IP: None})
    assert kernel.address(REMOTE_IP) == (0, 300)
    kernel.policy(300, 301, addresses={REMOTE_IP: (301, 9)})
    assert kernel.address(REMOTE_IP) == (9, 301)


@pytest.mark.parametrize("before", [None, (300, 7)])
def test_an_address_has_the_class_of_its_next_identity_though_that_is_not_heard_of_yet(
    kernel: Kernel, before: tuple[int, int] | None
) -> None:
    """No row may be left that knows what it had, and its blocks are in this one alone."""
    kernel.policy(300, addresses={REMOTE_IP: before})
    kernel.desire.addresses.take_ipcache(kernel.batch(remote(300), snapshot=True))
    kernel.policy(300, 301, addresses={REMOTE_IP: (301, 9)})
    assert kernel.address(REMOTE_IP) == (9, 300)
    assert not kernel.desire.addresses.is_outdated
    kernel.desire.addresses.take_ipcache(kernel.batch(remote(301)))
    assert kernel.address(REMOTE_IP) == (9, 301)


def test_an_identity_that_is_gone_is_needed_until_its_successor_is_heard_of(kernel: Kernel) -> None:
    kernel.policy(300)
    kernel.desire.addresses.take_ipcache(kernel.batch(remote(300), snapshot=True))
    kernel.desire.addresses.take_ipcache(kernel.batch(remote(301)))
    seen = [kernel.desire.addresses.is_outdated]
    gone = IdentityPolicy(identity=Identity(300), peer_class=peer_class(300), gone=True)
    assert kernel.desire.take_policy(kernel.batch({"identity.300": gone, "commit": COMMIT}))
    assert kernel.address(REMOTE_IP) == (0, 300)
    seen.append(kernel.desire.addresses.is_outdated)
    kernel.policy(301)
    assert kernel.address(REMOTE_IP) == (0, 301)
    seen.append(kernel.desire.addresses.is_outdated)
    assert seen == [False, True, False]


def test_an_address_that_is_no_longer_the_nodes_own_is_not_let_past_policies_as_one(kernel: Kernel) -> None:
    kernel.policy(300)
    kernel.desire.addresses.set_own([REMOTE_IP])
    kernel.desire.addresses.take_ipcache(kernel.batch(remote(301), snapshot=True))
    assert kernel.address(REMOTE_IP) == (0, Reserved.HOST)
    kernel.desire.addresses.set_own([])
    assert kernel.address(REMOTE_IP) is None


def test_a_pod_does_not_begin_with_the_sets_that_its_identity_had_when_its_last_pod_went(
    kernel: Kernel,
) -> None:
    def publish(*, gone: bool) -> None:
        value = IdentityPolicy(identity=Identity(300), peer_class=peer_class(300), gone=gone)
        assert kernel.desire.take_policy(kernel.batch({"identity.300": value, "commit": COMMIT}))

    publish(gone=True)
    enter_local(kernel, 300)
    assert "policy of identity 300" in kernel.desire.readiness(LOCAL).reason
    publish(gone=False)
    assert not kernel.desire.readiness(LOCAL).reason


def test_a_pod_that_waits_for_its_new_identity_has_the_new_policies_of_the_old_one(kernel: Kernel) -> None:
    kernel.policy(300)
    enter_local(kernel, 300)
    assert kernel.endpoint() == (SET_OPEN, SET_OPEN, 17, 300, ENDPOINT_READY)
    enter_local(kernel, 301)
    selected = IdentityPolicy(identity=Identity(300), peer_class=peer_class(300), ingress=SetId(f"{7:016x}"))
    assert kernel.desire.take_policy(kernel.batch({"identity.300": selected, "commit": COMMIT}))
    assert kernel.endpoint() == (7, SET_OPEN, 17, 300, ENDPOINT_READY)


def test_a_pod_never_has_the_identity_of_the_one_whose_address_it_got(kernel: Kernel) -> None:
    kernel.policy(300)
    kernel.desire.addresses.take_ipcache(kernel.batch(remote(300), snapshot=True))
    assert kernel.address(REMOTE_IP) == (0, 300)
    kernel.desire.addresses.take_ipcache(kernel.batch(remote(301, pod="other")))
    assert kernel.address(REMOTE_IP) is None
    kernel.policy(301)
    assert kernel.address(REMOTE_IP) == (0, 301)


def test_a_restart_keeps_addresses_that_no_bucket_speaks_of_until_the_buckets_are_full(
    kernel: Kernel,
) -> None:
    kernel.policy(300)
    kernel.desire.addresses.take_nodes(kernel.batch(nodes("n1", "n2"), snapshot=True))
    kernel.desire.addresses.take_ipcache(kernel.batch(remote(300), snapshot=True))
    assert kernel.address(REMOTE_IP) == (0, 300)

    kernel.restart()
    kernel.policy(300)
    kernel.desire.addresses.take_ipcache(kernel.batch({}, snapshot=True))
    kernel.desire.addresses.take_nodes(kernel.batch({}, snapshot=True))
    kernel.desire.addresses.take_nodes(kernel.batch(nodes("n1")))
    assert kernel.address(REMOTE_IP) == (0, 300)
    assert set(kernel.state.v4.cidrs.known()) == {prefix_key("10.1.0.0/24"), prefix_key("10.2.0.0/24")}

    kernel.desire.addresses.settle()
    assert kernel.address(REMOTE_IP) is None
    assert set(kernel.state.v4.cidrs.known()) == {prefix_key("10.1.0.0/24")}


def test_a_restart_keeps_addresses_with_classes_of_their_own_when_policy_is_read_first(
    kernel: Kernel,
) -> None:
    kernel.policy(300, addresses={REMOTE_IP: (300, 7)})
    kernel.desire.addresses.take_ipcache(kernel.batch(remote(300), snapshot=True))
    assert kernel.address(REMOTE_IP) == (7, 300)
    kernel.restart()
    kernel.policy(300, addresses={REMOTE_IP: (300, 8)})
    assert kernel.address(REMOTE_IP) == (8, 300)
    kernel.restart()
    kernel.policy(300)
    assert kernel.address(REMOTE_IP) == (0, 300)
    kernel.desire.addresses.take_ipcache(kernel.batch({}, snapshot=True))
    kernel.desire.addresses.settle()
    assert kernel.address(REMOTE_IP) is None


def test_an_address_that_came_back_in_time_stays(kernel: Kernel) -> None:
    kernel.policy(300)
    kernel.desire.addresses.take_ipcache(kernel.batch(remote(300), snapshot=True))
    assert kernel.address(REMOTE_IP) == (0, 300)
    kernel.restart()
    kernel.desire.addresses.take_ipcache(kernel.batch({}, snapshot=True))
    kernel.policy(300)
    kernel.desire.addresses.take_ipcache(kernel.batch(remote(300)))
    kernel.desire.addresses.settle()
    assert kernel.address(REMOTE_IP) == (0, 300)


def test_no_prefix_is_let_go_before_any_node_is_known(kernel: Kernel) -> None:
    kernel.policy(300)
    kernel.desire.addresses.take_nodes(kernel.batch(nodes("n1"), snapshot=True))
    kernel.state.apply()
    kernel.restart()
    kernel.desire.addresses.take_nodes(kernel.batch({}, snapshot=True))
    kernel.policy(300)
    kernel.desire.addresses.settle()
    kernel.state.apply()
    assert set(kernel.state.v4.cidrs.known()) == {prefix_key("10.1.0.0/24")}


def test_an_address_of_a_pod_cidr_that_nobody_has_is_matched_by_blocks(kernel: Kernel) -> None:
    def pods() -> dict[str, tuple[int, int]]:
        held = {cidr: kernel.state.v4.cidrs.get(prefix_key(cidr)) for cidr in ("10.1.0.0/24", "10.2.0.0/24")}
        return {cidr: PEER.unpack(value) for cidr, value in held.items() if value is not None}

    def blocks(**classes: CidrClass | None) -> None:
        assert kernel.desire.take_policy(kernel.batch({**classes, "commit": COMMIT}))
        assert kernel.state.apply().problems == ()

    wide, narrow = (
        CidrClass(cidr=cidr, peer_class=peer_class(number))
        for cidr, number in (("10.0.0.0/8", 8), ("10.2.0.0/16", 16))
    )
    nobody = Reserved.UNMANAGED
    kernel.desire.addresses.take_nodes(kernel.batch(nodes("n1", "n2"), snapshot=True))
    blocks()
    assert pods() == {"10.1.0.0/24": (0, nobody), "10.2.0.0/24": (0, nobody)}
    blocks(**{"cidr.wide": wide, "cidr.narrow": narrow})
    assert pods() == {"10.1.0.0/24": (8, nobody), "10.2.0.0/24": (16, nobody)}

    kernel.restart()
    kernel.desire.addresses.take_nodes(kernel.batch(nodes("n1"), snapshot=True))
    blocks(**{"cidr.wide": wide})
    assert pods() == {"10.1.0.0/24": (8, nobody), "10.2.0.0/24": (8, nobody)}, "none is let go yet"
    kernel.desire.addresses.settle()
    blocks(**{"cidr.wide": None})
    assert pods() == {"10.1.0.0/24": (0, nobody)}


def test_a_pod_is_not_ready_while_its_own_address_is_withheld(kernel: Kernel) -> None:
    kernel.policy(300, 301, addresses={POD_IP: (300, 9)})
    enter_local(kernel, 301)
    assert "the class of address" in kernel.desire.readiness(LOCAL).reason
    endpoint = kernel.endpoint()
    assert endpoint is not None
    assert endpoint[4] == 0

    kernel.policy(300, 301, addresses={POD_IP: (301, 9)})
    assert kernel.endpoint() == (SET_OPEN, SET_OPEN, 17, 301, ENDPOINT_READY)
    assert kernel.address(POD_IP) == (9, 301)


def test_a_pod_whose_file_is_damaged_keeps_what_the_kernel_has(kernel: Kernel) -> None:
    kernel.policy(300)
    enter_local(kernel, 300)
    ready = (SET_OPEN, SET_OPEN, 17, 300, ENDPOINT_READY)
    assert kernel.endpoint() == ready

    kernel.restart()
    kernel.desire.unknown_links = {LOCAL.host_ifname: 17}
    assert kernel.endpoint() == ready
    kernel.desire.unknown_links.clear()
    assert kernel.endpoint() is None


def test_a_pod_whose_file_is_damaged_gets_new_policies_too(kernel: Kernel) -> None:
    kernel.policy(300)
    enter_local(kernel, 300)
    assert kernel.endpoint() is not None

    kernel.restart()
    kernel.desire.unknown_links = {LOCAL.host_ifname: 17}
    selected = IdentityPolicy(identity=Identity(300), peer_class=peer_class(300), ingress=SetId(f"{7:016x}"))
    assert kernel.desire.take_policy(kernel.batch({"identity.300": selected, "commit": COMMIT}))
    assert kernel.endpoint() == (7, SET_OPEN, 17, 300, ENDPOINT_READY)


def test_a_node_that_has_the_addresses_of_its_pods_does_not_take_them_for_its_own(kernel: Kernel) -> None:
    kernel.policy(300)
    kernel.desire.local[LOCAL.host_ifname] = LOCAL
    kernel.desire.addresses.set_own([NODE_IP, POD_IP])
    kernel.desire.addresses.take_ipcache(kernel.batch(local(300), snapshot=True))
    assert kernel.address(NODE_IP) == (0, Reserved.HOST)
    assert kernel.address(POD_IP) == (0, 300)


def test_an_address_that_is_deleted_and_given_anew_at_once_has_nothing_of_its_predecessor(
    kernel: Kernel,
) -> None:
    kernel.policy(300)
    kernel.desire.addresses.take_ipcache(kernel.batch(remote(300), snapshot=True))
    assert kernel.address(REMOTE_IP) == (0, 300)

    gone: dict[str, IpEntry | None] = {ip_key(REMOTE_IP): None}
    entries = (*kernel.batch(gone).entries, *kernel.batch(remote(301, pod="new")).entries)
    kernel.desire.addresses.take_ipcache(Batch(snapshot=False, entries=entries, revision=9, caught_up=True))
    assert kernel.address(REMOTE_IP) is None


def test_an_address_that_changed_hands_during_a_restart_has_nothing_of_its_predecessor(
    kernel: Kernel,
) -> None:
    kernel.policy(300)
    kernel.desire.addresses.take_ipcache(kernel.batch(remote(300), snapshot=True))
    assert kernel.address(REMOTE_IP) == (0, 300)

    kernel.restart()
    kernel.desire.addresses.take_ipcache(kernel.batch(remote(301, pod="new"), snapshot=True))
    kernel.policy(300)
    assert kernel.address(REMOTE_IP) is None
    kernel.policy(300, 301)
    assert kernel.address(REMOTE_IP) == (0, 301)


def test_an_address_that_changed_hands_during_a_restart_does_not_wait_for_a_commit_that_does_not_come(
    kernel: Kernel,
) -> None:
    kernel.policy(300)
    kernel.desire.addresses.take_ipcache(kernel.batch(remote(300), snapshot=True))
    assert kernel.address(REMOTE_IP) == (0, 300)

    kernel.restart()
    kernel.desire.addresses.take_ipcache(kernel.batch(remote(301, pod="new"), snapshot=True))
    kernel.desire.addresses.begin()
    assert kernel.address(REMOTE_IP) is None


def test_a_pod_that_got_new_labels_during_a_restart_is_not_cut_off_until_the_first_commit(
    kernel: Kernel,
) -> None:
    kernel.policy(300)
    kernel.desire.addresses.take_ipcache(kernel.batch(remote(300), snapshot=True))
    assert kernel.address(REMOTE_IP) == (0, 300)

    kernel.restart()
    kernel.desire.addresses.take_ipcache(kernel.batch(remote(301), snapshot=True))
    assert kernel.address(REMOTE_IP) == (0, 300)
    kernel.policy(301)
    assert kernel.address(REMOTE_IP) == (0, 301)


def test_a_pod_is_not_ready_while_its_address_is_its_predecessors(kernel: Kernel) -> None:
    kernel.policy(300)
    enter_local(kernel, 300)
    former = IpEntry(ip=POD_IP, identity=Identity(300), node=NODE, namespace="shop", pod="db-former")
    kernel.desire.addresses.take_ipcache(kernel.batch({ip_key(POD_IP): former}))
    assert "not published in the ipcache" in kernel.desire.readiness(LOCAL).reason


def test_a_set_that_a_pod_leaves_has_rows_for_new_classes_until_it_has_left(kernel: Kernel) -> None:
    def publish(chosen: int, **classes: int) -> None:
        values: dict[str, Message | None] = {}
        for name, peer in classes.items():
            number = int(name.removeprefix("set"))
            values[f"set.{number:016x}"] = PolicySet(
                id=SetId(f"{number:016x}"),
                direction=Direction.INGRESS,
                policies=(),
                rules=(),
                default=Row(),
                rows={peer_class(peer): Row(rule=1)},
            )
        values["identity.300"] = IdentityPolicy(
            identity=Identity(300), peer_class=peer_class(300), ingress=SetId(f"{chosen:016x}")
        )
        assert kernel.desire.take_policy(kernel.batch({**values, "commit": COMMIT}))

    def rows() -> set[tuple[int, int]]:
        return {ROW_KEY.unpack(key)[:2] for key in kernel.state.rows.known()}

    publish(10, set10=1)
    enter_local(kernel, 300)
    assert kernel.endpoint() == (10, SET_OPEN, 17, 300, ENDPOINT_READY)
    assert rows() == {(10, 0), (10, 1)}

    # Peers flip from class 1 to 2 before the pod flips from set 10 to 11.
    publish(11, set10=2, set11=2)
    kernel.desire.want_local()
    kernel.state.rows.write()
    assert {(10, 2), (11, 2)} <= rows()
    assert kernel.desire.lingering
    assert kernel.state.apply().problems == ()

    assert kernel.endpoint() == (11, SET_OPEN, 17, 300, ENDPOINT_READY)
    assert rows() == {(11, 0), (11, 2)}
    assert not kernel.desire.lingering


def test_an_open_pod_is_closed_by_a_policy_that_does_not_fit(kernel: Kernel) -> None:
    kernel.policy(300)
    enter_local(kernel, 300)
    assert kernel.endpoint() == (SET_OPEN, SET_OPEN, 17, 300, ENDPOINT_READY)

    ranges = tuple(PortRange(protocol=Protocol.TCP, first=2 * n, last=2 * n) for n in range(600))
    large = PolicySet(
        id=SetId(f"{8:016x}"),
        direction=Direction.INGRESS,
        policies=(PolicyRef(kind="NetworkPolicy", namespace="shop", name="large"),),
        rules=(),
        default=Row(ranges=ranges),
    )
    selected = IdentityPolicy(identity=Identity(300), peer_class=peer_class(300), ingress=large.id)
    values: dict[str, Message | None] = {f"set.{large.id}": large, "identity.300": selected}
    assert kernel.desire.take_policy(kernel.batch({**values, "commit": COMMIT}))

    assert kernel.endpoint() == (8, SET_OPEN, 17, 300, ENDPOINT_READY)
    assert [each.id for each in kernel.desire.unfit_sets] == [large.id]
    assert "shop/large" in kernel.desire.unfit_sets[0].reason
