"""The values a Kubernetes API server fills in, as far as anything that runs in the lab relies on them.

Every function changes the new object it is given, which nobody else holds yet. Defaults apply on every write,
as on a real server, and never override what is set. A field of an unexpected type is left for others to
judge. Source: the "Default" notes of the Kubernetes API reference.
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Iterator
from typing import Any, TypeAlias

from .resources import ResourceType

Object: TypeAlias = dict[str, Any]


def apply_defaults(new: Object, *, resource: ResourceType) -> None:
    """Fill in ``new``, an object of ``resource``."""
    if resource.built_in and (default := _BY_KIND.get(resource.kind)) is not None:
        default(new)


def _child(parent: Any, name: str) -> Object:
    """The object under ``name``, made if absent; a throw-away one where something else is in its place."""
    if not isinstance(parent, dict):
        return {}
    value = parent.get(name)
    if value is None:
        value = parent[name] = {}
    return value if isinstance(value, dict) else {}


def _objects(parent: Any, name: str) -> Iterator[Object]:
    items = parent.get(name) if isinstance(parent, dict) else None
    return (item for item in items if isinstance(item, dict)) if isinstance(items, list) else iter(())


def _set(target: Object, **values: Any) -> None:
    for name, value in values.items():
        if target.get(name) is None:
            target[name] = value


def _namespace(new: Object) -> None:
    labels = _child(_child(new, "metadata"), "labels")
    labels["kubernetes.io/metadata.name"] = new["metadata"]["name"]
    _set(_child(new, "spec"), finalizers=["kubernetes"])
    _set(_child(new, "status"), phase="Active")


def _pod(new: Object) -> None:
    spec = _child(new, "spec")
    _pod_spec(spec)
    _set(spec, serviceAccountName="default", enableServiceLinks=True)
    status = _child(new, "status")
    _set(status, phase="Pending", qosClass="BestEffort")


def _pod_spec(spec: Object) -> None:
    _set(
        spec,
        restartPolicy="Always",
        dnsPolicy="ClusterFirst",
        schedulerName="default-scheduler",
        terminationGracePeriodSeconds=30,
        securityContext={},
    )
    for group in ("initContainers", "containers"):
        for container in _objects(spec, group):
            _container(container, host_network=spec.get("hostNetwork") is True)


def _container(container: Object, *, host_network: bool) -> None:
    image = container.get("image")
    latest = isinstance(image, str) and (":" not in image.rpartition("/")[2] or image.endswith(":latest"))
    _set(
        container,
        imagePullPolicy="Always" if latest else "IfNotPresent",
        resources={},
        terminationMessagePath="/dev/termination-log",
        terminationMessagePolicy="File",
    )
    for port in _objects(container, "ports"):
        _set(port, protocol="TCP")
        if host_network and "containerPort" in port:
            _set(port, hostPort=port["containerPort"])
    for name in ("readinessProbe", "livenessProbe", "startupProbe"):
        if isinstance(probe := container.get(name), dict):
            _set(probe, timeoutSeconds=1, periodSeconds=10, successThreshold=1, failureThreshold=3)
            if isinstance(http := probe.get("httpGet"), dict):
                _set(http, path="/", scheme="HTTP")


def _service(new: Object) -> None:
    spec = _child(new, "spec")
    _set(spec, type="ClusterIP", sessionAffinity="None")
    if spec["sessionAffinity"] == "ClientIP":
        _set(_child(_child(spec, "sessionAffinityConfig"), "clientIP"), timeoutSeconds=10800)
    for port in _objects(spec, "ports"):
        _set(port, protocol="TCP")
        if "port" in port and port.get("targetPort") in (None, "", 0):
            port["targetPort"] = port["port"]
    if spec["type"] != "ExternalName":
        _set(spec, internalTrafficPolicy="Cluster")
    if spec["type"] in ("NodePort", "LoadBalancer"):
        _set(spec, externalTrafficPolicy="Cluster")
    if spec["type"] == "LoadBalancer":
        _set(spec, allocateLoadBalancerNodePorts=True)
    _set(_child(new, "status"), loadBalancer={})


def _network_policy(new: Object) -> None:
    spec = _child(new, "spec")
    if not spec.get("policyTypes"):
        spec["policyTypes"] = ["Ingress", "Egress"] if spec.get("egress") else ["Ingress"]
    for direction in ("ingress", "egress"):
        for rule in _objects(spec, direction):
            for port in _objects(rule, "ports"):
                _set(port, protocol="TCP")


def _deployment(new: Object) -> None:
    spec = _child(new, "spec")
    _set(spec, replicas=1, revisionHistoryLimit=10, progressDeadlineSeconds=600)
    strategy = _child(spec, "strategy")
    _set(strategy, type="RollingUpdate")
    if strategy.get("type") == "RollingUpdate":
        _set(_child(strategy, "rollingUpdate"), maxSurge="25%", maxUnavailable="25%")
    _pod_spec(_child(_child(spec, "template"), "spec"))
    _child(new, "status")


def _replica_set(new: Object) -> None:
    spec = _child(new, "spec")
    _set(spec, replicas=1)
    _pod_spec(_child(_child(spec, "template"), "spec"))
    _set(_child(new, "status"), replicas=0)


def _endpoint_slice(new: Object) -> None:
    for port in _objects(new, "ports"):
        _set(port, protocol="TCP", name="")
    if new.get("endpoints") is None:
        new["endpoints"] = []


def _secret(new: Object) -> None:
    _set(new, type="Opaque")
    texts = new.pop("stringData", None)
    if isinstance(texts, dict):
        data = _child(new, "data")
        data |= {name: base64.b64encode(str(text).encode()).decode() for name, text in texts.items()}


def _definition(new: Object) -> None:
    spec = _child(new, "spec")
    names = _child(spec, "names")
    if isinstance(kind := names.get("kind"), str):
        _set(names, singular=kind.lower(), listKind=f"{kind}List")
    _set(spec, conversion={"strategy": "None"})


_BY_KIND: dict[str, Callable[[Object], None]] = {
    "Namespace": _namespace,
    "Pod": _pod,
    "Service": _service,
    "NetworkPolicy": _network_policy,
    "Deployment": _deployment,
    "ReplicaSet": _replica_set,
    "EndpointSlice": _endpoint_slice,
    "Secret": _secret,
    "CustomResourceDefinition": _definition,
}
