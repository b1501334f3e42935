"""ReplicaSet -> Pods: as many active pods as asked for, made from the template, and a status counting them.

A pod is a replica if the ReplicaSet controls it; pods that only match the selector are left alone. Surplus
pods go in the order least ready, on the fullest node, youngest, so that a scale-down disturbs as little as it
can.
"""

from __future__ import annotations

import copy
from collections import Counter
from datetime import datetime

from .cache import Cache, Key
from .client import PODS, REPLICA_SETS, Client, Object
from .errors import Gone, Outdated
from .readings import (
    controlled_by,
    controller_uid,
    has_labels,
    is_active,
    is_ready,
    is_terminating,
    seconds_since_ready,
)
from .worker import Worker

_BURST = 500
"""Pods made or deleted in one go before other ReplicaSets have their turn, as in Kubernetes."""


class ReplicaSetController:
    """ReplicaSets in, pods out."""

    def __init__(self, client: Client, *, replica_sets: Cache, pods: Cache) -> None:
        self._client = client
        self._sets = replica_sets
        self._pods = pods
        self.worker = Worker("replicaset", self._reconcile)
        replica_sets.listen(lambda item: self.worker.add(_key(item)))
        pods.listen(self._pod_changed)

    def _pod_changed(self, pod: Object) -> None:
        for owner in pod["metadata"].get("ownerReferences") or ():
            if owner.get("controller") and owner["kind"] == "ReplicaSet":
                self.worker.add((pod["metadata"]["namespace"], owner["name"]))

    async def _reconcile(self, key: Key) -> None:
        item = self._sets.get(key)
        if item is None:
            return
        uid = item["metadata"]["uid"]
        if not is_terminating(item):
            active = [pod for pod in self._pods.by("controller", uid) if is_active(pod)]
            wanted = item["spec"]["replicas"]
            for _pod in range(min(wanted - len(active), _BURST)):
                await self._create_pod(item)
            if len(active) > wanted:
                for pod in _surplus_first(active)[: min(len(active) - wanted, _BURST)]:
                    await self._delete_pod(pod)
            if abs(wanted - len(active)) > _BURST:
                self.worker.add(key)
        await self._update_status(item)

    async def _create_pod(self, item: Object) -> None:
        template = item["spec"]["template"]
        metadata = copy.deepcopy(template.get("metadata") or {})
        metadata["generateName"] = item["metadata"]["name"] + "-"
        metadata["ownerReferences"] = [controlled_by(item)]
        body = {"apiVersion": "v1", "kind": "Pod", "metadata": metadata, "spec": template["spec"]}
        namespace = item["metadata"]["namespace"]
        self._pods.wrote(await self._client.create(PODS, body, namespace=namespace))

    async def _delete_pod(self, pod: Object) -> None:
        try:
            answer = await self._client.delete(PODS, pod)
        except (Gone, Outdated):
            self._pods.removed(pod)
            return
        if answer.get("kind") == "Pod" and is_terminating(answer):
            self._pods.wrote(answer)
        else:
            self._pods.removed(pod)

    async def _update_status(self, item: Object) -> None:
        active = [pod for pod in self._pods.by("controller", item["metadata"]["uid"]) if is_active(pod)]
        labels = (item["spec"]["template"].get("metadata") or {}).get("labels") or {}
        patience = item["spec"].get("minReadySeconds", 0)
        ready = [pod for pod in active if is_ready(pod)]
        available = [pod for pod in ready if seconds_since_ready(pod) >= patience or not patience]
        if len(available) < len(ready):
            self.worker.add_later(_key(item), seconds=1.0)
        status = {
            **item.get("status", {}),
            "replicas": len(active),
            "fullyLabeledReplicas": sum(has_labels(pod, labels) for pod in active),
            "readyReplicas": len(ready),
            "availableReplicas": len(available),
            "observedGeneration": item["metadata"].get("generation", 0),
        }
        if status != item.get("status"):
            self._sets.wrote(
                await self._client.update(REPLICA_SETS, item | {"status": status}, subresource="status")
            )


def pods_by_controller(pod: Object) -> list[str]:
    """The index that this controller needs of the pod cache, under the name ``controller``."""
    uid = controller_uid(pod)
    return [uid] if uid else []


def _key(item: Object) -> Key:
    return item["metadata"]["namespace"], item["metadata"]["name"]


def _surplus_first(active: list[Object]) -> list[Object]:
    """``active``, those that will be missed least first."""
    crowd = Counter(pod["spec"].get("nodeName", "") for pod in active)

    def rank(pod: Object) -> tuple[bool, bool, bool, int, float, str]:
        node, metadata = pod["spec"].get("nodeName", ""), pod["metadata"]
        age = datetime.fromisoformat(metadata["creationTimestamp"]).timestamp()
        running = pod.get("status", {}).get("phase") == "Running"
        return bool(node), running, is_ready(pod), -crowd[node], -age, metadata["name"]

    return sorted(active, key=rank)
