"""Lets terminating pods go whose node no longer exists: no kubelet will ever confirm that they have
stopped."""

from __future__ import annotations

from .cache import Cache, Key, key_of
from .client import PODS, Client, Object
from .errors import Gone
from .readings import is_terminating
from .worker import Worker


class OrphanedPods:
    """Pods and nodes in, final deletions out."""

    def __init__(self, client: Client, *, pods: Cache, nodes: Cache) -> None:
        self._client = client
        self._pods = pods
        self._nodes = nodes
        self.worker = Worker("orphanedpods", self._reconcile)
        pods.listen(self._pod_changed)
        nodes.listen(self._node_changed)

    def _pod_changed(self, pod: Object) -> None:
        if self._is_orphan(pod):
            self.worker.add(key_of(pod))

    def _node_changed(self, node: Object) -> None:
        if self._nodes.get(key_of(node)) is None:
            for pod in self._pods:
                self._pod_changed(pod)

    def _is_orphan(self, pod: Object) -> bool:
        node = pod["spec"].get("nodeName")
        return bool(node) and is_terminating(pod) and self._nodes.get(("", node)) is None

    async def _reconcile(self, key: Key) -> None:
        pod = self._pods.get(key)
        if pod is not None and self._is_orphan(pod):
            try:
                await self._client.delete(PODS, pod, grace=0)
            except Gone:
                return
