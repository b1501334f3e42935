"""Binds each pending pod to the fitting node with the fewest replicas of its owner, then the fewest pods.

Remaining ties go by node name. A node fits when it is Ready and not cordoned, has the pod's ``nodeSelector``
labels, satisfies its required node affinity, and has no NoSchedule or NoExecute taint that the pod does not
tolerate. Resources are not counted. Pods are taken oldest first, one at a time, each decision seeing those
before it. A pod that fits nowhere says so in its PodScheduled condition and waits for a change of nodes or
pods.
"""

from __future__ import annotations

from collections import Counter
from typing import Any

from .cache import Cache, Key, key_of
from .client import PODS, Client, Object
from .errors import Gone, Outdated
from .readings import (
    controller_uid,
    has_labels,
    is_finished,
    is_terminating,
    is_true,
    with_condition,
)
from .worker import Worker

_SWEEP: Key = ("", "pending")
NAME = "default-scheduler"


class Scheduler:
    """Pending pods and nodes in, bindings out."""

    def __init__(self, client: Client, *, pods: Cache, nodes: Cache) -> None:
        self._client = client
        self._pods = pods
        self._nodes = nodes
        self._bound: dict[str, str] = {}
        # One key for all pending pods: whatever changes may make room for, or crowd out, any of them.
        self.worker = Worker("scheduler", self._sweep)
        pods.listen(lambda _pod: self.worker.add(_SWEEP))
        nodes.listen(lambda _node: self.worker.add(_SWEEP))

    async def _sweep(self, _key: Key) -> None:
        nodeless = self._pods.by("pending", "yes")
        # A binding's answer is no pod: the cache learns of it by watch, and until then it is remembered here.
        uids = {pod["metadata"]["uid"] for pod in nodeless}
        self._bound = {uid: node for uid, node in self._bound.items() if uid in uids}
        pending = [pod for pod in nodeless if _wants_node(pod) and pod["metadata"]["uid"] not in self._bound]
        if not pending:
            return
        nodes = [node for node in self._nodes if _is_schedulable(node)]
        pods_on, siblings_on = self._crowds()
        for pod in sorted(pending, key=lambda pod: (pod["metadata"]["creationTimestamp"], key_of(pod))):
            owner = controller_uid(pod)
            fitting = [node for node in nodes if _fits(pod, node)]
            if not fitting:
                await self._report_unschedulable(pod, len(nodes))
                continue
            names = [node["metadata"]["name"] for node in fitting]
            best = min(
                names, key=lambda name: (siblings_on[owner, name] if owner else 0, pods_on[name], name)
            )
            if await self._bind(pod, best):
                pods_on[best] += 1
                siblings_on[owner, best] += 1

    def _crowds(self) -> tuple[Counter[str], Counter[tuple[str, str]]]:
        pods_on: Counter[str] = Counter()
        siblings_on: Counter[tuple[str, str]] = Counter()
        for pod in self._pods:
            node = pod["spec"].get("nodeName") or self._bound.get(pod["metadata"]["uid"])
            if node and not is_finished(pod) and not is_terminating(pod):
                pods_on[node] += 1
                siblings_on[controller_uid(pod), node] += 1
        return pods_on, siblings_on

    async def _bind(self, pod: Object, node: str) -> bool:
        metadata = pod["metadata"]
        binding = {
            "apiVersion": "v1",
            "kind": "Binding",
            "metadata": {
                "name": metadata["name"],
                "namespace": metadata["namespace"],
                "uid": metadata["uid"],
            },
            "target": {"apiVersion": "v1", "kind": "Node", "name": node},
        }
        try:
            await self._client.post(
                PODS, binding, namespace=metadata["namespace"], name=metadata["name"], subresource="binding"
            )
        except (Gone, Outdated):
            return False
        self._bound[metadata["uid"]] = node
        return True

    async def _report_unschedulable(self, pod: Object, ready: int) -> None:
        message = f"none of the {ready} schedulable nodes (of {len(list(self._nodes))}) fits this pod"
        status = pod.get("status", {})
        before = status.get("conditions") or []
        after = with_condition(
            before, "PodScheduled", status="False", reason="Unschedulable", message=message
        )
        if after is before:
            return
        try:
            changed = pod | {"status": status | {"conditions": after}}
            self._pods.wrote(await self._client.update(PODS, changed, subresource="status"))
        except (Gone, Outdated):
            return


def pending_index(pod: Object) -> list[str]:
    """The index that the scheduler needs of the pod cache, under the name ``pending``."""
    return [] if pod["spec"].get("nodeName") else ["yes"]


def _wants_node(pod: Object) -> bool:
    spec = pod["spec"]
    return (
        not spec.get("nodeName")
        and not is_terminating(pod)
        and not is_finished(pod)
        and spec.get("schedulerName", NAME) == NAME
        and not spec.get("schedulingGates")
    )


def _is_schedulable(node: Object) -> bool:
    return (
        is_true(node, "Ready") and not node.get("spec", {}).get("unschedulable") and not is_terminating(node)
    )


def _fits(pod: Object, node: Object) -> bool:
    spec = pod["spec"]
    if not has_labels(node, spec.get("nodeSelector") or {}):
        return False
    affinity = ((spec.get("affinity") or {}).get("nodeAffinity") or {}).get(
        "requiredDuringSchedulingIgnoredDuringExecution"
    )
    if affinity is not None and not any(
        _term(term, node) for term in affinity.get("nodeSelectorTerms") or ()
    ):
        return False
    taints = node.get("spec", {}).get("taints") or ()
    hard = [taint for taint in taints if taint.get("effect") in ("NoSchedule", "NoExecute")]
    return all(any(_tolerates(t, taint) for t in spec.get("tolerations") or ()) for taint in hard)


def _term(term: Object, node: Object) -> bool:
    labels = node["metadata"].get("labels") or {}
    expressions, fields = term.get("matchExpressions") or (), term.get("matchFields") or ()
    if not expressions and not fields:
        return False
    return all(_expression(e, labels) for e in expressions) and all(
        _expression(f, {"metadata.name": node["metadata"]["name"]}) for f in fields
    )


def _expression(expression: Object, labels: dict[str, Any]) -> bool:
    value, values = labels.get(expression["key"]), expression.get("values") or []
    match expression["operator"]:
        case "In":
            return value in values
        case "NotIn":
            return value not in values
        case "Exists":
            return value is not None
        case "DoesNotExist":
            return value is None
        case "Gt" | "Lt" as operator:
            if value is None or not str(value).lstrip("-").isdecimal():
                return False
            return int(value) > int(values[0]) if operator == "Gt" else int(value) < int(values[0])
    return False


def _tolerates(toleration: Object, taint: Object) -> bool:
    if toleration.get("effect") not in (None, "", taint["effect"]):
        return False
    if toleration.get("operator") == "Exists":
        return toleration.get("key") in (None, "", taint["key"])
    same_value = bool(toleration.get("value", "") == taint.get("value", ""))
    return same_value and toleration.get("key") == taint["key"]
