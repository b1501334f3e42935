"""Discovery documents: which groups, versions and resources are served, in both formats clients ask for.

Formats: ``APIVersions``/``APIGroupList``/``APIResourceList`` (v1), and aggregated discovery
(``apidiscovery.k8s.io/v2``), which saves kubectl one request per group.
"""

from __future__ import annotations

import platform
from typing import Any

from .resources import VERBS, Registry, ResourceType

KUBERNETES_VERSION = "v1.36.0"
AGGREGATED = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList"

Document = dict[str, Any]


def version() -> Document:
    """The body of ``/version``: the Kubernetes version whose API this server resembles."""
    major, minor, _patch = KUBERNETES_VERSION.lstrip("v").split(".")
    return {
        "major": major,
        "minor": minor,
        "gitVersion": f"{KUBERNETES_VERSION}+stentor-lab",
        "gitCommit": "",
        "gitTreeState": "clean",
        "buildDate": "1970-01-01T00:00:00Z",
        "goVersion": "",
        "compiler": platform.python_implementation(),
        "platform": f"linux/{platform.machine()}",
    }


def core_versions() -> Document:
    """The body of ``/api``."""
    return {"kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": []}


def group_list(registry: Registry) -> Document:
    """The body of ``/apis``."""
    groups = [_group(name, versions) for name, versions in registry.groups().items() if name]
    return {"kind": "APIGroupList", "apiVersion": "v1", "groups": groups}


def group(registry: Registry, *, name: str) -> Document | None:
    """The body of ``/apis/<group>``, or None."""
    versions = registry.groups().get(name)
    if not name or versions is None:
        return None
    return {"kind": "APIGroup", "apiVersion": "v1"} | _group(name, versions)


def resource_list(registry: Registry, *, group: str, version: str) -> Document | None:
    """The body of ``/api/v1`` or ``/apis/<group>/<version>``, or None."""
    resources = registry.of_version(group=group, version=version)
    if not resources:
        return None
    entries: list[Document] = []
    for resource in resources:
        entry: Document = {
            "name": resource.plural,
            "singularName": resource.singular or resource.kind.lower(),
            "namespaced": resource.namespaced,
            "kind": resource.kind,
            "verbs": list(VERBS),
        }
        if resource.short_names:
            entry["shortNames"] = list(resource.short_names)
        if resource.categories:
            entry["categories"] = list(resource.categories)
        entries.append(entry)
        entries += [
            {
                "name": f"{resource.plural}/{sub['subresource']}",
                "singularName": "",
                "namespaced": resource.namespaced,
                "kind": sub["responseKind"]["kind"],
                "group": sub["responseKind"]["group"],
                "version": sub["responseKind"]["version"],
                "verbs": sub["verbs"],
            }
            for sub in _subresources(resource)
        ]
    shown = f"{group}/{version}" if group else version
    return {"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": shown, "resources": entries}


def aggregated(registry: Registry, *, core: bool) -> Document:
    """The aggregated body of ``/api`` (``core``) or ``/apis``."""
    items = [
        {
            "metadata": {"name": name} if name else {},
            "versions": [_aggregated_version(registry, name, version) for version in versions],
        }
        for name, versions in registry.groups().items()
        if bool(name) is not core
    ]
    return {
        "kind": "APIGroupDiscoveryList",
        "apiVersion": "apidiscovery.k8s.io/v2",
        "metadata": {},
        "items": items,
    }


def _group(name: str, versions: tuple[str, ...]) -> Document:
    listed = [{"groupVersion": f"{name}/{version}", "version": version} for version in versions]
    return {"name": name, "versions": listed, "preferredVersion": listed[0]}


def _aggregated_version(registry: Registry, group: str, version: str) -> Document:
    resources = [
        {
            "resource": resource.plural,
            "responseKind": _kind(resource.group, resource.version, resource.kind),
            "scope": "Namespaced" if resource.namespaced else "Cluster",
            "singularResource": resource.singular or resource.kind.lower(),
            "verbs": list(VERBS),
            "shortNames": list(resource.short_names),
            "categories": list(resource.categories),
            "subresources": _subresources(resource),
        }
        for resource in registry.of_version(group=group, version=version)
    ]
    return {"version": version, "resources": resources, "freshness": "Current"}


def _subresources(resource: ResourceType) -> list[Document]:
    found: list[Document] = []
    if resource.status:
        kind = _kind(resource.group, resource.version, resource.kind)
        found.append({"subresource": "status", "responseKind": kind, "verbs": ["get", "patch", "update"]})
    if resource.scale is not None:
        kind = _kind("autoscaling", "v1", "Scale")
        found.append({"subresource": "scale", "responseKind": kind, "verbs": ["get", "patch", "update"]})
    kinds = {"binding": _kind("", "v1", "Binding"), "eviction": _kind("policy", "v1", "Eviction")}
    found += [{"subresource": a, "responseKind": kinds[a], "verbs": ["create"]} for a in resource.actions]
    return found


def _kind(group: str, version: str, kind: str) -> Document:
    return {"group": group, "version": version, "kind": kind}
