"""Kubernetes objects of scenario tests, as short as they can be said."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

Object = dict[str, Any]


def namespace(name: str, **labels: str) -> Object:
    """A Namespace."""
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}}


def pod(name: str, *, namespace: str, node: str, ports: Sequence[str] = ("80",), **labels: str) -> Object:
    """A Pod on a node; a port is ``80``, ``53/UDP`` or, with a name, ``web=8080``."""
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "namespace": namespace, "labels": labels},
        "spec": {
            "nodeName": node,
            "containers": [
                {"name": "server", "image": "httpd", "ports": [_container_port(port) for port in ports]}
            ],
        },
    }


def on_host_network(pod: Object) -> Object:
    """The same Pod with ``hostNetwork``."""
    return {**pod, "spec": {**pod["spec"], "hostNetwork": True}}


def service(name: str, *, namespace: str, ports: Sequence[str], **selector: str) -> Object:
    """A ClusterIP Service; a port is ``80:8080``, ``53:dns/UDP`` or, with a name, ``web=80:8080``."""
    return {
        "apiVersion": "v1",
        "kind": "Service",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"selector": selector, "ports": [_service_port(port) for port in ports]},
    }


def policy(
    name: str,
    *,
    namespace: str,
    subject: Object | None = None,
    peers: Sequence[Object] = (),
    ports: Sequence[Any] = (),
) -> Object:
    """A NetworkPolicy: what may come in to pods with the labels ``subject``, all without. No peers: nothing.

    A peer is an entry of ``from``; a port as in :func:`pod`, or an entry of ``ports`` as it is.
    """
    rule: Object = {"from": list(peers)}
    if ports:
        rule["ports"] = [port if isinstance(port, dict) else policy_port(port) for port in ports]
    return network_policy(
        name,
        namespace=namespace,
        subject=subject,
        policyTypes=["Ingress"],
        ingress=[rule] if peers else [],
    )


def network_policy(name: str, *, namespace: str, subject: Object | None = None, **spec: Any) -> Object:
    """A NetworkPolicy about pods with the labels ``subject``, all without; ``spec`` is the rest, as it is."""
    return {
        "apiVersion": "networking.k8s.io/v1",
        "kind": "NetworkPolicy",
        "metadata": {"name": name, "namespace": namespace},
        "spec": {"podSelector": {"matchLabels": subject} if subject else {}, **spec},
    }


def from_pods(**labels: str) -> Object:
    """A peer: pods of the policy's namespace with these labels."""
    return {"podSelector": {"matchLabels": labels}}


def from_namespaces(**labels: str) -> Object:
    """A peer: all pods of namespaces with these labels."""
    return {"namespaceSelector": {"matchLabels": labels}}


def block(cidr: str, *excepts: str) -> Object:
    """A peer: addresses."""
    return {"ipBlock": {"cidr": cidr, **({"except": list(excepts)} if excepts else {})}}


def matching(*expressions: tuple[str, ...], **labels: str) -> Object:
    """A label selector; an expression is key, operator and values: ``("app", "In", "web", "api")``."""
    selector: Object = {"matchLabels": labels} if labels else {}
    if expressions:
        selector["matchExpressions"] = [
            {"key": key, "operator": operator, **({"values": values} if values else {})}
            for key, operator, *values in expressions
        ]
    return selector


def policy_port(text: str) -> Object:
    """An entry of ``ports``: ``80``, ``53/UDP``, ``8000-8010``, ``/UDP`` or a name, ``web``."""
    _, numbers, protocol = _split(text)
    port: Object = {"protocol": protocol}
    if numbers and not numbers[0].isdigit():
        return {**port, "port": numbers}
    first, _, last = numbers.partition("-")
    if first:
        port["port"] = int(first)
    if last:
        port["endPort"] = int(last)
    return port


def _split(text: str) -> tuple[str, str, str]:
    """Name, number and protocol."""
    rest, _, protocol = text.partition("/")
    name, _, number = rest.rpartition("=")
    return name, number, protocol or "TCP"


def _container_port(text: str) -> Object:
    name, number, protocol = _split(text)
    port: Object = {"containerPort": int(number), "protocol": protocol}
    return {**port, "name": name} if name else port


def _service_port(text: str) -> Object:
    name, numbers, protocol = _split(text)
    port, _, target = numbers.partition(":")
    return {
        "name": name or f"p{port}",
        "port": int(port),
        "protocol": protocol,
        "targetPort": int(target) if target.isdigit() else target,
    }
