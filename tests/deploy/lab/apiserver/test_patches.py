"""Patches, selectors and protobuf bodies, on the cases their specifications give and the ones that bite."""

from __future__ import annotations

from typing import Any

import pytest

from deploy.lab.apiserver.errors import BadRequest, UnsupportedMediaType
from deploy.lab.apiserver.patches import PatchMismatch, json_patch, merge_patch
from deploy.lab.apiserver.protobuf import decode
from deploy.lab.apiserver.selectors import label_predicate
from deploy.lab.apiserver.strategic import strategic_merge


@pytest.mark.parametrize(
    ("target", "patch", "expected"),
    [
        ({"a": "b"}, {"a": "c"}, {"a": "c"}),
        ({"a": "b", "b": "c"}, {"a": None}, {"b": "c"}),
        ({"a": ["b"]}, {"a": "c"}, {"a": "c"}),
        ({"a": {"b": "c"}}, {"a": {"b": "d", "c": None}}, {"a": {"b": "d"}}),
        ({"a": [{"b": "c"}]}, {"a": [1]}, {"a": [1]}),
        ({"e": None}, {"a": 1}, {"e": None, "a": 1}),
        ({}, {"a": {"bb": {"ccc": None}}}, {"a": {"bb": {}}}),
    ],
)
def test_merge_patch(target: Any, patch: Any, expected: Any) -> None:
    assert merge_patch(target, patch) == expected


@pytest.mark.parametrize(
    ("operations", "expected"),
    [
        ([{"op": "add", "path": "/l/1", "value": "x"}], {"l": ["a", "x", "b"], "o": {"k": 1}}),
        ([{"op": "add", "path": "/l/-", "value": "x"}], {"l": ["a", "b", "x"], "o": {"k": 1}}),
        ([{"op": "remove", "path": "/l/0"}], {"l": ["b"], "o": {"k": 1}}),
        ([{"op": "replace", "path": "/l/1", "value": "c"}], {"l": ["a", "c"], "o": {"k": 1}}),
        ([{"op": "move", "from": "/o/k", "path": "/l/0"}], {"l": [1, "a", "b"], "o": {}}),
        ([{"op": "copy", "from": "/l", "path": "/o/l"}], {"l": ["a", "b"], "o": {"k": 1, "l": ["a", "b"]}}),
        ([{"op": "test", "path": "/o/k", "value": 1}], {"l": ["a", "b"], "o": {"k": 1}}),
        ([{"op": "add", "path": "/o/a~1b~0c", "value": 0}], {"l": ["a", "b"], "o": {"k": 1, "a/b~c": 0}}),
    ],
)
def test_json_patch(operations: Any, expected: Any) -> None:
    target = {"l": ["a", "b"], "o": {"k": 1}}
    assert json_patch(target, operations) == expected
    assert target == {"l": ["a", "b"], "o": {"k": 1}}


@pytest.mark.parametrize(
    "operation",
    [
        {"op": "remove", "path": "/missing"},
        {"op": "replace", "path": "/missing", "value": 1},
        {"op": "add", "path": "/l/3", "value": 1},
        {"op": "add", "path": "/l/01", "value": 1},
        {"op": "test", "path": "/o/k", "value": True},
        {"op": "move", "from": "/o", "path": "/o/k"},
    ],
)
def test_json_patch_that_does_not_fit(operation: Any) -> None:
    with pytest.raises(PatchMismatch):
        json_patch({"l": ["a", "b"], "o": {"k": 1}}, [operation])


@pytest.mark.parametrize(
    "operations", [{}, ["x"], [{"op": "jump", "path": "/a"}], [{"op": "add", "path": "/a"}]]
)
def test_json_patch_that_is_none(operations: Any) -> None:
    with pytest.raises(BadRequest):
        json_patch({}, operations)


def containers(*names: str) -> dict[str, Any]:
    return {"spec": {"containers": [{"name": name, "image": f"{name}:1"} for name in names]}}


def names(merged: dict[str, Any]) -> list[str]:
    return [container["name"] for container in merged["spec"]["containers"]]


def test_strategic_merge_of_lists_by_key() -> None:
    patch = {"spec": {"containers": [{"name": "b", "image": "b:2"}, {"name": "c", "image": "c:1"}]}}
    merged = strategic_merge(containers("a", "b"), patch, kind="Pod")
    assert merged["spec"]["containers"] == [
        {"name": "a", "image": "a:1"},
        {"name": "b", "image": "b:2"},
        {"name": "c", "image": "c:1"},
    ]


def test_strategic_directives() -> None:
    gone = {"spec": {"containers": [{"name": "a", "$patch": "delete"}]}}
    assert names(strategic_merge(containers("a", "b"), gone, kind="Pod")) == ["b"]
    whole = {"spec": {"containers": [{"$patch": "replace"}, {"name": "z"}]}}
    assert names(strategic_merge(containers("a", "b"), whole, kind="Pod")) == ["z"]
    order = {"spec": {"$setElementOrder/containers": [{"name": "b"}, {"name": "a"}]}}
    assert names(strategic_merge(containers("a", "x", "b"), order, kind="Pod")) == ["b", "x", "a"]
    metadata = {"metadata": {"finalizers": ["a", "b"]}}
    less = {"metadata": {"$deleteFromPrimitiveList/finalizers": ["a"], "finalizers": ["c"]}}
    assert set(strategic_merge(metadata, less, kind="Pod")["metadata"]["finalizers"]) == {"b", "c"}
    strategy = {"spec": {"strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": 1}}}}
    other = {"spec": {"strategy": {"$retainKeys": ["type"], "type": "Recreate"}}}
    assert strategic_merge(strategy, other, kind="Deployment") == {"spec": {"strategy": {"type": "Recreate"}}}
    replaced = {"spec": {"strategy": {"$patch": "replace", "type": "Recreate"}}}
    assert strategic_merge(strategy, replaced, kind="Deployment") == {
        "spec": {"strategy": {"type": "Recreate"}}
    }


def test_strategic_merge_replaces_lists_without_a_key() -> None:
    policy = {"spec": {"ingress": [{"ports": [{"port": 1}]}], "policyTypes": ["Ingress"]}}
    merged = strategic_merge(policy, {"spec": {"ingress": [{}]}}, kind="NetworkPolicy")
    assert merged == {"spec": {"ingress": [{}], "policyTypes": ["Ingress"]}}


def test_strategic_merge_leaves_its_arguments_alone() -> None:
    target = containers("a")
    strategic_merge(target, {"spec": {"containers": [{"name": "a", "image": "other"}]}}, kind="Pod")
    assert target == containers("a")


@pytest.mark.parametrize(
    ("selector", "expected"),
    [
        ("", "abc"),
        ("n=1", "a"),
        ("n==1,t", "a"),
        ("n!=1", "bc"),
        ("n in (1, 2)", "ab"),
        ("n notin (1,2)", "c"),
        ("t", "ab"),
        ("!t", "c"),
        ("n>1", "b"),
        ("n<2", "a"),
        ("example.com/x=", "c"),
    ],
)
def test_label_selectors(selector: str, expected: str) -> None:
    labels = {"a": {"n": "1", "t": "x"}, "b": {"n": "2", "t": "y"}, "c": {"example.com/x": ""}}
    matches = label_predicate(selector)
    assert "".join(name for name, own in labels.items() if matches({"metadata": {"labels": own}})) == expected


def test_protobuf_is_understood_or_refused_by_name() -> None:
    def field(number: int, payload: bytes) -> bytes:
        return bytes([number << 3 | 2, len(payload)]) + payload

    def body(kind: bytes, raw: bytes) -> bytes:
        return b"k8s\x00" + field(1, field(1, b"v1") + field(2, kind)) + field(2, raw)

    metadata = field(1, field(1, b"blue") + field(8, b"") + field(11, field(1, b"k") + field(2, b"v")))
    assert decode(body(b"Namespace", metadata)) == {
        "apiVersion": "v1",
        "kind": "Namespace",
        "metadata": {"name": "blue", "labels": {"k": "v"}},
    }
    secret = decode(body(b"Secret", field(2, field(1, b"k") + field(2, b"\xff"))))
    assert secret["data"] == {"k": "/w=="}
    with pytest.raises(UnsupportedMediaType, match="Lease as protobuf"):
        decode(body(b"Lease", b""))
    with pytest.raises(UnsupportedMediaType, match="field 9 of Namespace"):
        decode(body(b"Namespace", field(9, b"new")))
    for damaged in (b"nothing", b"k8s\x00\x0a", b"k8s\x00\x0a\x7f", body(b"Namespace", b"\x0a\x20")):
        with pytest.raises(BadRequest):
            decode(damaged)


@pytest.mark.parametrize("selector", ["a in 1", "a=b=c", "n>x", "(", "a b"])
def test_label_selectors_that_are_none(selector: str) -> None:
    with pytest.raises(BadRequest):
        label_predicate(selector)
