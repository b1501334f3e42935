"""What the controllers read out of pods and other objects: readiness, owners, selectors, times."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from .client import Object

POD_TEMPLATE_HASH = "pod-template-hash"


def now() -> str:
    """The time as Kubernetes writes it."""
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def condition(item: Object, kind: str) -> Object | None:
    """The condition of ``item`` with type ``kind``."""
    conditions = item.get("status", {}).get("conditions") or ()
    return next((found for found in conditions if found.get("type") == kind), None)


def is_true(item: Object, kind: str) -> bool:
    """Whether a condition is there and True."""
    found = condition(item, kind)
    return found is not None and found.get("status") == "True"


def with_condition(
    conditions: list[Object],
    kind: str,
    *,
    status: str,
    reason: str,
    message: str,
    updated: bool = False,
) -> list[Object]:
    """``conditions`` with one set; the very same list if that changes nothing.

    ``lastTransitionTime`` moves with the status. ``updated`` adds ``lastUpdateTime``, which workloads have.
    """
    old = next((found for found in conditions if found["type"] == kind), None)
    new = {"type": kind, "status": status, "reason": reason, "message": message}
    if old is not None and all(old.get(field) == value for field, value in new.items()):
        return conditions
    moment = now()
    same = old is not None and old.get("status") == status
    new["lastTransitionTime"] = old["lastTransitionTime"] if old is not None and same else moment
    if updated:
        new["lastUpdateTime"] = moment
    return [*(found for found in conditions if found["type"] != kind), new]


def is_terminating(item: Object) -> bool:
    """Whether its deletion has begun."""
    return "deletionTimestamp" in item["metadata"]


def is_finished(pod: Object) -> bool:
    """Whether its containers have ended for good."""
    return pod.get("status", {}).get("phase") in ("Failed", "Succeeded")


def is_active(pod: Object) -> bool:
    """Whether a pod counts towards its owner's replicas."""
    return not is_terminating(pod) and not is_finished(pod)


def is_ready(pod: Object) -> bool:
    """Whether its Ready condition holds."""
    return is_true(pod, "Ready")


def seconds_since_ready(pod: Object) -> float:
    """How long it has been Ready; 0 if it is not."""
    found = condition(pod, "Ready")
    if found is None or found.get("status") != "True":
        return 0.0
    stamp = found.get("lastTransitionTime")
    if not stamp:
        return 0.0
    return (datetime.now(UTC) - datetime.fromisoformat(stamp)).total_seconds()


def controller_uid(item: Object) -> str:
    """The uid of the owner that controls ``item``, or an empty string."""
    owners = item["metadata"].get("ownerReferences") or ()
    return next((str(owner["uid"]) for owner in owners if owner.get("controller")), "")


def controlled_by(owner: Object) -> Object:
    """The owner reference of an object that ``owner`` controls."""
    return {
        "apiVersion": owner["apiVersion"],
        "kind": owner["kind"],
        "name": owner["metadata"]["name"],
        "uid": owner["metadata"]["uid"],
        "controller": True,
        "blockOwnerDeletion": True,
    }


def has_labels(item: Object, wanted: Mapping[str, Any]) -> bool:
    """Whether ``item`` has all the labels of an equality selector."""
    labels = item["metadata"].get("labels") or {}
    return all(labels.get(key) == value for key, value in wanted.items())
