"""Which policy sets' rows a node's kernel holds, on real maps: those of its own endpoints' sets."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing

import pytest

from services.datapath.kernel.layout import ROW_KEY, ROW_SIZE
from services.datapath.kernel.loader import Loaded
from services.datapath.kernel.maps import KernelMap
from services.datapath.kernel.state import KernelState
from services.datapath.setrows import SetRows, WhenFull
from shared.contract.base import ClassId, Direction, Protocol, SetId
from shared.contract.policy import PolicyRef, PolicySet, PortRange, Row


class Kernel:
    """Real rows, and what is published; :meth:`restart` is another process that finds both."""

    def __init__(self, loaded: Loaded) -> None:
        self._loaded = loaded
        self.published: dict[int, PolicySet] = {}
        self.when_full = WhenFull.CLOSED
        self._start()
        self.state.rows.want_exactly({})
        self.state.apply()

    def restart(self) -> None:
        self.close()
        self._start()

    def close(self) -> None:
        self.state.close()

    def in_kernel(self) -> KernelMap:
        """The map itself; to be closed."""
        path = self._loaded.maps / "policy_rows"
        return KernelMap("policy_rows", path=path, key_size=ROW_KEY.size, value_size=ROW_SIZE)

    def _start(self) -> None:
        self.state = KernelState(self._loaded.maps)
        self.rows = SetRows(self.state.rows, published=self.published.get, when_full=self.when_full)

    def holds(self, used: set[int]) -> set[tuple[int, int]]:
        """Set and class of the rows that the kernel holds once these sets are used."""
        self.rows.choose(used, asked=set())
        self.rows.want(used, asked=set())
        assert self.state.apply().problems == ()
        with closing(self.in_kernel()) as rows:
            return {ROW_KEY.unpack(key)[:2] for key, _ in rows.items()}

    def publish(self, number: int, *classes: int, ranges: int = 0) -> None:
        tcp = tuple(PortRange(protocol=Protocol.TCP, first=2 * n, last=2 * n) for n in range(ranges))
        self.published[number] = PolicySet(
            id=SetId(f"{number:016x}"),
            direction=Direction.INGRESS,
            policies=(PolicyRef(kind="NetworkPolicy", namespace="shop", name=f"policy-{number}"),),
            rules=(),
            default=Row(ranges=tcp),
            rows={ClassId(f"{each:016x}"): Row() for each in classes},
        )


@pytest.fixture
def kernel(loaded: Loaded) -> Iterator[Kernel]:
    kernel = Kernel(loaded)
    yield kernel
    kernel.close()


@pytest.mark.parametrize(("old", "new"), [(10, 5), (10, 15)])
def test_a_set_that_the_kernel_has_grows_before_another_comes(small: Loaded, old: int, new: int) -> None:
    with closing(Kernel(small)) as kernel:
        kernel.publish(old, 1, 2)
        assert kernel.holds({old}) == {(old, 0), (old, 1), (old, 2)}
        kernel.publish(new, 1, 2, 3, 4)
        kernel.publish(old, 1, 2, 3)
        assert kernel.holds({old, new}) == {(old, 0), (old, 1), (old, 2), (old, 3)}
        assert set(kernel.rows.unfit) == {new}


def test_only_the_sets_of_local_endpoints_have_rows(kernel: Kernel) -> None:
    kernel.publish(10, 1, 2)
    kernel.publish(11, 1)
    assert kernel.holds({10}) == {(10, 0), (10, 1), (10, 2)}
    assert kernel.holds({11}) == {(11, 0), (11, 1)}
    assert kernel.holds(set()) == set()


def test_a_set_that_is_published_anew_loses_the_rows_that_it_lost(kernel: Kernel) -> None:
    kernel.publish(10, 1, 2)
    assert kernel.holds({10}) == {(10, 0), (10, 1), (10, 2)}
    kernel.publish(10, 2, 3)
    assert kernel.holds({10}) == {(10, 0), (10, 2), (10, 3)}


def test_a_set_that_is_in_use_but_not_published_any_more_keeps_its_rows(kernel: Kernel) -> None:
    kernel.publish(10, 1)
    assert kernel.holds({10}) == {(10, 0), (10, 1)}
    del kernel.published[10]
    assert kernel.holds({10}) == {(10, 0), (10, 1)}
    kernel.restart()
    assert kernel.holds({10}) == {(10, 0), (10, 1)}
    kernel.publish(10, 2)
    assert kernel.holds({10}) == {(10, 0), (10, 2)}


def test_a_new_process_lets_go_of_what_is_not_used_and_mends_what_is(kernel: Kernel) -> None:
    kernel.publish(10, 1)
    kernel.publish(11, 1)
    kernel.holds({10, 11})
    kernel.restart()
    kernel.publish(10, 2)
    assert kernel.holds({10}) == {(10, 0), (10, 2)}


def test_a_new_process_takes_away_the_rows_of_a_set_that_was_unpublished_and_goes_out_of_use(
    kernel: Kernel,
) -> None:
    kernel.publish(10, 1)
    kernel.holds({10})
    del kernel.published[10]
    kernel.restart()
    assert kernel.holds({10}) == {(10, 0), (10, 1)}
    assert kernel.holds(set()) == set()


def test_only_a_set_in_use_is_a_problem_when_it_does_not_fit(kernel: Kernel) -> None:
    kernel.publish(10, ranges=600)
    kernel.holds(set())
    assert kernel.rows.unfit == {}
    assert kernel.holds({10}) == {(10, 0)}
    assert "600 port ranges" in kernel.rows.unfit[10].reason
    assert [ref.name for ref in kernel.rows.unfit[10].policies] == ["policy-10"]
    kernel.holds(set())
    assert kernel.rows.unfit == {}


def test_rows_that_drifted_are_mended_to_what_is_used(kernel: Kernel) -> None:
    kernel.publish(10, 1)
    kernel.holds({10})
    lost, foreign = ROW_KEY.pack(10, 1, 0), ROW_KEY.pack(12, 1, 0)
    with closing(kernel.in_kernel()) as rows:
        rows.delete(lost)
        rows.put(foreign, bytes(ROW_SIZE))
    assert kernel.state.repair(kernel.state.drift()) == 2
    assert kernel.holds({10}) == {(10, 0), (10, 1)}
