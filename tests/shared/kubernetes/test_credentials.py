"""Credentials that change while a service runs."""

from __future__ import annotations

import asyncio
import json
import ssl
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from shared.kubernetes import PODS, ApiError, Kubernetes, Unreachable, connect, watch
from shared.kubernetes.access import Access, load_access
from tests.shared.kubernetes.scripted import Scripted, line, pod, pods_list, scripted_api
from tests.shared.kubernetes.test_watch import reading
from tests.waiting import eventually, free_port


class Strict(Scripted):
    """Nobody is somebody without rights here, and a token is good for one watch."""

    async def answer(self, request: web.Request) -> web.StreamResponse:
        if "Authorization" not in request.headers:
            return web.json_response({"kind": "Status", "reason": "Forbidden"}, status=403)
        response = await super().answer(request)
        if "watch" in request.query:
            self.token = "second"
        return response


@pytest.mark.parametrize("content", [None, "", "users: [", '{"clusters": []}', "nobody"])
async def test_a_watch_outlives_a_kubeconfig_that_cannot_be_used_for_a_while(
    tmp_path: Path, content: str | None
) -> None:
    problems: list[str] = []
    watches = [[line("ADDED", pod("a", 2))], [line("ADDED", pod("b", 3)), None]]
    server = Strict(lists=[pods_list(1)], watches=watches, token="first")
    async with scripted_api(server, tmp_path, token="first") as (api, write_token):
        kubeconfig = tmp_path / "kubeconfig"
        if content == "nobody":
            write_token("")
        elif content is None:
            kubeconfig.unlink()
        else:
            kubeconfig.write_text(content)
        async with reading(watch(api, PODS, on_problem=problems.append)) as reader:
            await eventually(lambda: problems and "401" in problems[-1] and str(kubeconfig) in problems[-1])
            assert set(reader.state) == {"a"}
            write_token("second")
            await eventually(lambda: "b" in reader.state)
            assert problems[-1] == ""
            assert reader.snapshots == 1


async def test_a_program_that_fails_to_fetch_credentials_is_named_and_asked_again(tmp_path: Path) -> None:
    server = Scripted(token="fetched")
    async with scripted_api(server, tmp_path, token="expired") as (api, _):
        kubeconfig, fetched = tmp_path / "kubeconfig", tmp_path / "fetched"
        program = {"apiVersion": "client.authentication.k8s.io/v1", "command": "cat", "args": [str(fetched)]}
        whole = json.loads(kubeconfig.read_text())
        whole["users"][0]["user"] = {"exec": program}
        kubeconfig.write_text(json.dumps(whole))
        with pytest.raises(ApiError, match=r"401 .*cat: .*fetched"):
            await api.request("GET", PODS.path())
        status = {"status": {"token": "fetched"}}
        fetched.write_text(
            json.dumps({**status, "apiVersion": program["apiVersion"], "kind": "ExecCredential"})
        )
        await api.request("GET", PODS.path())


async def test_many_requests_load_new_credentials_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loaded = 0

    async def load(kubeconfig: str | None) -> Access:
        nonlocal loaded
        loaded += 1
        return await load_access(kubeconfig)

    server = Scripted(token="first")
    async with scripted_api(server, tmp_path, token="first") as (api, write_token):
        monkeypatch.setattr("shared.kubernetes.api.load_access", load)
        write_token("second")
        server.token = "second"
        await asyncio.gather(*(api.request("GET", PODS.path()) for _ in range(10)))
    assert loaded == 1


class Gated(Scripted):
    """A watch says the second thing when it is told to."""

    def __init__(self, **script: Any) -> None:
        super().__init__(**script)
        self.gate = asyncio.Event()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        if "watch" not in request.query:
            return await super().answer(request)
        self.asked.append(dict(request.query))
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(line("ADDED", pod("a", 2)))
        await self.gate.wait()
        await response.write(line("ADDED", pod("b", 3)))
        await asyncio.Event().wait()
        return response


async def test_what_is_being_read_is_not_cut_by_new_credentials(tmp_path: Path) -> None:
    server = Gated(lists=[pods_list(1)], token="first")
    async with (
        scripted_api(server, tmp_path, token="first") as (api, write_token),
        reading(watch(api, PODS)) as reader,
    ):
        await eventually(lambda: "a" in reader.state)
        write_token("second")
        server.token = "second"
        await api.request("GET", PODS.path())
        server.gate.set()
        await eventually(lambda: "b" in reader.state)
        assert len(server.watched_from) == 1


# ---- certificates


class Authority:
    """A certificate authority in a directory, by openssl."""

    def __init__(self, directory: Path, *, name: str = "ca") -> None:
        self.directory = directory
        self.certificate = directory / f"{name}.crt"
        self._key = directory / f"{name}.key"
        self._make(name, self.certificate, self._key, "-addext", "keyUsage=critical,keyCertSign,cRLSign")

    def issue(self, name: str) -> tuple[Path, Path]:
        """Certificate and key of a server at 127.0.0.1, or of a client."""
        certificate, key = self.directory / f"{name}.crt", self.directory / f"{name}.key"
        more = ("-addext", "subjectAltName=IP:127.0.0.1", "-addext", "basicConstraints=critical,CA:FALSE")
        self._make(name, certificate, key, *more, "-CA", str(self.certificate), "-CAkey", str(self._key))
        return certificate, key

    def _make(self, name: str, certificate: Path, key: Path, *more: str) -> None:
        new = ("openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")
        files = ("-out", str(certificate), "-keyout", str(key))
        subprocess.run([*new, "-subj", f"/CN={name}", *files, *more], check=True, capture_output=True)


class Tls:
    """An API server that takes the client certificate of one name only, and answers others with 401."""

    def __init__(self, directory: Path, authority: Authority) -> None:
        self.port = free_port()
        self.takes = ""
        self.kubeconfig = directory / "kubeconfig"
        self.authority = authority
        self._runner: web.AppRunner | None = None

    def write(self, client: str) -> None:
        """The kubeconfig with a client's new certificate."""
        certificate, key = self.authority.issue(client)
        cluster = {
            "server": f"https://127.0.0.1:{self.port}",
            "certificate-authority": str(self.authority.certificate),
        }
        user = {"client-certificate": str(certificate), "client-key": str(key)}
        whole = {
            "clusters": [{"name": "c", "cluster": cluster}],
            "users": [{"name": "u", "user": user}],
            "contexts": [{"name": "c", "context": {"cluster": "c", "user": "u"}}],
            "current-context": "c",
        }
        self.kubeconfig.write_text(json.dumps(whole))

    async def start(self) -> None:
        context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH, cafile=self.authority.certificate)
        context.load_cert_chain(*self.authority.issue("server"))
        context.verify_mode = ssl.CERT_OPTIONAL
        application = web.Application()
        application.router.add_get("/{path:.*}", self._answer)
        self._runner = web.AppRunner(application, shutdown_timeout=0.1)
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", self.port, ssl_context=context).start()

    async def stop(self) -> None:
        assert self._runner is not None
        await self._runner.cleanup()

    async def _answer(self, request: web.Request) -> web.Response:
        assert request.transport is not None
        presented = request.transport.get_extra_info("peercert")
        names = [value for part in presented["subject"] for name, value in part if name == "commonName"]
        return web.json_response(pods_list(1), status=200 if names == [self.takes] else 401)


@asynccontextmanager
async def tls_api(directory: Path) -> AsyncIterator[tuple[Kubernetes, Tls]]:
    server = Tls(directory, Authority(directory))
    server.write("first")
    server.takes = "first"
    await server.start()
    api = await connect(kubeconfig=str(server.kubeconfig))
    try:
        yield api, server
    finally:
        await api.close()
        await server.stop()


async def test_a_renewed_client_certificate_is_presented(tmp_path: Path) -> None:
    async with tls_api(tmp_path) as (api, server):
        await api.request("GET", PODS.path())
        server.takes = "second"
        with pytest.raises(ApiError, match="401"):
            await api.request("GET", PODS.path())
        server.write("second")
        await api.request("GET", PODS.path())


async def test_a_certificate_that_is_half_written_is_waited_for(tmp_path: Path) -> None:
    async with tls_api(tmp_path) as (api, server):
        server.takes = "second"
        server.write("second")
        certificate = tmp_path / "second.crt"
        whole = certificate.read_text()
        certificate.write_text(whole[:100])
        with pytest.raises(ApiError, match="401"):
            await api.request("GET", PODS.path())
        certificate.write_text(whole)
        await api.request("GET", PODS.path())


async def test_another_authority_of_the_server_is_loaded(tmp_path: Path) -> None:
    async with tls_api(tmp_path) as (api, server):
        await api.request("GET", PODS.path())
        await server.stop()
        server.authority = Authority(tmp_path, name="other")
        await server.start()
        with pytest.raises(Unreachable):
            await api.request("GET", PODS.path())
        server.write("first")
        await api.request("GET", PODS.path())
