"""A small kubelet: keeps the Node object of one lab node, and runs the Pods bound to it.

It is level-triggered: each pod (by ``metadata.uid``) has one worker task that compares what the API server
has with what runs and does one step at a time, so that no pod is ever given two operations at once. A step
that fails is told in the pod's status and repeated with back-off.

A deleted Pod is taken down first (server, CNI DEL, namespace) and then deleted from the API server with
grace 0. A kubelet that starts takes over the pods that its predecessor recorded; those that are gone are
taken down when the first complete list of Pods is known. Cancelling ``run`` ends servers and leaves
attachments as they are.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging

from deploy.lab.errors import PodError
from deploy.lab.node_object import node_object, node_status
from deploy.lab.pod_worker import PodWorker
from deploy.lab.pods import Pod, PodView, read_pod
from deploy.lab.records import read_records
from deploy.lab.sandbox import NodeContext, Sandbox
from shared.kubernetes import (
    NODES,
    PODS,
    Conflict,
    Kubernetes,
    KubernetesError,
    NotFound,
    Object,
    ObjectBatch,
    watch,
)

log = logging.getLogger(__name__)

HEARTBEAT_SECONDS = 10.0
RETRY_SECONDS = 1.0


class Kubelet:
    """The kubelet of one node. ``use_cilium`` annotates the Node so that Stentor enforces policy on it."""

    def __init__(self, context: NodeContext, *, api: Kubernetes, use_cilium: bool) -> None:
        self.context = context
        self.node = context.host.name
        self.registered = asyncio.Event()
        """Set once the Node object is in the API server."""
        self._api = api
        self._use_cilium = use_cilium
        self._workers: dict[str, PodWorker] = {}
        self._uids: dict[tuple[str, str], str] = {}
        self._tasks = asyncio.TaskGroup()

    @property
    def pods(self) -> list[PodView]:
        """What there is of each pod, by namespace and name."""
        views = [worker.view for worker in self._workers.values()]
        return sorted(views, key=lambda view: (view.namespace, view.name))

    async def run(self) -> None:
        """For ever."""
        async with self._tasks:
            self._tasks.create_task(self._keep_node(), name=f"{self.node}: Node object")
            for record in read_records(self.context.records):
                self._start_worker(record.uid, Sandbox(self.context, record))
                self._uids[record.namespace, record.name] = record.uid
            self._tasks.create_task(self._follow_pods(), name=f"{self.node}: Pods")

    async def _follow_pods(self) -> None:
        async for batch in watch(self._api, PODS, field_selector=f"spec.nodeName={self.node}"):
            self._observe(batch)

    def _observe(self, batch: ObjectBatch) -> None:
        listed = set()
        for change in batch.objects:
            key = (change.namespace, change.name)
            listed.add(key)
            if change.object is None:
                self._forget(key)
                continue
            try:
                self._desire(key, read_pod(change.object))
            except PodError as error:
                log.error("%s", error)
        if batch.snapshot:
            for key in set(self._uids) - listed:
                self._forget(key)

    def _desire(self, key: tuple[str, str], pod: Pod) -> None:
        uid = pod.metadata.uid
        if self._uids.get(key, uid) != uid:
            self._forget(key)  # deleted and made anew under the same name
        self._uids[key] = uid
        worker = self._workers.get(uid) or self._start_worker(uid, Sandbox.new(self.context, pod))
        worker.desire(pod)

    def _forget(self, key: tuple[str, str]) -> None:
        worker = self._workers.get(self._uids.pop(key, ""))
        if worker is not None:
            worker.desire(None)

    def _start_worker(self, uid: str, sandbox: Sandbox) -> PodWorker:
        worker = self._workers[uid] = PodWorker(sandbox, api=self._api)
        task = self._tasks.create_task(worker.run(), name=f"{self.node}: pod {sandbox.record.name}")
        task.add_done_callback(lambda _: self._workers.pop(uid, None))
        return worker

    async def _keep_node(self) -> None:
        while True:
            pause = HEARTBEAT_SECONDS
            try:
                await self._write_node()
                self.registered.set()
            except KubernetesError as error:
                log.warning("Node %s: cannot write it to the API server: %s", self.node, error)
                pause = RETRY_SECONDS
            await asyncio.sleep(pause)

    async def _write_node(self) -> None:
        wanted = node_object(self.context.host, use_cilium=self._use_cilium)
        try:
            found = await self._api.get(NODES, name=self.node)
        except NotFound:
            with contextlib.suppress(Conflict):  # somebody else has just made it
                await self._api.create(NODES, wanted)
            found = await self._api.get(NODES, name=self.node)
        if not self.registered.is_set():
            patch: Object = {"metadata": wanted["metadata"]}
            if not (found.get("spec") or {}).get("podCIDR"):
                patch["spec"] = wanted["spec"]
            await self._api.patch(NODES, patch, name=self.node)
        status = node_status(self.context.host, before=found.get("status") or {})
        await self._api.patch_status(NODES, status, name=self.node)
