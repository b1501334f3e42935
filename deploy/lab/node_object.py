"""The Node object of a lab node. Pure."""

from __future__ import annotations

import os
import platform
from typing import Any

from deploy.lab.pods import now
from deploy.lab.topology import HostPlan

USE_CILIUM = "azure.microsoft.com/use-cilium"
"""Annotation of nodes on which policy is to be enforced."""

MAX_PODS = 110
RUNTIME = "stentor-lab://1"


def node_object(host: HostPlan, *, use_cilium: bool) -> dict[str, Any]:
    """The Node without its status."""
    metadata: dict[str, Any] = {
        "name": host.name,
        "labels": {
            "kubernetes.io/hostname": host.name,
            "kubernetes.io/os": "linux",
            "kubernetes.io/arch": _architecture(),
        },
    }
    if use_cilium:
        metadata["annotations"] = {USE_CILIUM: "true"}
    return {
        "apiVersion": "v1",
        "kind": "Node",
        "metadata": metadata,
        "spec": {"podCIDR": host.pod_cidrs[0], "podCIDRs": list(host.pod_cidrs)},
    }


def node_status(host: HostPlan, *, before: dict[str, Any]) -> dict[str, Any]:
    """Its status now; ``before`` is the present one, of which transition times are kept."""
    time = now()
    since = {
        condition.get("type"): condition.get("lastTransitionTime")
        for condition in before.get("conditions") or []
        if (condition.get("status") == "True") == (condition.get("type") == "Ready")
    }
    resources = {
        "cpu": str(os.cpu_count() or 1),
        "memory": f"{_memory_bytes() // 1024}Ki",
        "pods": str(MAX_PODS),
    }
    conditions = [
        ("MemoryPressure", "False", "KubeletHasSufficientMemory"),
        ("DiskPressure", "False", "KubeletHasNoDiskPressure"),
        ("PIDPressure", "False", "KubeletHasSufficientPID"),
        ("Ready", "True", "KubeletReady"),
    ]
    return {
        "addresses": [
            *({"type": "InternalIP", "address": ip} for ip in host.ips),
            {"type": "Hostname", "address": host.name},
        ],
        "capacity": resources,
        "allocatable": resources,
        "conditions": [
            {
                "type": kind,
                "status": status,
                "reason": reason,
                "message": "lab node",
                "lastHeartbeatTime": time,
                "lastTransitionTime": since.get(kind) or time,
            }
            for kind, status, reason in conditions
        ],
        "nodeInfo": {
            "architecture": _architecture(),
            "bootID": "",
            "containerRuntimeVersion": RUNTIME,
            "kernelVersion": platform.release(),
            "kubeProxyVersion": "",
            "kubeletVersion": "v1.33.0-stentor-lab",
            "machineID": host.name,
            "operatingSystem": "linux",
            "osImage": "Stentor lab",
            "systemUUID": host.name,
        },
    }


def is_machine(node: dict[str, Any]) -> bool:
    """Whether the Node is run by another kubelet than a lab's."""
    runtime = ((node.get("status") or {}).get("nodeInfo") or {}).get("containerRuntimeVersion")
    return bool(runtime) and runtime != RUNTIME


def _architecture() -> str:
    return {"x86_64": "amd64", "aarch64": "arm64"}.get(platform.machine(), platform.machine())


def _memory_bytes() -> int:
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
