"""Reading and writing the Kubernetes API as JSON."""

from shared.kubernetes.api import Kubernetes, Object, connect
from shared.kubernetes.errors import (
    ApiError,
    Conflict,
    Gone,
    KubernetesError,
    NoCredentials,
    NotFound,
    ObjectRefused,
    Unreachable,
)
from shared.kubernetes.reading import KubernetesStruct, read_object
from shared.kubernetes.resources import (
    ENDPOINT_SLICES,
    NAMESPACES,
    NETWORK_POLICIES,
    NODES,
    PODS,
    SERVICES,
    Resource,
)
from shared.kubernetes.watch import ObjectBatch, ObjectChange, watch

__all__ = [
    "ENDPOINT_SLICES",
    "NAMESPACES",
    "NETWORK_POLICIES",
    "NODES",
    "PODS",
    "SERVICES",
    "ApiError",
    "Conflict",
    "Gone",
    "Kubernetes",
    "KubernetesError",
    "KubernetesStruct",
    "NoCredentials",
    "NotFound",
    "Object",
    "ObjectBatch",
    "ObjectChange",
    "ObjectRefused",
    "Resource",
    "Unreachable",
    "connect",
    "read_object",
    "watch",
]
