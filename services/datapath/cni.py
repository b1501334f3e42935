"""The datapath's side of CNI: HTTP on a unix socket that only root can open.

``POST /v1/cni/{add,del,check,status,gc}`` with what the plugin was given: ``{"containerID", "netns",
"ifname", "args": {"K8S_POD_NAMESPACE", ...}, "config", "ipam"}``, where ``ipam`` is the result of another
IPAM plugin or null. The reply is 200 ``{"cni": <CNI 1.1 result>}`` or an error ``{"code", "msg", "details"}``
with the CNI specification's codes and Stentor's own from 100 on.

DELs that the plugin could not bring here wait as files in ``cni-deleted`` beside the socket. They are carried
out before the first request is served, and from time to time. A plugin that goes away has its ADD undone.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
import socket
import time
from collections.abc import Callable
from contextlib import closing
from ipaddress import ip_interface
from pathlib import Path
from typing import Any

import msgspec
from aiohttp import web

from services.datapath import statefiles
from services.datapath.endpoints import LocalEndpoint
from services.datapath.errors import CniRefused, DatapathError, NotAvailable, StateError
from services.datapath.lifecycle import Attachment, PodNetwork, Report
from services.datapath.podlink import GATEWAY, HOST_MAC

log = logging.getLogger(__name__)

CNI_VERSION = "1.1.0"

_INVALID_ENVIRONMENT = 4
_DECODING_FAILURE = 6
_INVALID_CONFIG = 7
_UNEXPECTED = 199

_DEFAULT_TIMEOUT_SECONDS = 30.0
_SHARE_OF_TIMEOUT = 0.85
"""Of the plugin's patience that an ADD may use up; the rest is for undoing and answering."""

_REPLAY_SECONDS = 30.0
_STOP_SECONDS = 5.0
_NAME = re.compile(r"[a-zA-Z0-9][a-zA-Z0-9_.\-]*")
_IFNAME = re.compile(r"[^/:\s]{1,15}")
_DEFAULT_ROUTE = {4: "0.0.0.0/0", 6: "::/0"}


class _IpamAddress(msgspec.Struct, frozen=True):
    address: str


class _IpamResult(msgspec.Struct, frozen=True):
    ips: tuple[_IpamAddress, ...] = ()


class CniRequest(msgspec.Struct, frozen=True):
    """The body of every operation; STATUS and GC leave the container's fields empty."""

    container_id: str = msgspec.field(name="containerID", default="")
    netns: str = ""
    ifname: str = ""
    args: dict[str, str] = msgspec.field(default_factory=dict)
    config: dict[str, Any] = msgspec.field(default_factory=dict)
    ipam: _IpamResult | None = None


class CniServer:
    """See the module. ``readiness`` says why an ADD could not be served now; empty when it could."""

    def __init__(
        self, *, network: PodNetwork, path: Path, readiness: Callable[[], str], report: Report
    ) -> None:
        self._network = network
        self._path = path
        self._deleted = path.parent / "cni-deleted"
        self._readiness = readiness
        self._report = report
        self.serving = asyncio.Event()
        """Set while requests are served."""

    async def run(self) -> None:
        """Recover, carry out waiting DELs, and serve until cancelled."""
        statefiles.make_directory(self._path.parent)
        await self._network.recover()
        await self.replay()
        application = web.Application()
        application.router.add_post("/v1/cni/{operation}", self._handle)
        runner = web.AppRunner(
            application, handler_cancellation=True, access_log=None, shutdown_timeout=_STOP_SECONDS
        )
        await runner.setup()
        try:
            await self._serve_at(_bind(self._path), runner)
        finally:
            await runner.cleanup()

    async def _serve_at(self, listener: socket.socket, runner: web.AppRunner) -> None:
        handler = runner.server
        if handler is None:
            raise AssertionError("the runner has been set up")
        with listener:
            server = await asyncio.get_running_loop().create_unix_server(handler, sock=listener)
            try:
                self.serving.set()
                log.info("serving CNI at %s", self._path)
                while True:
                    await asyncio.sleep(_REPLAY_SECONDS)
                    await self.replay()
            finally:
                self.serving.clear()
                server.close()
                self._path.unlink(missing_ok=True)

    async def replay(self) -> None:
        """Carry out the DELs that the plugin left as files; one that fails waits for the next time."""
        if not self._deleted.is_dir():
            return
        for path in sorted(self._deleted.glob("[!.]*.json")):
            try:
                request = msgspec.json.decode(path.read_bytes(), type=CniRequest)
                container_id, ifname = _container(request)
            except FileNotFoundError:
                # Its container was added again, which withdraws the DEL.
                continue
            except (ValueError, CniRefused) as error:
                aside = statefiles.set_aside(path)
                await self._report(
                    kind="waiting-del-broken", object=str(aside), message=f"{path} is no CNI DEL: {error}"
                )
                continue
            try:
                await self._network.delete(container_id, ifname)
                statefiles.remove(path)
            except DatapathError as error:
                await self._report(
                    kind="waiting-del-failed", object=str(path), message=f"the DEL in {path} failed: {error}"
                )

    async def _handle(self, request: web.Request) -> web.Response:
        operation = request.match_info["operation"]
        began = time.perf_counter()
        try:
            wanted = _decode(await request.read())
            reply = await self._serve(operation, wanted)
        except CniRefused as error:
            return _refusal(error.http_status, code=error.code, msg=str(error), details=error.details)
        except DatapathError as error:
            log.warning("CNI %s: %s", operation, error)
            return _refusal(error.http_status, code=error.cni_code, msg=str(error))
        except Exception as error:  # the runtime must get an answer whatever happens
            log.exception("CNI %s", operation)
            return _refusal(500, code=_UNEXPECTED, msg=f"{type(error).__name__}: {error}")
        took = (time.perf_counter() - began) * 1000
        fields = {"operation": operation, "pod": _pod(wanted), "milliseconds": f"{took:.2f}"}
        log.info("served a CNI request", extra={"fields": fields})
        return web.json_response(reply, dumps=_dumps)

    async def _serve(self, operation: str, request: CniRequest) -> dict[str, Any]:
        match operation:
            case "add":
                return {"cni": await self._add(request)}
            case "del":
                await self._network.delete(*_container(request))
            case "check":
                await self._network.check(*_container(request), ips=_remembered_ips(request))
            case "status":
                if reason := self._readiness():
                    raise NotAvailable(f"the datapath of this node is not ready: {reason}")
            case "gc":
                await self._network.collect(_valid_attachments(request))
            case _:
                raise CniRefused(f"unknown operation {operation!r}", code=_INVALID_CONFIG)
        return {"cni": {}}

    async def _add(self, request: CniRequest) -> dict[str, Any]:
        container_id, ifname = _container(request)
        if not request.netns:
            raise CniRefused("ADD needs `netns`, the pod's network namespace", code=_INVALID_ENVIRONMENT)
        names = [request.args.get(key, "") for key in ("K8S_POD_NAMESPACE", "K8S_POD_NAME")]
        if not all(names):
            raise CniRefused(
                "CNI_ARGS must have K8S_POD_NAMESPACE and K8S_POD_NAME: a policy is of a pod",
                code=_INVALID_ENVIRONMENT,
            )
        wanted = Attachment(
            container_id=container_id,
            ifname=ifname,
            netns=request.netns,
            namespace=names[0],
            pod=names[1],
            uid=request.args.get("K8S_POD_UID", ""),
            delegated_ips=_delegated_ips(request),
        )
        deadline = asyncio.get_running_loop().time() + _seconds(request) * _SHARE_OF_TIMEOUT
        return result(await self._network.add(wanted, deadline=deadline))


def result(endpoint: LocalEndpoint) -> dict[str, Any]:
    """What ADD answers, as CNI 1.1.0 has it (CNI specification, "ADD Success")."""
    ips = [ip_interface(ip) for ip in endpoint.ips]
    return {
        "cniVersion": CNI_VERSION,
        "interfaces": [
            {"name": endpoint.host_ifname, "mac": HOST_MAC, "mtu": endpoint.mtu},
            {"name": endpoint.ifname, "mac": endpoint.mac, "mtu": endpoint.mtu, "sandbox": endpoint.netns},
        ],
        "ips": [{"address": str(ip), "gateway": GATEWAY[ip.version], "interface": 1} for ip in ips],
        "routes": [{"dst": _DEFAULT_ROUTE[ip.version], "gw": GATEWAY[ip.version]} for ip in ips],
        "dns": {},
    }


def _bind(path: Path) -> socket.socket:
    """A listening socket at ``path`` that only this user can open; takes the place of a dead server's."""
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        with closing(socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)) as probe:
            if probe.connect_ex(str(path)) == 0:
                raise StateError(f"{path}: another datapath serves there; stop it first")
        if path.is_socket():
            path.unlink()
        # The file must never be open to others, not even between bind and chmod.
        mask = os.umask(0o177)
        try:
            listener.bind(str(path))
        finally:
            os.umask(mask)
        listener.listen(128)
        listener.setblocking(False)
    except OSError as error:
        listener.close()
        raise StateError(f"{path}: cannot listen: {error.strerror}") from error
    except StateError:
        listener.close()
        raise
    return listener


def _decode(body: bytes) -> CniRequest:
    try:
        return msgspec.json.decode(body or b"{}", type=CniRequest)
    except msgspec.DecodeError as error:
        raise CniRefused(f"the request is unreadable: {error}", code=_DECODING_FAILURE) from error


def _container(request: CniRequest) -> tuple[str, str]:
    if not _NAME.fullmatch(request.container_id):
        raise CniRefused(
            f"`containerID` is no container id: {request.container_id!r}", code=_INVALID_ENVIRONMENT
        )
    ifname = request.ifname
    if not _IFNAME.fullmatch(ifname) or ifname in (".", "..") or len(ifname.encode()) > 15:
        raise CniRefused(
            f"`ifname` is no interface name of at most 15 bytes: {ifname!r}", code=_INVALID_ENVIRONMENT
        )
    return request.container_id, ifname


def _pod(request: CniRequest) -> str:
    return f"{request.args.get('K8S_POD_NAMESPACE', '')}/{request.args.get('K8S_POD_NAME', '')}"


def _delegated_ips(request: CniRequest) -> tuple[str, ...]:
    if request.ipam is None:
        return ()
    try:
        ips = tuple(str(ip_interface(ip.address).ip) for ip in request.ipam.ips)
    except ValueError as error:
        raise CniRefused(f"`ipam.ips` of the IPAM plugin: {error}", code=_INVALID_CONFIG) from error
    versions = [ip_interface(ip).version for ip in ips]
    if not ips or len(set(versions)) != len(versions):
        raise CniRefused(
            "`ipam.ips` of the IPAM plugin must have one address, or one of each IP version",
            code=_INVALID_CONFIG,
        )
    return ips


def _remembered_ips(request: CniRequest) -> tuple[str, ...] | None:
    previous = request.config.get("prevResult")
    if previous is None:
        return None
    try:
        remembered = msgspec.convert(previous, type=_IpamResult)
        return tuple(str(ip_interface(ip.address).ip) for ip in remembered.ips)
    except ValueError as error:
        raise CniRefused(f"`prevResult`: {error}", code=_INVALID_CONFIG) from error


class _ValidAttachment(msgspec.Struct, frozen=True):
    container_id: str = msgspec.field(name="containerID")
    ifname: str


def _valid_attachments(request: CniRequest) -> set[tuple[str, str]]:
    key = "cni.dev/valid-attachments"
    if key not in request.config:
        raise CniRefused(f"GC needs `{key}`: without it every pod would be deleted", code=_INVALID_CONFIG)
    try:
        found = msgspec.convert(request.config[key], type=list[_ValidAttachment])
    except ValueError as error:
        raise CniRefused(f"`{key}`: {error}", code=_INVALID_CONFIG) from error
    return {(attachment.container_id, attachment.ifname) for attachment in found}


def _seconds(request: CniRequest) -> float:
    seconds = request.config.get("timeoutSeconds", _DEFAULT_TIMEOUT_SECONDS)
    if isinstance(seconds, bool) or not isinstance(seconds, int | float) or not 0 < seconds <= 600:
        raise CniRefused("`timeoutSeconds` must be above 0 and at most 600", code=_INVALID_CONFIG)
    return float(seconds)


def _dumps(value: object) -> str:
    return msgspec.json.encode(value).decode()


def _refusal(status: int, *, code: int, msg: str, details: str = "") -> web.Response:
    return web.json_response({"code": code, "msg": msg, "details": details}, status=status, dumps=_dumps)
