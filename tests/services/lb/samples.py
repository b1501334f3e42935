"""Small Services and EndpointSlices for tests."""

from __future__ import annotations

from typing import Any


def service_object(name: str = "web", *, namespace: str = "default", **spec: Any) -> dict[str, Any]:
    """A ``v1`` Service as the API server gives it."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": namespace, "uid": f"uid-{name}"},
        "spec": {
            "type": "ClusterIP",
            "clusterIP": "10.96.0.10",
            "clusterIPs": ["10.96.0.10"],
            "ports": [{"name": "http", "port": 80, "protocol": "TCP", "targetPort": "http"}],
            **spec,
        },
    }


def endpoint(ip: str, **fields: Any) -> dict[str, Any]:
    """One endpoint; ``ready``, ``serving``, ``terminating`` go to its conditions."""
    conditions = {key: fields.pop(key) for key in ("ready", "serving", "terminating") if key in fields}
    return {
        "addresses": [ip],
        "conditions": conditions,
        "nodeName": "node-1",
        "targetRef": {"kind": "Pod", "namespace": "default", "name": f"pod-{ip}"},
        **fields,
    }


def slice_object(
    name: str,
    *endpoints: dict[str, Any],
    service: str = "web",
    ports: tuple[tuple[str, int, str], ...] = (("http", 8080, "TCP"),),
    address_type: str = "IPv4",
) -> dict[str, Any]:
    """A ``discovery.k8s.io/v1`` EndpointSlice as the API server gives it."""
    return {
        "apiVersion": "discovery.k8s.io/v1",
        "kind": "EndpointSlice",
        "metadata": {
            "name": name,
            "namespace": "default",
            "labels": {"kubernetes.io/service-name": service},
        },
        "addressType": address_type,
        "endpoints": list(endpoints),
        "ports": [{"name": port, "port": number, "protocol": protocol} for port, number, protocol in ports],
    }
