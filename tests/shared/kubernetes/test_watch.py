"""List and watch: every object, every change, once, whatever the server does."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest

from deploy.lab.apiserver.server import ApiServer
from shared.kubernetes import (
    NAMESPACES,
    PODS,
    Kubernetes,
    ObjectBatch,
    watch,
)
from tests.shared.kubernetes.scripted import Scripted, line, pod, pods_list, scripted_api
from tests.waiting import PATIENCE_SECONDS, eventually


class Reader:
    """Watches in a task and keeps what it was given."""

    def __init__(self, batches: AsyncGenerator[ObjectBatch, None]) -> None:
        self.batches: list[ObjectBatch] = []
        self.state: dict[str, dict[str, Any]] = {}
        self._source = batches

    async def run(self) -> None:
        async with aclosing(self._source) as source:
            async for batch in source:
                if batch.snapshot:
                    self.state.clear()
                for change in batch.objects:
                    if change.object is None:
                        self.state.pop(change.name, None)
                    else:
                        self.state[change.name] = change.object
                self.batches.append(batch)

    @property
    def snapshots(self) -> int:
        return sum(batch.snapshot for batch in self.batches)

    @property
    def changes(self) -> list[tuple[str, str]]:
        """Name and resourceVersion of each change outside snapshots."""
        return [
            (change.name, change.resource_version)
            for batch in self.batches
            if not batch.snapshot
            for change in batch.objects
        ]


@asynccontextmanager
async def reading(batches: AsyncGenerator[ObjectBatch, None]) -> AsyncIterator[Reader]:
    reader = Reader(batches)
    task = asyncio.create_task(reader.run())
    try:
        yield reader
        assert not task.done(), task
    finally:
        task.cancel()
        await asyncio.wait([task])


async def make(api: Kubernetes, name: str) -> None:
    await api.create(NAMESPACES, {"metadata": {"name": name}})


async def test_first_the_list_then_each_change(api: Kubernetes) -> None:
    async with aclosing(watch(api, NAMESPACES)) as batches:
        first = await anext(batches)
        assert first.snapshot
        assert {change.name for change in first.objects} >= {"default", "kube-system"}
        await make(api, "a")
        second = await anext(batches)
        (change,) = second.objects
        assert not second.snapshot
        assert (change.name, change.namespace) == ("a", "")
        assert change.object is not None
        assert change.object["metadata"]["resourceVersion"] == change.resource_version


async def test_a_deletion_is_an_object_of_none(api: Kubernetes) -> None:
    await make(api, "ns")
    body = {"metadata": {"name": "p"}, "spec": {"containers": [{"name": "c", "image": "i"}]}}
    await api.create(PODS, body, namespace="ns")
    async with reading(watch(api, PODS)) as reader:
        await eventually(lambda: "p" in reader.state)
        await api.delete(PODS, namespace="ns", name="p")
        await eventually(lambda: reader.batches[-1].objects[-1].object is None)
        assert (reader.batches[-1].objects[-1].namespace, reader.state) == ("ns", {})


async def test_large_lists_come_as_one_snapshot(api: Kubernetes) -> None:
    for number in range(1100):
        await make(api, f"n{number}")
    batch = await anext(watch(api, NAMESPACES))
    assert len({change.name for change in batch.objects}) == len(batch.objects) == 1104


@pytest.mark.parametrize("abrupt", [False, True])
async def test_dropped_watches_lose_and_double_nothing(
    server: ApiServer, api: Kubernetes, abrupt: bool
) -> None:
    async with reading(watch(api, NAMESPACES)) as reader:
        await eventually(lambda: reader.snapshots)
        for number in range(60):
            await make(api, f"n{number}")
            if number % 20 == 10:
                server.drop_watches(abrupt=abrupt)
        await eventually(lambda: len(reader.state) == 64)
        assert reader.snapshots == 1
        assert [name for name, _ in reader.changes] == [f"n{number}" for number in range(60)]


async def test_after_410_there_is_a_new_snapshot(server: ApiServer, api: Kubernetes) -> None:
    await make(api, "gone")
    async with reading(watch(api, NAMESPACES)) as reader:
        await eventually(lambda: reader.snapshots)
        address = server.address
        await server.stop()
        server.compact()
        await server.start(port=address.port)
        await make(api, "new")
        await eventually(lambda: "new" in reader.state)


async def test_an_api_server_that_was_away_is_found_again(server: ApiServer, api: Kubernetes) -> None:
    problems: list[str] = []
    async with reading(watch(api, NAMESPACES, on_problem=problems.append)) as reader:
        await eventually(lambda: reader.snapshots)
        port = server.address.port
        await server.stop()
        await eventually(lambda: problems and problems[-1])
        await server.start(port=port)
        await make(api, "new")
        await eventually(lambda: "new" in reader.state)
        assert problems[-1] == ""
        assert "namespaces" in next(problem for problem in problems if problem)


async def test_a_404_withdraws_nothing(tmp_path: Path) -> None:
    problems: list[str] = []
    server = Scripted(lists=[404, LIST, LIST], watches=[410, 404, [None]])
    async with (
        scripted_api(server, tmp_path) as (api, _),
        reading(watch(api, PODS, on_problem=problems.append)) as reader,
    ):
        await eventually(lambda: len(server.watched_from) == 3)
        assert [len(batch.objects) for batch in reader.batches] == [2, 2]
        assert any("404" in problem for problem in problems)
        assert problems[-1] == ""


LIST = pods_list(10, pod("a", 3), pod("b", 9))


@pytest.mark.parametrize(
    "refusal",
    [410, [line("ERROR", {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"})]],
)
async def test_both_forms_of_gone_list_again(tmp_path: Path, refusal: Any) -> None:
    again = pods_list(20, pod("c", 20))
    server = Scripted(lists=[LIST, again], watches=[refusal])
    async with scripted_api(server, tmp_path) as (api, _), reading(watch(api, PODS)) as reader:
        await eventually(lambda: set(reader.state) == {"c"})
        assert reader.snapshots == 2
        await eventually(lambda: server.watched_from == ["10", "20"])


async def test_bookmarks_move_the_place_from_which_a_watch_goes_on(tmp_path: Path) -> None:
    server = Scripted(lists=[LIST], watches=[[line("BOOKMARK", pod("", 55))], [None]])
    async with scripted_api(server, tmp_path) as (api, _), reading(watch(api, PODS)) as reader:
        await eventually(lambda: server.watched_from == ["10", "55"])
        assert len(reader.batches) == 1
        assert all(query["allowWatchBookmarks"] == "true" for query in server.asked if "watch" in query)


async def test_events_that_come_again_are_skipped(tmp_path: Path) -> None:
    watches = [
        [line("MODIFIED", pod("a", 11)), line("DELETED", pod("b", 12)), line("ADDED", pod("c", 13))],
        [
            line("ADDED", pod("a", 3)),
            line("ADDED", pod("b", 9)),
            line("MODIFIED", pod("a", 11)),
            line("DELETED", pod("b", 12)),
            line("ADDED", pod("c", 13)),
            line("MODIFIED", pod("a", 14)),
            None,
        ],
    ]
    server = Scripted(lists=[LIST], watches=watches)
    async with scripted_api(server, tmp_path) as (api, _), reading(watch(api, PODS)) as reader:
        await eventually(lambda: ("a", "14") in reader.changes)
        assert reader.changes == [("a", "11"), ("b", "12"), ("c", "13"), ("a", "14")]
        assert server.watched_from == ["10", "13"]


async def test_a_deletion_is_believed_even_if_its_version_is_that_of_the_last_change(tmp_path: Path) -> None:
    server = Scripted(lists=[LIST], watches=[[line("DELETED", pod("a", 3)), None]])
    async with scripted_api(server, tmp_path) as (api, _), reading(watch(api, PODS)) as reader:
        await eventually(lambda: set(reader.state) == {"b"})


async def test_lines_that_come_in_pieces_and_large_ones_are_whole(tmp_path: Path) -> None:
    large = line("ADDED", pod("large", 11, text="ü" * 1_500_000))
    pieces = [large[at : at + 100_001] for at in range(0, len(large), 100_001)]
    small = line("ADDED", pod("x", 12)) + line("ADDED", pod("y", 13))
    server = Scripted(lists=[LIST], watches=[[*pieces, small[:30], small[30:], None]])
    async with scripted_api(server, tmp_path) as (api, _), reading(watch(api, PODS)) as reader:
        await eventually(lambda: "y" in reader.state)
        assert len(reader.state["large"]["text"]) == 1_500_000


@pytest.mark.parametrize(
    "bad",
    [
        b"{not json}\n",
        b'{"type": 1}\n',
        b'{"type": "ADDED", "object": {"metadata": 5}}\n',
        b'{"type": "ADDED", "object": {}}\n',
        line("ERROR", {"kind": "Status", "code": 500, "message": "etcd"}),
        line("ERROR", {}),
        500,
        429,
        403,
    ],
)
async def test_any_other_failure_goes_on_from_where_it_was(tmp_path: Path, bad: Any) -> None:
    first: Any = (
        bad if isinstance(bad, int) else [line("ADDED", pod("x", 11)) + bad + line("ADDED", pod("y", 12))]
    )
    rest = [line("ADDED", pod("x", 11)), line("ADDED", pod("y", 12)), None]
    server = Scripted(lists=[LIST], watches=[first, rest])
    async with scripted_api(server, tmp_path) as (api, _), reading(watch(api, PODS)) as reader:
        await eventually(lambda: ("y", "12") in reader.changes)
        assert reader.changes == [("x", "11"), ("y", "12")]
        assert reader.snapshots == 1
        assert server.watched_from == ["10", "10" if isinstance(bad, int) else "11"]


@pytest.mark.parametrize(
    "bad",
    [
        500,
        403,
        404,
        410,
        [],
        {"items": []},
        {"kind": "PodList", "metadata": {"resourceVersion": "1"}, "items": 5},
        {"kind": "PodList", "metadata": {}, "items": []},
        {"kind": "Status", "metadata": {"resourceVersion": "1"}, "status": "Success"},
        pods_list(1, kind="NodeList"),
    ],
)
async def test_a_list_that_fails_is_tried_again(tmp_path: Path, bad: Any) -> None:
    server = Scripted(lists=[bad, LIST])
    async with scripted_api(server, tmp_path) as (api, _), reading(watch(api, PODS)) as reader:
        await eventually(lambda: set(reader.state) == {"a", "b"})
        assert reader.snapshots == 1


async def test_a_list_whose_continue_token_expired_begins_anew(tmp_path: Path) -> None:
    page = pods_list(10, pod("old", 1), more="more")
    server = Scripted(lists=[page, 410, LIST])
    async with scripted_api(server, tmp_path) as (api, _), reading(watch(api, PODS)) as reader:
        await eventually(lambda: reader.batches)
        assert set(reader.state) == {"a", "b"}
        lists = [query.get("continue") for query in server.asked if "watch" not in query]
        assert lists == [None, "more", None]


async def test_selectors_and_namespace_are_sent(tmp_path: Path) -> None:
    server = Scripted(lists=[LIST])
    async with scripted_api(server, tmp_path) as (api, _):
        batches = watch(api, PODS, namespace="ns", label_selector="a=b", field_selector="spec.nodeName=n")
        async with reading(batches) as reader:
            await eventually(lambda: reader.batches and server.watched_from)
    assert all(
        (query["labelSelector"], query["fieldSelector"]) == ("a=b", "spec.nodeName=n")
        for query in server.asked
    )


async def test_a_cancelled_watch_ends_at_once(api: Kubernetes) -> None:
    async with reading(watch(api, NAMESPACES)) as reader:
        await eventually(lambda: reader.snapshots)
    async with asyncio.timeout(PATIENCE_SECONDS):
        await api.get(NAMESPACES, name="default")
