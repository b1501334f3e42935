"""Single requests, and credentials."""

from __future__ import annotations

from pathlib import Path

import pytest

from deploy.lab.apiserver.server import ApiServer
from shared.kubernetes import (
    NAMESPACES,
    NODES,
    PODS,
    ApiError,
    Conflict,
    Kubernetes,
    NoCredentials,
    NotFound,
    Unreachable,
    connect,
)
from tests.shared.kubernetes.scripted import Scripted, scripted_api
from tests.waiting import free_port


def namespace(name: str) -> dict[str, object]:
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}}


async def test_create_get_patch_delete(api: Kubernetes) -> None:
    await api.create(NAMESPACES, namespace("a"))
    await api.patch(NAMESPACES, {"metadata": {"labels": {"x": "y"}}}, name="a")
    found = await api.get(NAMESPACES, name="a")
    assert found["metadata"]["labels"]["x"] == "y"
    with pytest.raises(Conflict):
        await api.create(NAMESPACES, namespace("a"))
    with pytest.raises(NotFound, match="namespaces/b"):
        await api.get(NAMESPACES, name="b")


async def test_a_status_is_merged_without_touching_the_rest(api: Kubernetes) -> None:
    await api.create(
        NODES, {"metadata": {"name": "n", "labels": {"a": "b"}}, "spec": {"podCIDR": "10.0.0.0/24"}}
    )
    await api.patch_status(NODES, {"nodeInfo": {"kubeletVersion": "v1"}}, name="n")
    found = await api.get(NODES, name="n")
    assert found["status"]["nodeInfo"]["kubeletVersion"] == "v1"
    assert found["spec"]["podCIDR"] == "10.0.0.0/24"


async def test_the_url_is_shown_without_the_password(server: ApiServer, api: Kubernetes) -> None:
    assert api.url == server.address.url
    assert server.address.token not in api.url


async def test_a_server_that_is_not_there_is_unreachable(server: ApiServer, api: Kubernetes) -> None:
    await server.stop()
    with pytest.raises(Unreachable, match="GET /api/v1/namespaces/a"):
        await api.get(NAMESPACES, name="a")


@pytest.mark.parametrize("text", [None, "", "clusters: [", "kind: Config\n", "[]"])
async def test_a_kubeconfig_that_cannot_be_used_is_named(tmp_path: Path, text: str | None) -> None:
    file = tmp_path / "kubeconfig"
    if text is not None:
        file.write_text(text)
    with pytest.raises(NoCredentials, match=str(file)):
        await connect(kubeconfig=str(file))


async def test_a_token_that_expired_is_read_again(tmp_path: Path) -> None:
    server = Scripted()
    server.token = "first"
    async with scripted_api(server, tmp_path, token="first") as (api, write_token):
        await api.request("GET", PODS.path())
        server.token = "second"
        with pytest.raises(ApiError) as refused:
            await api.request("GET", PODS.path())
        assert refused.value.status == 401
        write_token("second")
        await api.request("GET", PODS.path())


async def test_no_answer_within_reason_is_unreachable(tmp_path: Path) -> None:
    file = tmp_path / "kubeconfig"
    file.write_text(
        f"{{clusters: [{{name: c, cluster: {{server: 'http://127.0.0.1:{free_port()}'}}}}], "
        "contexts: [{name: c, context: {cluster: c, user: ''}}], current-context: c}"
    )
    api = await connect(kubeconfig=str(file))
    with pytest.raises(Unreachable):
        await api.get(PODS, namespace="a", name="b")
    await api.close()
