"""Deployment -> ReplicaSets: one per pod template, the present one filled, the others emptied step by step.

The ReplicaSet of a template is found by the template's hash, which is part of its name and of its pods'
labels (``pod-template-hash``). A rolling update never exceeds ``maxSurge`` pods above, nor falls below
``maxUnavailable`` available pods under, the wanted number; it moves on when pods become available.
``Recreate`` empties the old ones first. While paused, a Deployment makes no new ReplicaSet.
"""

from __future__ import annotations

import copy
import hashlib
import math
from contextlib import suppress

import msgspec

from .cache import Cache, Key
from .client import DEPLOYMENTS, REPLICA_SETS, Client, Object, Resource
from .errors import Gone
from .readings import POD_TEMPLATE_HASH, controlled_by, controller_uid, is_terminating, with_condition
from .worker import Worker

_REVISION = "deployment.kubernetes.io/revision"
_LETTERS = "bcdfghjklmnpqrstvwxz2456789"


class DeploymentController:
    """Deployments in, ReplicaSets out."""

    def __init__(self, client: Client, *, deployments: Cache, replica_sets: Cache) -> None:
        self._client = client
        self._deployments = deployments
        self._sets = replica_sets
        self.worker = Worker("deployment", self._reconcile)
        deployments.listen(lambda item: self.worker.add(_key(item)))
        replica_sets.listen(self._set_changed)

    def _set_changed(self, item: Object) -> None:
        for owner in item["metadata"].get("ownerReferences") or ():
            if owner.get("controller") and owner["kind"] == "Deployment":
                self.worker.add((item["metadata"]["namespace"], owner["name"]))

    async def _reconcile(self, key: Key) -> None:
        deployment = self._deployments.get(key)
        if deployment is None or is_terminating(deployment):
            return
        owned = self._sets.by("controller", deployment["metadata"]["uid"])
        digest = template_hash(deployment["spec"]["template"])
        new = next((item for item in owned if _hash_of(item) == digest), None)
        old = [item for item in owned if item is not new]
        if deployment["spec"].get("paused"):
            new = new or max(old, key=_revision, default=None)
            old = [item for item in old if item is not new]
        else:
            deployment, new = await self._current(deployment, new, old, digest)
        if new is not None:
            if deployment["spec"]["strategy"].get("type") == "Recreate":
                new, old = await self._recreate(deployment, new, old)
            else:
                new, old = await self._roll(deployment, new, old)
            if not deployment["spec"].get("paused"):
                await self._forget_oldest(deployment, old)
        await self._update_status(deployment, new, old)

    async def _current(
        self, deployment: Object, new: Object | None, old: list[Object], digest: str
    ) -> tuple[Object, Object]:
        """The ReplicaSet of the present template, made or moved to the newest revision if need be."""
        newest = max((_revision(item) for item in old), default=0)
        if new is None:
            new = await self._client.create(
                REPLICA_SETS,
                _replica_set(deployment, digest, revision=newest + 1),
                namespace=deployment["metadata"]["namespace"],
            )
            self._sets.wrote(new)
        elif _revision(new) <= newest:
            new = await self._write(REPLICA_SETS, self._sets, _annotated(new, str(newest + 1)))
        revision = new["metadata"]["annotations"][_REVISION]
        if (deployment["metadata"].get("annotations") or {}).get(_REVISION) != revision:
            deployment = await self._write(DEPLOYMENTS, self._deployments, _annotated(deployment, revision))
        return deployment, new

    async def _roll(self, deployment: Object, new: Object, old: list[Object]) -> tuple[Object, list[Object]]:
        wanted = deployment["spec"]["replicas"]
        surge, unavailable = _limits(deployment)
        total = sum(_replicas(item) for item in (new, *old))
        if _replicas(new) > wanted:
            new = await self._scale(new, wanted)
        elif _replicas(new) < wanted:
            room = max(0, wanted + surge - total)
            new = await self._scale(new, min(wanted, _replicas(new) + room))
        total = sum(_replicas(item) for item in (new, *old))
        # New replicas that are not available yet must not be counted on when old ones are taken away.
        waiting = max(0, _replicas(new) - _available(new))
        spare = total - (wanted - unavailable) - waiting
        changed: list[Object] = []
        for item in sorted(old, key=_revision):
            broken = max(0, _replicas(item) - _available(item))
            take = min(_replicas(item), max(0, spare), broken)
            spare -= take
            changed.append(await self._scale(item, _replicas(item) - take))
        available = sum(min(_available(item), _replicas(item)) for item in (new, *changed))
        spare = min(spare, available - (wanted - unavailable))
        emptied: list[Object] = []
        for item in changed:
            take = min(_replicas(item), max(0, spare))
            spare -= take
            emptied.append(await self._scale(item, _replicas(item) - take))
        return new, emptied

    async def _recreate(
        self, deployment: Object, new: Object, old: list[Object]
    ) -> tuple[Object, list[Object]]:
        emptied = [await self._scale(item, 0) for item in old]
        if all(item.get("status", {}).get("replicas", 0) == 0 for item in emptied):
            new = await self._scale(new, deployment["spec"]["replicas"])
        return new, emptied

    async def _scale(self, item: Object, replicas: int) -> Object:
        if _replicas(item) == replicas:
            return item
        scaled = item | {"spec": item["spec"] | {"replicas": replicas}}
        return await self._write(REPLICA_SETS, self._sets, scaled)

    async def _forget_oldest(self, deployment: Object, old: list[Object]) -> None:
        empty = [
            item
            for item in sorted(old, key=_revision)
            if _replicas(item) == 0 and item.get("status", {}).get("replicas", 0) == 0
        ]
        surplus = len(empty) - deployment["spec"].get("revisionHistoryLimit", 10)
        for item in empty[: max(0, surplus)]:
            with suppress(Gone):
                await self._client.delete(REPLICA_SETS, item)
            self._sets.removed(item)

    async def _write(self, resource: Resource, cache: Cache, item: Object) -> Object:
        written = await self._client.update(resource, item)
        cache.wrote(written)
        return written

    async def _update_status(self, deployment: Object, new: Object | None, old: list[Object]) -> None:
        sets = [*old, *([new] if new is not None else [])]
        wanted = deployment["spec"]["replicas"]
        total, ready, available = (
            sum(item.get("status", {}).get(field, 0) for item in sets)
            for field in ("replicas", "readyReplicas", "availableReplicas")
        )
        updated = 0 if new is None else new.get("status", {}).get("replicas", 0)
        before = deployment.get("status", {})
        status = {
            "observedGeneration": deployment["metadata"].get("generation", 0),
            "replicas": total,
            "updatedReplicas": updated,
            "readyReplicas": ready,
            "availableReplicas": available,
            "unavailableReplicas": max(0, total - available, wanted - available),
        }
        status = {field: value for field, value in status.items() if value or field == "observedGeneration"}
        enough = available >= wanted - _limits(deployment)[1]
        complete = updated == total == wanted and available == wanted
        conditions = with_condition(
            before.get("conditions") or [],
            "Available",
            status="True" if enough else "False",
            reason="MinimumReplicasAvailable" if enough else "MinimumReplicasUnavailable",
            message=f"Deployment {'has' if enough else 'does not have'} minimum availability.",
            updated=True,
        )
        status["conditions"] = with_condition(
            conditions,
            "Progressing",
            status="True",
            reason="NewReplicaSetAvailable" if complete else "ReplicaSetUpdated",
            message="all replicas are updated and available" if complete else "replicas are being updated",
            updated=True,
        )
        if status != before:
            changed = deployment | {"status": status}
            self._deployments.wrote(await self._client.update(DEPLOYMENTS, changed, subresource="status"))


def template_hash(template: Object) -> str:
    """A name for a pod template: equal templates, and only they, have equal hashes."""
    encoded = msgspec.json.encode(template, order="deterministic")
    number = int.from_bytes(hashlib.sha256(encoded).digest()[:8], "big")
    letters = []
    for _letter in range(10):
        number, index = divmod(number, len(_LETTERS))
        letters.append(_LETTERS[index])
    return "".join(letters)


def sets_by_controller(item: Object) -> list[str]:
    """The index that this controller needs of the ReplicaSet cache, under the name ``controller``."""
    uid = controller_uid(item)
    return [uid] if uid else []


def _replica_set(deployment: Object, digest: str, *, revision: int) -> Object:
    metadata = deployment["metadata"]
    template = copy.deepcopy(deployment["spec"]["template"])
    labels = template.setdefault("metadata", {}).setdefault("labels", {})
    labels[POD_TEMPLATE_HASH] = digest
    selector = copy.deepcopy(deployment["spec"]["selector"])
    selector["matchLabels"] = (selector.get("matchLabels") or {}) | {POD_TEMPLATE_HASH: digest}
    spec: Object = {"replicas": 0, "selector": selector, "template": template}
    if "minReadySeconds" in deployment["spec"]:
        spec["minReadySeconds"] = deployment["spec"]["minReadySeconds"]
    return {
        "apiVersion": "apps/v1",
        "kind": "ReplicaSet",
        "metadata": {
            "name": f"{metadata['name']}-{digest}",
            "labels": dict(labels),
            "annotations": {_REVISION: str(revision)},
            "ownerReferences": [controlled_by(deployment)],
        },
        "spec": spec,
    }


def _limits(deployment: Object) -> tuple[int, int]:
    """How many pods a rolling update may have too many, and how many available ones too few."""
    spec = deployment["spec"]
    if spec["strategy"].get("type") == "Recreate":
        return 0, 0
    rolling = spec["strategy"].get("rollingUpdate") or {}
    surge = _amount(rolling.get("maxSurge", "25%"), spec["replicas"], up=True)
    unavailable = _amount(rolling.get("maxUnavailable", "25%"), spec["replicas"], up=False)
    # Both 0 (after rounding) could never make a step.
    return (surge, unavailable) if surge or unavailable else (0, 1)


def _amount(value: int | str, replicas: int, *, up: bool) -> int:
    if isinstance(value, int):
        return value
    exact = int(value.rstrip("%")) * replicas / 100
    return math.ceil(exact) if up else math.floor(exact)


def _annotated(item: Object, revision: str) -> Object:
    metadata = item["metadata"]
    annotations = (metadata.get("annotations") or {}) | {_REVISION: revision}
    return item | {"metadata": metadata | {"annotations": annotations}}


def _revision(item: Object) -> int:
    return int((item["metadata"].get("annotations") or {}).get(_REVISION, "0"))


def _hash_of(item: Object) -> str:
    return str((item["metadata"].get("labels") or {}).get(POD_TEMPLATE_HASH, ""))


def _replicas(item: Object) -> int:
    return int(item["spec"]["replicas"])


def _available(item: Object) -> int:
    return int(item.get("status", {}).get("availableReplicas", 0))


def _key(item: Object) -> Key:
    return item["metadata"]["namespace"], item["metadata"]["name"]
