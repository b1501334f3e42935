"""Decodes the Kubernetes protobuf bodies that kubectl's ``create`` commands and ``drain`` send.

Newer kubectl sends what it builds from its own types (``create namespace``, ``create deployment`` ...) as
protobuf and does not fall back to JSON. Answers stay JSON, which it accepts. Format: Kubernetes API concepts,
"Protobuf encoding": four magic bytes, then a ``runtime.Unknown`` message around the object's. Field numbers:
the published ``generated.proto`` of core/v1, apps/v1, policy/v1 and meta/v1.

The tables hold the fields such bodies use. A field that is set but not in a table is refused by name, never
dropped.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import msgspec

from .errors import BadRequest, UnsupportedMediaType

MEDIA_TYPE = "application/vnd.kubernetes.protobuf"
_MAGIC = b"k8s\x00"


class _Field(msgspec.Struct, frozen=True):
    name: str
    type: str
    repeated: bool = False
    mapping: bool = False
    optional: bool = False


def _message(text: str) -> dict[int, _Field]:
    """Parse ``number name:type`` pairs. ``[]``: list; ``{}``: map from strings; ``?``: set even when zero."""
    fields = {}
    words = text.split()
    for number, word in zip(words[::2], words[1::2], strict=True):
        name, _colon, kind = word.partition(":")
        bare = kind.removeprefix("[]").removeprefix("{}").removesuffix("?")
        fields[int(number)] = _Field(
            name, bare, kind.startswith("[]"), kind.startswith("{}"), kind.endswith("?")
        )
    return fields


# The type "server" marks what the server sets itself and ignores in a request.
_MESSAGES: dict[str, dict[int, _Field]] = {
    name: _message(text)
    for name, text in {
        "ObjectMeta": "1 name:str 2 generateName:str 3 namespace:str 4 selfLink:server 5 uid:str"
        " 6 resourceVersion:str 7 generation:server 8 creationTimestamp:server 9 deletionTimestamp:server"
        " 10 deletionGracePeriodSeconds:server 11 labels:{}str 12 annotations:{}str"
        " 13 ownerReferences:[]OwnerReference 14 finalizers:[]str 17 managedFields:server",
        "OwnerReference": "1 kind:str 3 name:str 4 uid:str 5 apiVersion:str 6 controller:bool?"
        " 7 blockOwnerDeletion:bool?",
        "Namespace": "1 metadata:ObjectMeta 2 spec:NamespaceSpec 3 status:server",
        "NamespaceSpec": "1 finalizers:[]str",
        "ConfigMap": "1 metadata:ObjectMeta 2 data:{}str 3 binaryData:{}bytes 4 immutable:bool?",
        "Secret": "1 metadata:ObjectMeta 2 data:{}bytes 3 type:str 4 stringData:{}str 5 immutable:bool?",
        "ServiceAccount": "1 metadata:ObjectMeta 2 secrets:[]ObjectReference"
        " 3 imagePullSecrets:[]LocalObjectReference 4 automountServiceAccountToken:bool?",
        "ObjectReference": "1 kind:str 2 namespace:str 3 name:str 4 uid:str 5 apiVersion:str"
        " 6 resourceVersion:str 7 fieldPath:str",
        "LocalObjectReference": "1 name:str",
        "Service": "1 metadata:ObjectMeta 2 spec:ServiceSpec 3 status:server",
        "ServiceSpec": "1 ports:[]ServicePort 2 selector:{}str 3 clusterIP:str 4 type:str 5 externalIPs:[]str"
        " 7 sessionAffinity:str 8 loadBalancerIP:str 9 loadBalancerSourceRanges:[]str 10 externalName:str"
        " 11 externalTrafficPolicy:str 12 healthCheckNodePort:int 13 publishNotReadyAddresses:bool"
        " 14 sessionAffinityConfig:SessionAffinityConfig 17 ipFamilyPolicy:str 18 clusterIPs:[]str"
        " 19 ipFamilies:[]str 20 allocateLoadBalancerNodePorts:bool? 21 loadBalancerClass:str"
        " 22 internalTrafficPolicy:str 23 trafficDistribution:str",
        "ServicePort": "1 name:str 2 protocol:str 3 port:int 4 targetPort:IntOrString 5 nodePort:int"
        " 6 appProtocol:str",
        "SessionAffinityConfig": "1 clientIP:ClientIPConfig",
        "ClientIPConfig": "1 timeoutSeconds:int?",
        "Deployment": "1 metadata:ObjectMeta 2 spec:DeploymentSpec 3 status:server",
        "DeploymentSpec": "1 replicas:int? 2 selector:LabelSelector 3 template:PodTemplateSpec"
        " 4 strategy:DeploymentStrategy 5 minReadySeconds:int 6 revisionHistoryLimit:int? 7 paused:bool"
        " 9 progressDeadlineSeconds:int?",
        "DeploymentStrategy": "1 type:str 2 rollingUpdate:RollingUpdateDeployment",
        "RollingUpdateDeployment": "1 maxUnavailable:IntOrString 2 maxSurge:IntOrString",
        "LabelSelector": "1 matchLabels:{}str 2 matchExpressions:[]LabelSelectorRequirement",
        "LabelSelectorRequirement": "1 key:str 2 operator:str 3 values:[]str",
        "PodTemplateSpec": "1 metadata:ObjectMeta 2 spec:PodSpec",
        "PodSpec": "2 containers:[]Container 3 restartPolicy:str 4 terminationGracePeriodSeconds:int?"
        " 5 activeDeadlineSeconds:int? 6 dnsPolicy:str 7 nodeSelector:{}str 8 serviceAccountName:str"
        " 9 serviceAccount:str 10 nodeName:str 11 hostNetwork:bool 12 hostPID:bool 13 hostIPC:bool"
        " 15 imagePullSecrets:[]LocalObjectReference 16 hostname:str 17 subdomain:str 19 schedulerName:str"
        " 20 initContainers:[]Container 21 automountServiceAccountToken:bool? 24 priorityClassName:str"
        " 29 runtimeClassName:str 30 enableServiceLinks:bool?",
        "Container": "1 name:str 2 image:str 3 command:[]str 4 args:[]str 5 workingDir:str"
        " 6 ports:[]ContainerPort 7 env:[]EnvVar 13 terminationMessagePath:str 14 imagePullPolicy:str"
        " 16 stdin:bool 17 stdinOnce:bool 18 tty:bool 20 terminationMessagePolicy:str 24 restartPolicy:str",
        "ContainerPort": "1 name:str 2 hostPort:int 3 containerPort:int 4 protocol:str 5 hostIP:str",
        "EnvVar": "1 name:str 2 value:str",
        "Eviction": "1 metadata:ObjectMeta 2 deleteOptions:DeleteOptions",
        "DeleteOptions": "1 gracePeriodSeconds:int? 2 preconditions:Preconditions 3 orphanDependents:bool?"
        " 4 propagationPolicy:str 5 dryRun:[]str",
        "Preconditions": "1 uid:str 2 resourceVersion:str",
        "IntOrString": "1 type:int 2 intVal:int 3 strVal:str",
        "Unknown": "1 typeMeta:TypeMeta 2 raw:raw 3 contentEncoding:str 4 contentType:str",
        "TypeMeta": "1 apiVersion:str 2 kind:str",
    }.items()
}


def decode(body: bytes) -> dict[str, Any]:
    """The object in ``body``, as its JSON would be. ``UnsupportedMediaType`` for what the tables do not
    know."""
    if not body.startswith(_MAGIC):
        raise BadRequest("the body is not Kubernetes protobuf")
    try:
        envelope = _decode(body[len(_MAGIC) :], "Unknown")
        kind = str(envelope["typeMeta"]["kind"])
        if kind not in _MESSAGES:
            raise UnsupportedMediaType(f"{kind} as protobuf is not understood here; send it as JSON or YAML")
        decoded = _decode(envelope.get("raw", b""), kind)
    except (IndexError, KeyError, UnicodeDecodeError) as refused:
        raise BadRequest(f"the protobuf body is damaged: {refused!r}") from refused
    return {"apiVersion": envelope["typeMeta"]["apiVersion"], "kind": kind} | decoded


def _decode(data: bytes, message: str) -> dict[str, Any]:
    decoded: dict[str, Any] = {}
    for number, value in _fields(data):
        field = _MESSAGES[message].get(number)
        if field is None:
            if value:
                raise UnsupportedMediaType(
                    f"field {number} of {message} as protobuf is not understood here; send JSON or YAML"
                )
        elif field.mapping:
            entry = dict(_fields(_bytes(value)))
            key = _bytes(entry.get(1, b"")).decode()
            decoded.setdefault(field.name, {})[key] = _value(entry.get(2, b""), field.type)
        elif field.repeated:
            decoded.setdefault(field.name, []).append(_value(value, field.type))
        elif field.type != "server":
            # Go writes every plain field, set or not; only pointers distinguish zero from absent.
            plain = _value(value, field.type)
            if field.optional or plain:
                decoded[field.name] = plain
    return decoded


def _value(value: int | bytes, kind: str) -> Any:
    match kind:
        case "int":
            number = _int(value)
            return number - (1 << 64) if number >= 1 << 63 else number
        case "bool":
            return bool(_int(value))
        case "str":
            return _bytes(value).decode()
        case "bytes":
            return base64.b64encode(_bytes(value)).decode()
        case "raw":
            return value
        case "IntOrString":
            either = _decode(_bytes(value), kind)
            return either.get("strVal", "") if either.get("type") else either.get("intVal", 0)
    return _decode(_bytes(value), kind)


def _fields(data: bytes) -> Iterator[tuple[int, int | bytes]]:
    """Field numbers and values: integers, or bytes for anything with a length."""
    position = 0
    while position < len(data):
        tag, position = _varint(data, position)
        match tag & 7:
            case 0:
                number, position = _varint(data, position)
                yield tag >> 3, number
            case 2:
                length, position = _varint(data, position)
                if position + length > len(data):
                    raise BadRequest("the protobuf body is cut short")
                yield tag >> 3, data[position : position + length]
                position += length
            case wire:
                raise UnsupportedMediaType(f"protobuf wire type {wire} is not understood here; send JSON")


def _varint(data: bytes, position: int) -> tuple[int, int]:
    number = shift = 0
    while True:
        byte = data[position]
        position += 1
        number |= (byte & 127) << shift
        shift += 7
        if byte < 128:
            return number, position
        if shift > 63:
            raise BadRequest("the protobuf body has a number of more than 64 bits")


def _bytes(value: int | bytes) -> bytes:
    if isinstance(value, int):
        raise BadRequest("the protobuf body has a number where text belongs")
    return value


def _int(value: int | bytes) -> int:
    if isinstance(value, bytes):
        raise BadRequest("the protobuf body has text where a number belongs")
    return value
