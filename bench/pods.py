"""Pods that come and go, one after another: how long CNI ADD and DEL take.

Each pod is an object of the API server; the lab's kubelet sees it, makes its namespace and runs the real
plugin, whose ADD returns when the pod's policy is in its node's kernel. The figures "plugin" are from the
plugin's start to its end as the kubelet sees it, "datapath" is the part of it that the datapath needs. The
pods stay until all are there, then go. They are selected by a NetworkPolicy.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence

from bench.figures import Figure, Samples
from bench.load import at_rest, since, usage
from bench.logs import CniLogs
from bench.shown import Shown
from deploy.cli.errors import Unmet
from shared.kubernetes import NETWORK_POLICIES, PODS, Kubernetes, Object, watch

NAMESPACE = "default"
NODES = ("node-1", "node-2")
KNOWN = {"app": "bench"}
PATIENCE_SECONDS = 60.0

POLICY: Object = {
    "apiVersion": "networking.k8s.io/v1",
    "kind": "NetworkPolicy",
    "metadata": {"name": "bench-pods", "namespace": NAMESPACE},
    "spec": {
        "podSelector": {"matchLabels": KNOWN},
        "ingress": [{"from": [{"podSelector": {"matchLabels": {"app": "frontend"}}}]}],
    },
}


class PodStates:
    """Which pods there are and whether each is ready, as the API server tells; :meth:`follow` must run."""

    def __init__(self, api: Kubernetes) -> None:
        self._api = api
        self._ready: dict[str, bool] = {}
        self._changed = asyncio.Condition()

    async def follow(self) -> None:
        """For ever."""
        async for batch in watch(self._api, PODS, namespace=NAMESPACE):
            for change in batch.objects:
                if change.object is None:
                    self._ready.pop(change.name, None)
                else:
                    self._ready[change.name] = _is_ready(change.object)
            async with self._changed:
                self._changed.notify_all()

    async def ready(self, name: str) -> None:
        """Waits until a pod is."""
        await self._until(lambda: self._ready.get(name, False), what=f"pod {name} to become ready")

    async def gone(self, name: str) -> None:
        """Waits until there is no such pod."""
        await self._until(lambda: name not in self._ready, what=f"pod {name} to go")

    async def _until(self, true: Callable[[], bool], *, what: str) -> None:
        try:
            async with asyncio.timeout(PATIENCE_SECONDS), self._changed:
                await self._changed.wait_for(true)
        except TimeoutError:
            raise Unmet(f"the lab was waited for in vain: {what} within {PATIENCE_SECONDS:g} s.") from None


class PodSeries:
    """The pods of one run, and the samples they give."""

    def __init__(self, api: Kubernetes, states: PodStates, *, lab: str, count: int, patience: float) -> None:
        self._api = api
        self._states = states
        self._logs = CniLogs(lab)
        self._patience = patience
        self._command = f"stentor bench lab --pods {count} --changes 0 --demos 0"
        self._add = _pair("ADD, labels known")
        self._new = _pair("ADD, first pod of its labels")
        self._delete = _pair("DEL")
        self._ready = Samples("pod created to ready", "ms")
        self._known = [f"bench-{number:03}" for number in range(count)]
        self._first = [f"bench-new-{number:03}" for number in range(max(count // 5, 1))]

    async def create(self, shown: Shown) -> None:
        """Makes all pods, one after another, on both nodes in turn."""
        await self._api.create(NETWORK_POLICIES, POLICY, namespace=NAMESPACE)
        await self._create_one("bench-warm-up", KNOWN, node=NODES[0], samples=None)
        with shown.part("pods: ADD", total=len(self._known) + len(self._first)) as advance:
            for number, name in enumerate(self._known):
                await self._create_one(name, KNOWN, node=NODES[number % 2], samples=self._add)
                advance()
            for number, name in enumerate(self._first):
                await self._create_one(
                    name, {"app": "bench", "only": name}, node=NODES[number % 2], samples=self._new
                )
                advance()

    async def delete(self, shown: Shown) -> None:
        """Deletes them, one after another."""
        with shown.part("pods: DEL", total=len(self._known) + len(self._first)) as advance:
            for name in (*self._known, *self._first):
                await at_rest(patience=self._patience)
                before = usage()
                await self._api.delete(PODS, name=name, namespace=NAMESPACE)
                await self._states.gone(name)
                self._take("del", name, self._delete, quiet=since(before).quiet)
                advance()

    def figures(self) -> list[Figure | None]:
        """What was measured."""
        samples = (*self._add, *self._new, *self._delete, self._ready)
        return [each.figure(command=self._command) for each in samples]

    async def _create_one(
        self, name: str, labels: dict[str, str], *, node: str, samples: Sequence[Samples] | None
    ) -> None:
        await at_rest(patience=self._patience)
        before = usage()
        began = time.perf_counter()
        await self._api.create(PODS, _pod(name, labels, node=node), namespace=NAMESPACE)
        await self._states.ready(name)
        took = (time.perf_counter() - began) * 1000
        quiet = since(before).quiet
        if samples is not None:
            self._take("add", name, samples, quiet=quiet)
            self._ready.add(took, quiet=quiet)

    def _take(self, operation: str, name: str, samples: Sequence[Samples], *, quiet: bool) -> None:
        pod = f"{NAMESPACE}/{name}"
        of_plugin, of_datapath = samples
        taken = (
            (of_plugin, self._logs.by_plugin(operation, pod=pod)),
            (of_datapath, self._logs.by_datapath(operation, pod=pod)),
        )
        for into, milliseconds in taken:
            if milliseconds is None:
                raise Unmet(f"the lab's logs do not tell of a CNI {operation.upper()} of {pod}.")
            into.add(milliseconds, quiet=quiet)


def _pair(name: str) -> tuple[Samples, Samples]:
    return Samples(f"{name}: plugin", "ms"), Samples(f"{name}: datapath", "ms")


def _pod(name: str, labels: dict[str, str], *, node: str) -> Object:
    container = {"name": "nginx", "image": "nginx:latest", "ports": [{"containerPort": 80}]}
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": labels},
        "spec": {"nodeName": node, "containers": [container]},
    }


def _is_ready(pod: Object) -> bool:
    conditions = (pod.get("status") or {}).get("conditions") or []
    return any(found.get("type") == "Ready" and found.get("status") == "True" for found in conditions)
