"""Services with a selector -> EndpointSlices: which pods serve which ports, and whether they take traffic.

Slices are grouped by address family and by resolved ports: a named ``targetPort`` is looked up in each pod,
and pods where it resolves differently are in different slices; a pod without that name lacks the port. An
endpoint stays in the slice it is in; new ones fill the slices that have room. A Service without endpoints has
one empty slice per family.

``ready`` is serving and not terminating, or always, if the Service publishes not-ready addresses.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator, Mapping
from contextlib import suppress

import msgspec

from .cache import Cache, Key, key_of
from .client import ENDPOINT_SLICES, Client, Object
from .errors import Gone
from .readings import controlled_by, has_labels, is_finished, is_ready, is_terminating
from .worker import Worker

SERVICE_NAME = "kubernetes.io/service-name"
MANAGED_BY = "endpointslice.kubernetes.io/managed-by"
MANAGER = "endpointslice-controller.k8s.io"
HEADLESS = "service.kubernetes.io/headless"
_ZONE = "topology.kubernetes.io/zone"
_SLICE_SIZE = 100
"""Endpoints per slice, as in Kubernetes."""


class EndpointSliceController:
    """Services, pods and nodes in, EndpointSlices out."""

    def __init__(self, client: Client, *, services: Cache, pods: Cache, slices: Cache, nodes: Cache) -> None:
        self._client = client
        self._services = services
        self._pods = pods
        self._slices = slices
        self._nodes = nodes
        self.worker = Worker("endpointslice", self._reconcile)
        services.listen(lambda service: self.worker.add(key_of(service)))
        pods.listen(self._pod_changed)
        slices.listen(self._slice_changed)
        nodes.listen(self._node_changed)
        self._zones: dict[str, str] = {}

    def _pod_changed(self, pod: Object) -> None:
        for service in self._services.by("namespace", pod["metadata"]["namespace"]):
            selector = service["spec"].get("selector")
            if selector and has_labels(pod, selector):
                self.worker.add(key_of(service))

    def _slice_changed(self, item: Object) -> None:
        labels = item["metadata"].get("labels") or {}
        if labels.get(MANAGED_BY) == MANAGER and labels.get(SERVICE_NAME):
            self.worker.add((item["metadata"]["namespace"], labels[SERVICE_NAME]))

    def _node_changed(self, node: Object) -> None:
        name = node["metadata"]["name"]
        zone = (node["metadata"].get("labels") or {}).get(_ZONE, "")
        if self._zones.get(name, "") != zone:
            self._zones[name] = zone
            for service in self._services:
                self.worker.add(key_of(service))

    async def _reconcile(self, key: Key) -> None:
        existing = [item for item in self._slices.by("service", "/".join(key)) if not is_terminating(item)]
        service = self._services.get(key)
        if service is None or is_terminating(service) or service["spec"]["type"] == "ExternalName":
            for item in existing:
                await self._delete(item)
            return
        if not service["spec"].get("selector"):
            return
        desired = self._desired(service)
        unused = [item for item in existing if _group_of(item) not in desired]
        for group, endpoints in desired.items():
            own = [item for item in existing if _group_of(item) == group]
            if not own:
                # Rewriting a slice changes its ports and endpoints at once, with no moment in between.
                own = [item for item in unused if item["addressType"] == group.family][:1]
                unused = [item for item in unused if item not in own]
            await self._fill(service, group, own, endpoints)
        for item in unused:
            await self._delete(item)

    def _desired(self, service: Object) -> dict[Group, list[Object]]:
        """The endpoints of each slice group; every family of the Service has at least one group."""
        spec = service["spec"]
        pods = [
            pod
            for pod in self._pods.by("namespace", service["metadata"]["namespace"])
            if has_labels(pod, spec["selector"]) and not is_finished(pod)
        ]
        desired: dict[Group, list[Object]] = {}
        for family in spec.get("ipFamilies") or ["IPv4"]:
            found: dict[Group, list[Object]] = {}
            for pod in pods:
                address = _address(pod, family)
                if address is not None:
                    group = Group(family, tuple(_resolved_ports(service, pod)))
                    found.setdefault(group, []).append(self._endpoint(service, pod, address))
            desired |= found or {Group(family, ()): []}
        return desired

    def _endpoint(self, service: Object, pod: Object, address: str) -> Object:
        spec, metadata = pod["spec"], pod["metadata"]
        serving, terminating = is_ready(pod), is_terminating(pod)
        ready = bool(service["spec"].get("publishNotReadyAddresses")) or (serving and not terminating)
        endpoint: Object = {
            "addresses": [address],
            "conditions": {"ready": ready, "serving": serving, "terminating": terminating},
            "targetRef": {
                "kind": "Pod",
                "namespace": metadata["namespace"],
                "name": metadata["name"],
                "uid": metadata["uid"],
            },
        }
        node = spec.get("nodeName")
        if node:
            endpoint["nodeName"] = node
        if spec.get("hostname") and spec.get("subdomain") == service["metadata"]["name"]:
            endpoint["hostname"] = spec["hostname"]
        if zone := self._zones.get(node or "", ""):
            endpoint["zone"] = zone
        if ready and (hints := _hints(service["spec"].get("trafficDistribution"), node, zone)):
            endpoint["hints"] = hints
        return endpoint

    async def _fill(self, service: Object, group: Group, own: list[Object], endpoints: list[Object]) -> None:
        """Make the group's slices hold exactly ``endpoints``, moving none that need not move."""
        wanted = {_identity(endpoint): endpoint for endpoint in endpoints}
        contents: list[list[Object]] = []
        for item in own:
            stay = [wanted.pop(i) for e in item.get("endpoints") or () if (i := _identity(e)) in wanted]
            contents.append(stay)
        waiting = [wanted[identity] for identity in sorted(wanted)]
        for stay in contents:
            room = _SLICE_SIZE - len(stay)
            stay += waiting[:room]
            waiting = waiting[room:]
        for item, stay in zip(own, contents, strict=True):
            if not stay and any(contents):
                await self._delete(item)
            else:
                await self._write(service, group, stay, item)
        for start in range(0, len(waiting), _SLICE_SIZE) if own or waiting else (0,):
            await self._write(service, group, waiting[start : start + _SLICE_SIZE], None)

    async def _write(
        self, service: Object, group: Group, endpoints: list[Object], old: Object | None
    ) -> None:
        metadata = service["metadata"]
        labels = dict(metadata.get("labels") or {})
        labels |= {SERVICE_NAME: metadata["name"], MANAGED_BY: MANAGER}
        if service["spec"].get("clusterIP") == "None":
            labels[HEADLESS] = ""
        body: Object = {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "addressType": group.family,
            "ports": [msgspec.to_builtins(port) for port in group.ports],
            "endpoints": endpoints,
        }
        if old is None:
            body["metadata"] = {
                "generateName": metadata["name"] + "-",
                "labels": labels,
                "ownerReferences": [controlled_by(service)],
            }
            created = await self._client.create(ENDPOINT_SLICES, body, namespace=metadata["namespace"])
            self._slices.wrote(created)
            return
        changed = old | body | {"metadata": old["metadata"] | {"labels": labels}}
        if changed != old:
            self._slices.wrote(await self._client.update(ENDPOINT_SLICES, changed))

    async def _delete(self, item: Object) -> None:
        with suppress(Gone):
            await self._client.delete(ENDPOINT_SLICES, item)
        self._slices.removed(item)


class SlicePort(msgspec.Struct, frozen=True, order=True, omit_defaults=True, rename="camel"):
    """One port of a slice, resolved to a number."""

    port: int
    protocol: str
    name: str | None = None
    app_protocol: str | None = None


class Group(msgspec.Struct, frozen=True):
    """What the endpoints of a slice have in common."""

    family: str
    ports: tuple[SlicePort, ...]


def slices_by_service(item: Object) -> list[str]:
    """The index that this controller needs of the slice cache, under the name ``service``."""
    labels: Mapping[str, str] = item["metadata"].get("labels") or {}
    if labels.get(MANAGED_BY) != MANAGER or SERVICE_NAME not in labels:
        return []
    return [f"{item['metadata']['namespace']}/{labels[SERVICE_NAME]}"]


def by_namespace(item: Object) -> list[str]:
    """The index ``namespace`` of the Service and pod caches."""
    return [item["metadata"]["namespace"]]


def _resolved_ports(service: Object, pod: Object) -> Iterator[SlicePort]:
    for port in service["spec"].get("ports") or ():
        target = port.get("targetPort", port["port"])
        number = target if isinstance(target, int) else _named_port(pod, target, port["protocol"])
        if number is not None:
            yield SlicePort(
                port=number,
                protocol=port["protocol"],
                name=port.get("name", ""),
                app_protocol=port.get("appProtocol"),
            )


def _named_port(pod: Object, name: str, protocol: str) -> int | None:
    sidecars = [c for c in pod["spec"].get("initContainers") or () if c.get("restartPolicy") == "Always"]
    for container in [*pod["spec"]["containers"], *sidecars]:
        for port in container.get("ports") or ():
            if port.get("name") == name and port.get("protocol", "TCP") == protocol:
                return int(port["containerPort"])
    return None


def _address(pod: Object, family: str) -> str | None:
    status = pod.get("status", {})
    addresses = [entry["ip"] for entry in status.get("podIPs") or () if entry.get("ip")]
    addresses = addresses or ([status["podIP"]] if status.get("podIP") else [])
    return next((a for a in addresses if f"IPv{ipaddress.ip_address(a).version}" == family), None)


def _hints(distribution: str | None, node: str | None, zone: str) -> Object:
    hints: Object = {}
    if distribution in ("PreferClose", "PreferSameZone", "PreferSameNode") and zone:
        hints["forZones"] = [{"name": zone}]
    if distribution == "PreferSameNode" and node:
        hints["forNodes"] = [{"name": node}]
    return hints


def _identity(endpoint: Object) -> tuple[str, str]:
    return (endpoint.get("targetRef") or {}).get("uid", ""), endpoint["addresses"][0]


def _group_of(item: Object) -> Group | None:
    """The group of a stored slice; None if someone made it one that this controller does not write."""
    try:
        return Group(item["addressType"], msgspec.convert(item.get("ports") or (), tuple[SlicePort, ...]))
    except msgspec.ValidationError:
        return None
