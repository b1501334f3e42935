"""The label set that makes an identity, its canonical form, and its hash.

Two pods have one identity exactly when their label sets are equal: namespace name and labels, service
account, pod labels without those that controllers write per pod, Job or revision, and the container ports
that have names, which policies can tell pods apart by, too. The hash is over
canonical JSON, so every replica and every later version computes the same one.
"""

from __future__ import annotations

import hashlib
from typing import NewType

import msgspec

from shared.contract.base import Identity
from shared.contract.identity import IdentityRecord, NamedPort

LabelsHash = NewType("LabelsHash", str)
"""Lower-case hexadecimal SHA-256 of a canonical label set."""


class LabelSet(msgspec.Struct, frozen=True, kw_only=True):
    """What makes an identity; equal label sets are one identity."""

    namespace: str
    namespace_labels: dict[str, str]
    service_account: str
    pod_labels: dict[str, str]
    named_ports: tuple[NamedPort, ...] = ()

    def digest(self) -> LabelsHash:
        """SHA-256 of the canonical JSON: an array in field order, mappings sorted by key; ports if any."""
        content: list[object] = [
            self.namespace,
            sorted(self.namespace_labels.items()),
            self.service_account,
            sorted(self.pod_labels.items()),
        ]
        if self.named_ports:
            content.append([(port.protocol.value, port.name, port.port) for port in self.named_ports])
        canonical = msgspec.json.encode(content)
        return LabelsHash(hashlib.sha256(canonical).hexdigest())

    def describe(self) -> str:
        """For messages to people."""
        pod_labels = ",".join(f"{key}={value}" for key, value in sorted(self.pod_labels.items()))
        return (
            f"labels {{{pod_labels}}} in namespace {self.namespace}, service account {self.service_account}"
        )

    def record(self, identity: Identity, *, cluster: str) -> IdentityRecord:
        """The published record; ``labels`` are Hubble's label strings, sorted."""
        labels = [f"k8s:{key}={value}" for key, value in self.pod_labels.items()]
        labels += [
            f"k8s:io.cilium.k8s.namespace.labels.{key}={value}"
            for key, value in self.namespace_labels.items()
        ]
        labels.append(f"k8s:io.kubernetes.pod.namespace={self.namespace}")
        labels.append(f"k8s:io.cilium.k8s.policy.cluster={cluster}")
        if self.service_account:
            labels.append(f"k8s:io.cilium.k8s.policy.serviceaccount={self.service_account}")
        return IdentityRecord(
            id=identity,
            namespace=self.namespace,
            namespace_labels=dict(sorted(self.namespace_labels.items())),
            service_account=self.service_account,
            pod_labels=dict(sorted(self.pod_labels.items())),
            labels=tuple(sorted(labels)),
            named_ports=self.named_ports,
        )


def label_set_of(record: IdentityRecord) -> LabelSet:
    """The label set behind a published record."""
    return LabelSet(
        namespace=record.namespace,
        namespace_labels=record.namespace_labels,
        service_account=record.service_account,
        pod_labels=record.pod_labels,
        named_ports=record.named_ports,
    )
