"""Which resources are served: a table row per built-in resource, and rows added by CustomResourceDefinitions.

The registry answers "what is served at this group, version and plural"; it holds no objects. Several served
versions of one custom resource share their ``storage`` key, so their objects are the same objects.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import msgspec


class PrinterColumn(msgspec.Struct, frozen=True, kw_only=True):
    """One extra column of ``kubectl get`` for a custom resource (CRD field ``additionalPrinterColumns``)."""

    name: str
    type: str
    path: str
    priority: int = 0


class ScalePaths(msgspec.Struct, frozen=True, kw_only=True):
    """Where the ``scale`` subresource reads and writes (CRD field ``subresources.scale``), as dotted
    paths."""

    spec_replicas: str = "spec.replicas"
    status_replicas: str = "status.replicas"
    selector: str = "spec.selector"


class ResourceType(msgspec.Struct, frozen=True, kw_only=True):
    """One served resource: where it is found, what its objects are called, and what it can do.

    ``status`` says that ``/status`` exists and that the main endpoint leaves ``.status`` alone.
    ``generation`` says that ``metadata.generation`` counts changes of everything but metadata and status.
    ``fields`` are the field selectors beyond ``metadata.name`` and ``metadata.namespace``. ``built_in``
    resources take strategic merge patches.
    """

    group: str
    version: str
    plural: str
    kind: str
    namespaced: bool = True
    singular: str = ""
    short_names: tuple[str, ...] = ()
    categories: tuple[str, ...] = ()
    status: bool = False
    scale: ScalePaths | None = None
    actions: tuple[str, ...] = ()
    generation: bool = False
    fields: tuple[str, ...] = ()
    built_in: bool = True
    columns: tuple[PrinterColumn, ...] = ()
    schema: Any = None

    @property
    def storage(self) -> str:
        """The key of this resource's objects in the store, shared by all its versions."""
        return self.qualified

    @property
    def qualified(self) -> str:
        """``plural.group``, as messages and CRD names write it."""
        return f"{self.plural}.{self.group}" if self.group else self.plural

    @property
    def api_version(self) -> str:
        """The ``apiVersion`` of the objects."""
        return f"{self.group}/{self.version}" if self.group else self.version

    @property
    def list_kind(self) -> str:
        """The ``kind`` of a list of the objects."""
        return f"{self.kind}List"


VERBS = ("create", "delete", "deletecollection", "get", "list", "patch", "update", "watch")

_POD_FIELDS = (
    "spec.nodeName",
    "spec.restartPolicy",
    "spec.schedulerName",
    "spec.serviceAccountName",
    "spec.hostNetwork",
    "status.phase",
    "status.podIP",
    "status.nominatedNodeName",
)
_EVENT_FIELDS = (
    "involvedObject.kind",
    "involvedObject.namespace",
    "involvedObject.name",
    "involvedObject.uid",
    "involvedObject.apiVersion",
    "involvedObject.resourceVersion",
    "involvedObject.fieldPath",
    "reason",
    "reportingComponent",
    "source",
    "type",
)


def _core(plural: str, kind: str, *short: str, **more: Any) -> ResourceType:
    return ResourceType(group="", version="v1", plural=plural, kind=kind, short_names=short, **more)


BUILT_IN: tuple[ResourceType, ...] = (
    _core("namespaces", "Namespace", "ns", namespaced=False, status=True, fields=("status.phase",)),
    _core("nodes", "Node", "no", namespaced=False, status=True, fields=("spec.unschedulable",)),
    _core(
        "pods",
        "Pod",
        "po",
        status=True,
        categories=("all",),
        actions=("binding", "eviction"),
        fields=_POD_FIELDS,
        generation=True,
    ),
    _core(
        "services", "Service", "svc", status=True, categories=("all",), fields=("spec.clusterIP", "spec.type")
    ),
    _core("endpoints", "Endpoints", "ep", singular="endpoints"),
    _core("serviceaccounts", "ServiceAccount", "sa"),
    _core("configmaps", "ConfigMap", "cm"),
    _core("secrets", "Secret", fields=("type",)),
    _core("events", "Event", "ev", fields=_EVENT_FIELDS),
    ResourceType(
        group="apps",
        version="v1",
        plural="deployments",
        kind="Deployment",
        short_names=("deploy",),
        categories=("all",),
        status=True,
        scale=ScalePaths(),
        generation=True,
    ),
    ResourceType(
        group="apps",
        version="v1",
        plural="replicasets",
        kind="ReplicaSet",
        short_names=("rs",),
        categories=("all",),
        status=True,
        scale=ScalePaths(),
        generation=True,
        fields=("status.replicas",),
    ),
    ResourceType(
        group="discovery.k8s.io",
        version="v1",
        plural="endpointslices",
        kind="EndpointSlice",
        generation=True,
    ),
    ResourceType(
        group="networking.k8s.io",
        version="v1",
        plural="networkpolicies",
        singular="networkpolicy",
        kind="NetworkPolicy",
        short_names=("netpol",),
        generation=True,
    ),
    ResourceType(group="coordination.k8s.io", version="v1", plural="leases", kind="Lease"),
    ResourceType(
        group="apiextensions.k8s.io",
        version="v1",
        plural="customresourcedefinitions",
        kind="CustomResourceDefinition",
        short_names=("crd", "crds"),
        namespaced=False,
        status=True,
        generation=True,
    ),
)


def built_in(qualified: str) -> ResourceType:
    """The built-in resource called ``plural`` or ``plural.group``; ``KeyError`` if there is none."""
    return _BY_NAME[qualified]


_BY_NAME = {resource.qualified: resource for resource in BUILT_IN}


class Registry:
    """The resources served now. Built-ins never change; custom ones come and go with their definitions."""

    def __init__(self) -> None:
        self._served: dict[tuple[str, str, str], ResourceType] = {}
        for resource in BUILT_IN:
            self.add(resource)

    def add(self, resource: ResourceType) -> None:
        """Serve ``resource``, in place of whatever had its group, version and plural."""
        self._served[resource.group, resource.version, resource.plural] = resource

    def remove(self, resource: ResourceType) -> None:
        """Stop serving ``resource``; its objects are not touched."""
        self._served.pop((resource.group, resource.version, resource.plural), None)

    def find(self, *, group: str, version: str, plural: str) -> ResourceType | None:
        """The resource served at that path, if any."""
        return self._served.get((group, version, plural))

    def of_storage(self, storage: str) -> ResourceType | None:
        """Any served version of the resource whose objects are kept under ``storage``."""
        return next((r for r in self._served.values() if r.storage == storage), None)

    def __iter__(self) -> Iterator[ResourceType]:
        return iter(tuple(self._served.values()))

    def groups(self) -> dict[str, tuple[str, ...]]:
        """Served versions by group (the core group is the empty string), both in order of registration."""
        found: dict[str, dict[str, None]] = {}
        for resource in self._served.values():
            found.setdefault(resource.group, {})[resource.version] = None
        return {group: tuple(versions) for group, versions in found.items()}

    def of_version(self, *, group: str, version: str) -> tuple[ResourceType, ...]:
        """The resources of one group and version, in order of registration."""
        return tuple(r for r in self._served.values() if (r.group, r.version) == (group, version))
