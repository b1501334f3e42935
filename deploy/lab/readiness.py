"""Whether the lab's children, nodes and pods are ready, and in which words they say that they are not."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Awaitable, Callable, Sequence
from pathlib import Path
from urllib.parse import urlsplit

import aiohttp
import msgspec

from deploy.lab.errors import NotReadyError
from deploy.lab.pods import PodView
from deploy.lab.supervisor import Child, ChildState, ChildStatus
from shared.kubernetes import Kubernetes, KubernetesError, Object

PROBE_SECONDS = 1.0
BETWEEN_SECONDS = 0.1
HOPELESS_RESTARTS = 3
TAIL_BYTES = 4096
"""Of a log, in which its last line is looked for."""


async def child_statuses(children: Sequence[Child]) -> tuple[ChildStatus, ...]:
    """What each child does, and whether it says that it is ready."""
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=PROBE_SECONDS)) as session:
        reasons = await asyncio.gather(*(not_ready(child, session=session) for child in children))
    return tuple(
        msgspec.structs.replace(child.status, ready=not reason)
        for child, reason in zip(children, reasons, strict=True)
    )


async def not_ready(child: Child, *, session: aiohttp.ClientSession) -> str:
    """Why a child is not ready; empty when it is."""
    status = child.status
    name = child.spec.name
    if status.state is not ChildState.RUNNING:
        return f"{name} is {status.state}{_last_words(status)}"
    if not child.spec.ready_url:
        return ""
    try:
        if child.spec.ready_url.startswith("tcp://"):
            await _connect(child.spec.ready_url)
            return ""
        async with session.get(child.spec.ready_url) as response:
            if response.status == 200:
                return ""
            return f"{name}: {'; '.join((await response.text()).split(chr(10))).strip('; ')}"
    except (aiohttp.ClientError, OSError) as error:
        return f"{name} does not answer yet ({type(error).__name__}), see {status.log}"


async def _connect(url: str) -> None:
    where = urlsplit(url)
    _, writer = await asyncio.wait_for(asyncio.open_connection(where.hostname, where.port), PROBE_SECONDS)
    writer.close()


def _last_words(status: ChildStatus) -> str:
    """How a child that does not run ended, empty when it never ran."""
    if status.last_exit is None:
        return ""
    with Path(status.log).open("rb") as log:
        log.seek(max(log.seek(0, os.SEEK_END) - TAIL_BYTES, 0))
        lines = log.read().decode(errors="replace").strip().splitlines()
    said = f", its last words: {lines[-1]}" if lines else ""
    return f" after it ended with {status.last_exit}, see {status.log}{said}"


async def wait_until_ready(children: Sequence[Child], *, seconds: float) -> None:
    """Until all are ready.

    Raises NotReadyError with the reasons of those that are not in time, and as soon as one of them has ended
    so often that it will not become ready.
    """

    async def reasons() -> tuple[str, ...]:
        failing = [child.status for child in children if child.restarts >= HOPELESS_RESTARTS]
        if failing:
            words = "; ".join(f"{status.name} keeps ending{_last_words(status)}" for status in failing)
            raise NotReadyError(words)
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=PROBE_SECONDS)) as session:
            found = await asyncio.gather(*(not_ready(child, session=session) for child in children))
        return tuple(reason for reason in found if reason)

    waiting = await wait_for_none(reasons, seconds=seconds)
    if waiting:
        raise NotReadyError(f"not ready after {seconds:g} s: " + "; ".join(waiting))


async def wait_for_none(
    reasons: Callable[[], Awaitable[tuple[str, ...]]], *, seconds: float
) -> tuple[str, ...]:
    """Asks for reasons until there are none or the time is up; the last ones."""
    until = time.monotonic() + seconds
    while True:
        found = await reasons()
        if not found or time.monotonic() >= until:
            return found
        await asyncio.sleep(BETWEEN_SECONDS)


async def workload_reasons(api: Kubernetes, views: Callable[[], Sequence[PodView]]) -> tuple[str, ...]:
    """What of the cluster's Deployments and Pods is not ready."""
    try:
        deployments = await api.request("GET", "/apis/apps/v1/deployments")
        pods = await api.request("GET", "/api/v1/pods")
    except KubernetesError as error:
        return (f"API server: {error}",)
    problems = {view.uid: view.problem for view in views()}
    return (
        *(reason for item in deployments.get("items") or [] if (reason := _deployment_reason(item))),
        *(reason for item in pods.get("items") or [] if (reason := _pod_reason(item, problems))),
    )


def _deployment_reason(item: Object) -> str:
    metadata, status = item["metadata"], item.get("status") or {}
    wanted = (item.get("spec") or {}).get("replicas", 1)
    ready = status.get("readyReplicas", 0)
    observed = status.get("observedGeneration", 0) >= metadata.get("generation", 0)
    if observed and ready >= wanted and status.get("replicas", 0) == wanted:
        return ""
    return f"Deployment {metadata['namespace']}/{metadata['name']}: {ready} of {wanted} pods are ready"


def _pod_reason(item: Object, problems: dict[str, str]) -> str:
    metadata, status = item["metadata"], item.get("status") or {}
    name = f"Pod {metadata['namespace']}/{metadata['name']}"
    if metadata.get("deletionTimestamp"):
        return f"{name} is being deleted"
    if status.get("phase") in ("Succeeded", "Failed"):
        return ""
    for condition in status.get("conditions") or []:
        if condition.get("type") == "Ready" and condition.get("status") == "True":
            return ""
    if not (item.get("spec") or {}).get("nodeName"):
        return f"{name} has no node yet"
    return f"{name} is {status.get('phase', 'Pending')}: {problems.get(metadata['uid']) or 'being started'}"
