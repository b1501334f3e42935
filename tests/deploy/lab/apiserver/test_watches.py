"""Watches lose nothing, keep order, and say so when they cannot go on."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from kubernetes_asyncio import client, config, watch
from kubernetes_asyncio.client.exceptions import ApiException

from deploy.lab.apiserver import ApiServer
from tests.deploy.lab.apiserver.cluster import Http, pod, running

PODS = "/api/v1/namespaces/default/pods"
MAPS = "/api/v1/namespaces/default/configmaps"


class Stream:
    """The events of one open watch."""

    def __init__(self, response: aiohttp.ClientResponse) -> None:
        self._response = response

    async def next(self) -> tuple[str, dict[str, Any]]:
        async with asyncio.timeout(5):
            line = await self._response.content.readline()
        if not line:
            raise EOFError
        event = json.loads(line)
        return event["type"], event["object"]

    async def names(self, count: int) -> list[str]:
        events = [await self.next() for _ in range(count)]
        return [f"{kind} {item['metadata']['name']}" for kind, item in events]


@asynccontextmanager
async def watching(http: Http, path: str, **query: str) -> AsyncIterator[Stream]:
    async with http.session.get(path, params={"watch": "true", **query}) as response:
        assert response.status == 200
        yield Stream(response)


async def create_maps(http: Http, *names: str) -> list[int]:
    made = [await http.post(MAPS, {"metadata": {"name": name}}) for name in names]
    return [int(item["metadata"]["resourceVersion"]) for _, item in made]


async def test_from_a_list_on_nothing_is_missed_and_nothing_comes_twice(http: Http) -> None:
    await create_maps(http, "before")
    _, listed = await http.get(MAPS)
    await create_maps(http, "between")
    async with watching(http, MAPS, resourceVersion=listed["metadata"]["resourceVersion"]) as stream:
        await create_maps(http, "after")
        await http.patch(f"{MAPS}/after", {"data": {"a": "b"}}, "merge")
        await http.delete(f"{MAPS}/before")
        expected = ["ADDED between", "ADDED after", "MODIFIED after", "DELETED before"]
        assert await stream.names(4) == expected


async def test_many_writers_are_seen_in_order_without_loss(http: Http) -> None:
    async with watching(http, MAPS, resourceVersion="0") as stream:
        revisions = await asyncio.gather(
            *(create_maps(http, *(f"m{writer}-{n}" for n in range(40))) for writer in range(5))
        )
        seen = [int((await stream.next())[1]["metadata"]["resourceVersion"]) for _ in range(200)]
    assert seen == sorted(r for mine in revisions for r in mine)


async def test_selected_objects_enter_and_leave(http: Http) -> None:
    await http.post(PODS, pod("a", labels={"tier": "x"}))
    async with watching(http, PODS, labelSelector="tier=x", fieldSelector="status.phase=Pending") as stream:
        await http.post(PODS, pod("b", labels={"tier": "y"}))
        await http.patch(f"{PODS}/b", {"metadata": {"labels": {"tier": "x"}}}, "merge")
        await http.patch(f"{PODS}/a/status", {"status": {"phase": "Running"}}, "merge")
        await http.delete(f"{PODS}/b")
        assert await stream.names(4) == ["ADDED a", "ADDED b", "DELETED a", "DELETED b"]


async def test_streaming_list_ends_with_its_bookmark(http: Http) -> None:
    await create_maps(http, "a", "b")
    query = {
        "sendInitialEvents": "true",
        "resourceVersionMatch": "NotOlderThan",
        "allowWatchBookmarks": "true",
    }
    async with watching(http, MAPS, **query) as stream:
        assert await stream.names(2) == ["ADDED a", "ADDED b"]
        kind, bookmark = await stream.next()
        assert (kind, bookmark["metadata"]["annotations"]) == (
            "BOOKMARK",
            {"k8s.io/initial-events-end": "true"},
        )
        await create_maps(http, "c")
        assert await stream.names(1) == ["ADDED c"]


async def test_a_stream_ends_when_its_time_is_over(http: Http) -> None:
    async with watching(http, MAPS, timeoutSeconds="1", allowWatchBookmarks="true") as stream:
        kind, bookmark = await stream.next()
        assert kind == "BOOKMARK"
        _, listed = await http.get(MAPS)
        assert bookmark["metadata"]["resourceVersion"] == listed["metadata"]["resourceVersion"]
        with pytest.raises(EOFError):
            await stream.next()


@pytest.fixture
def server() -> ApiServer:
    return ApiServer(event_log=5)


async def test_a_start_older_than_the_log_is_410(http: Http, server: ApiServer) -> None:
    revisions = await create_maps(http, *"abcdefg")
    async with watching(http, MAPS, resourceVersion=str(revisions[0])) as stream:
        kind, status = await stream.next()
        assert (kind, status["code"], status["reason"]) == ("ERROR", 410, "Expired")
    async with watching(http, MAPS, resourceVersion=str(revisions[1])) as stream:
        assert await stream.names(5) == [f"ADDED {name}" for name in "cdefg"]
    server.compact()
    async with watching(http, MAPS, resourceVersion=str(revisions[-2])) as stream:
        assert (await stream.next())[1]["code"] == 410
    async with watching(http, MAPS, resourceVersion=str(revisions[-1])) as stream:
        await create_maps(http, "h")
        assert await stream.names(1) == ["ADDED h"]


async def test_a_start_from_the_future_is_refused(http: Http) -> None:
    future = str((await create_maps(http, "a"))[0] + 1000)
    async with watching(http, MAPS, resourceVersion=future) as stream:
        kind, status = await stream.next()
        assert (kind, status["code"]) == ("ERROR", 504)
    assert (await http.get(MAPS, resourceVersion=future))[0] == 504


async def test_a_page_older_than_the_log_is_410(http: Http, server: ApiServer) -> None:
    await create_maps(http, *"abc")
    _, page = await http.get(MAPS, limit="1")
    await create_maps(http, "d")
    server.compact()
    code, status = await http.get(MAPS, limit="1", **{"continue": page["metadata"]["continue"]})
    assert (code, status["reason"]) == (410, "Expired")


@pytest.mark.parametrize("abrupt", [False, True])
async def test_dropped_watches_can_be_resumed(http: Http, server: ApiServer, abrupt: bool) -> None:
    async with watching(http, MAPS, resourceVersion="0") as stream:
        [first, _] = await create_maps(http, "a", "b")
        assert await stream.names(2) == ["ADDED a", "ADDED b"]
        assert server.drop_watches(abrupt=abrupt) == 1
        with pytest.raises((EOFError, aiohttp.ClientError)):
            await stream.next()
    async with watching(http, MAPS, resourceVersion=str(first)) as stream:
        assert await stream.names(1) == ["ADDED b"]


async def test_a_reader_that_stands_still_is_cut_off_and_writers_never_wait() -> None:
    server = ApiServer(watch_queue=50)
    async with running(server) as http:
        address = server.address
        reader, writer = await asyncio.open_connection(address.host, address.port)
        request = (
            f"GET {MAPS}?watch=true HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer {address.token}\r\n\r\n"
        )
        writer.write(request.encode())
        await reader.readuntil(b"\r\n\r\n")
        blob = "x" * 200_000
        await http.post(MAPS, {"metadata": {"name": "big"}})
        for index in range(150):
            async with asyncio.timeout(1):
                code, _ = await http.patch(f"{MAPS}/big", {"data": {"blob": f"{index}{blob}"}}, "merge")
            assert code == 200
        assert server.drop_watches() == 0
        received = await reader.read()
        assert not received.endswith(b"0\r\n\r\n"), "the stream was ended properly, not cut"
        writer.close()


async def follow(connection: client.ApiClient, revision: str) -> list[tuple[str, str]]:
    """What a kubernetes-asyncio watch of config maps sees from ``revision`` on, within a second."""
    core = client.CoreV1Api(connection)
    options = {"resource_version": revision, "timeout_seconds": 1}
    async with watch.Watch() as stream:
        events = stream.stream(core.list_namespaced_config_map, "default", **options)
        return [(event["type"], event["object"].metadata.name) async for event in events]


async def test_kubernetes_asyncio_lists_watches_and_meets_410(
    http: Http, server: ApiServer, tmp_path: Path
) -> None:
    path = tmp_path / "kubeconfig"
    path.write_text(server.kubeconfig())
    await config.load_kube_config(str(path))
    async with client.ApiClient() as connection:
        core = client.CoreV1Api(connection)
        first = await core.create_namespaced_config_map(
            "default", client.V1ConfigMap(metadata=client.V1ObjectMeta(name="a"), data={"k": "v"})
        )
        listed = await core.list_namespaced_config_map("default")
        assert [item.metadata.name for item in listed.items] == ["a"]
        await create_maps(http, "b", "c")
        first_revision = first.metadata.resource_version
        assert await follow(connection, first_revision) == [("ADDED", "b"), ("ADDED", "c")]
        await create_maps(http, *"defghijk")
        with pytest.raises(ApiException) as refused:
            await follow(connection, first_revision)
        assert refused.value.status == 410
        first.data = {"k": "other"}
        await core.replace_namespaced_config_map("a", "default", first)
        with pytest.raises(ApiException) as refused:
            await core.replace_namespaced_config_map("a", "default", first)
        assert refused.value.status == 409
