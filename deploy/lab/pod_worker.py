"""One pod of a kubelet: brings what runs to what is desired, one step at a time, and writes the pod's status.

See :mod:`deploy.lab.kubelet` for the whole. What the CNI plugin, the server or the API server refuse is told
in the status and the log and tried again after a back-off; a deletion is never kept waiting by one.
"""

from __future__ import annotations

import asyncio
import logging
import time

from deploy.lab import pods
from deploy.lab.cni import TRY_AGAIN_LATER
from deploy.lab.errors import CniPluginError, LabError
from deploy.lab.pods import Pod, PodView
from deploy.lab.sandbox import Sandbox
from shared.kubernetes import PODS, Conflict, Kubernetes, KubernetesError, NotFound, Object

log = logging.getLogger(__name__)

FIRST_PAUSE_SECONDS = 0.25
LAST_PAUSE_SECONDS = 10.0
NOT_READY_PAUSE_SECONDS = 2.0
"""The longest wait when the plugin says "try again later": pods come up soon after their datapath."""
STEADY_SECONDS = 10.0
"""A server that ran this long is restarted without back-off."""


class PodWorker:
    """The worker of one pod uid. ``run`` ends when the pod is gone everywhere."""

    def __init__(self, sandbox: Sandbox, *, api: Kubernetes) -> None:
        self.sandbox = sandbox
        self._api = api
        self._pod: Pod | None = None
        self._told = False
        self._attached = False
        self._serving_since: float | None = None
        self._restarts = 0
        self._problem = ""
        self._written: Object | None = None
        self._pause = FIRST_PAUSE_SECONDS
        self._retry_at = 0.0
        self._wake = asyncio.Event()

    @property
    def view(self) -> PodView:
        """What there is of the pod."""
        record = self.sandbox.record
        return PodView(
            namespace=record.namespace,
            name=record.name,
            uid=record.uid,
            node=record.node,
            network_namespace=record.network_namespace,
            cgroup=record.cgroup,
            ips=self.sandbox.ips if self._attached else (),
            ready=self.sandbox.running and (self._pod is None or self._pod.wants_ready),
            restarts=self._restarts,
            started_at=record.started_at,
            problem=self._problem,
        )

    def desire(self, pod: Pod | None) -> None:
        """The Pod as the API server has it; None when it has it no more."""
        was_leaving = self._told and self._leaving
        self._pod = pod
        self._told = True
        if self._leaving and not was_leaving:
            self._retry_at = 0.0
        self._wake.set()

    async def run(self) -> None:
        """Until the pod is gone; cancellation ends the server only."""
        try:
            while True:
                self._wake.clear()
                wait = max(self._retry_at - time.monotonic(), 0.0)
                if self._told and not wait:
                    try:
                        if await self._step():
                            return
                        wait = max(self._retry_at - time.monotonic(), 0.0)
                    except (LabError, KubernetesError, OSError) as error:
                        wait = await self._failed(error)
                await self._something_new(wait or None)
        finally:
            await self.sandbox.stop()

    @property
    def _leaving(self) -> bool:
        return self._pod is None or self._pod.metadata.deletion_timestamp is not None

    async def _something_new(self, seconds: float | None) -> None:
        """Until the Pod changes, the server ends, or the time is up."""
        waiters: list[asyncio.Task[object]] = [asyncio.create_task(self._wake.wait(), name="wake")]
        if self.sandbox.running:
            waiters.append(asyncio.create_task(self.sandbox.ended(), name="server"))
        try:
            await asyncio.wait(waiters, timeout=seconds, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for waiter in waiters:
                waiter.cancel()
            await asyncio.gather(*waiters, return_exceptions=True)

    async def _step(self) -> bool:
        """One comparison of what runs with what is desired; True when the pod is gone."""
        pod = self._pod
        if pod is None or pod.metadata.deletion_timestamp is not None:
            await self._take_down(pod)
            return True
        if pod.finished:
            await self._release()
        elif self.sandbox.running:
            await self._write(pod, pods.running_status(pod, view=self.view, host_ips=self._host_ips))
        elif self._serving_since is not None:
            await self._server_ended(pod, served=time.monotonic() - self._serving_since)
        else:
            await self._bring_up(pod)
        return False

    async def _bring_up(self, pod: Pod) -> None:
        if not self._attached:
            await self.sandbox.attach()
            self._attached = True
        await self.sandbox.start(pod, started_at=self.sandbox.record.started_at or pods.now())
        self._serving_since = time.monotonic()
        self._problem = ""
        await self._write(pod, pods.running_status(pod, view=self.view, host_ips=self._host_ips))

    async def _server_ended(self, pod: Pod, *, served: float) -> None:
        code = await self.sandbox.ended()
        self._serving_since = None
        log.warning("%s: its server ended with %s", pod.title, code)
        policy = pod.spec.restart_policy
        if policy == "Never" or (policy == "OnFailure" and code == 0):
            status = pods.finished_status(pod, view=self.view, host_ips=self._host_ips, exit_code=code)
            await self._write(pod, status)
            await self._release()
            return
        self._restarts += 1
        if served >= STEADY_SECONDS:
            self._pause = FIRST_PAUSE_SECONDS
        self._problem = f"its server ended with {code}"
        self._back_off()
        await self._write_waiting(pod, reason="CrashLoopBackOff")

    async def _take_down(self, pod: Pod | None) -> None:
        await self._release()
        if pod is None:
            return
        path = PODS.path(namespace=pod.metadata.namespace, name=pod.metadata.name)
        options = {"gracePeriodSeconds": 0, "preconditions": {"uid": pod.metadata.uid}}
        try:
            await self._api.request("DELETE", path, body=options)
        except (NotFound, Conflict) as error:
            log.debug("%s is gone, or its name is another pod's: %s", pod.title, error)

    async def _release(self) -> None:
        self._serving_since = None
        await self.sandbox.remove()
        self._attached = False

    @property
    def _host_ips(self) -> tuple[str, ...]:
        return self.sandbox.context.host.ips

    async def _write(self, pod: Pod, status: Object) -> None:
        """Writes the status unless it is what was written last."""
        if status == self._written:
            return
        path = PODS.path(namespace=pod.metadata.namespace, name=pod.metadata.name, subresource="status")
        # The uid makes this fail rather than touch a later pod of the same name.
        body = {"metadata": {"uid": pod.metadata.uid}, "status": status}
        try:
            await self._api.request("PATCH", path, body=body, content_type="application/merge-patch+json")
        except (NotFound, Conflict) as error:
            log.debug("%s is gone, or its name is another pod's: %s", pod.title, error)
        self._written = status

    async def _write_waiting(self, pod: Pod, *, reason: str) -> None:
        status = pods.waiting_status(
            pod, view=self.view, host_ips=self._host_ips, reason=reason, message=self._problem
        )
        await self._write(pod, status)

    async def _failed(self, error: Exception) -> float:
        """Tells what went wrong; the seconds to wait before the next try."""
        record = self.sandbox.record
        text = str(error) or type(error).__name__
        if text != self._problem:
            log.warning("Pod %s/%s: %s", record.namespace, record.name, text)
        self._problem = text
        away = isinstance(error, CniPluginError) and error.code == TRY_AGAIN_LATER
        self._back_off(at_most=NOT_READY_PAUSE_SECONDS if away else LAST_PAUSE_SECONDS)
        if self._pod is not None and not self._leaving and not isinstance(error, KubernetesError):
            try:
                await self._write_waiting(self._pod, reason="ContainerCreating")
            except KubernetesError as second:
                log.warning("Pod %s/%s: cannot write its status: %s", record.namespace, record.name, second)
        return max(self._retry_at - time.monotonic(), 0.001)

    def _back_off(self, *, at_most: float = LAST_PAUSE_SECONDS) -> None:
        self._retry_at = time.monotonic() + min(self._pause, at_most)
        self._pause = min(2 * self._pause, LAST_PAUSE_SECONDS)
