"""The shape of a ``networking.k8s.io/v1`` NetworkPolicy as the API server sends it.

``null`` and absent mean the same, as in the API. A field that is not listed in the ``spec`` is refused
rather than ignored: ignoring a condition would allow more than the author wrote.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec


class _Strict(msgspec.Struct, frozen=True, kw_only=True, rename="camel", forbid_unknown_fields=True):
    pass


class RawRequirement(_Strict, frozen=True, kw_only=True):
    """``meta/v1.LabelSelectorRequirement``."""

    key: str
    operator: str
    values: tuple[str, ...] | None = None


class RawSelector(_Strict, frozen=True, kw_only=True):
    """``meta/v1.LabelSelector``."""

    match_labels: Mapping[str, str] | None = None
    match_expressions: tuple[RawRequirement, ...] | None = None


class RawBlock(_Strict, frozen=True, kw_only=True):
    """``IPBlock``."""

    cidr: str
    excepts: tuple[str, ...] | None = msgspec.field(default=None, name="except")


class RawPeer(_Strict, frozen=True, kw_only=True):
    """``NetworkPolicyPeer``."""

    pod_selector: RawSelector | None = None
    namespace_selector: RawSelector | None = None
    ip_block: RawBlock | None = None


class RawPort(_Strict, frozen=True, kw_only=True):
    """``NetworkPolicyPort``."""

    protocol: str | None = None
    port: int | str | None = None
    end_port: int | None = None


class RawIngressRule(_Strict, frozen=True, kw_only=True):
    """``NetworkPolicyIngressRule``."""

    peers: tuple[RawPeer, ...] | None = msgspec.field(default=None, name="from")
    ports: tuple[RawPort, ...] | None = None


class RawEgressRule(_Strict, frozen=True, kw_only=True):
    """``NetworkPolicyEgressRule``."""

    peers: tuple[RawPeer, ...] | None = msgspec.field(default=None, name="to")
    ports: tuple[RawPort, ...] | None = None


class RawSpec(_Strict, frozen=True, kw_only=True):
    """``NetworkPolicySpec``."""

    pod_selector: RawSelector | None = None
    ingress: tuple[RawIngressRule, ...] | None = None
    egress: tuple[RawEgressRule, ...] | None = None
    policy_types: tuple[str, ...] | None = None


class RawMetadata(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The fields of ``meta/v1.ObjectMeta`` that matter here."""

    name: str
    namespace: str
    uid: str = ""
    resource_version: str = ""


class RawNetworkPolicy(msgspec.Struct, frozen=True, kw_only=True, rename="camel"):
    """The object."""

    metadata: RawMetadata
    spec: RawSpec | None = None
