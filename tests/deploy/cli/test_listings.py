"""Listings: their tables and their JSON."""

from __future__ import annotations

import json

import pytest

from shared.contract.policy import PolicyRef
from tests.deploy.cli.conftest import Run
from tests.deploy.cli.world import BACKEND, World, refused

REFUSED = PolicyRef(kind="NetworkPolicy", namespace="prod", name="bad")

IDENTITY_TABLE = """\
ID     NAMESPACE   ENDPOINTS   LABELS
1001   default     2           k8s:app=frontend k8s:io.kubernetes.pod.namespace=default
1002   default     2           k8s:app=backend k8s:io.kubernetes.pod.namespace=default
"""
SERVICE_TABLE = """\
NAMESPACE   NAME      TYPE        ADDRESSES    PORT     PORT NAME   READY BACKENDS
default     backend   ClusterIP   10.96.0.10   80/TCP   web         1/2
"""
ENDPOINT_TABLE = """\
NAMESPACE   NAME         NODE     IP           IDENTITY   INGRESS   EGRESS   READY
default     backend-a    node-1   10.244.0.3   1002       policy    open     yes
default     backend-b    node-2   10.244.1.3   1002       policy    open     yes
default     frontend-a   node-1   10.244.0.2   1001       open      open     yes
default     frontend-b   node-2   10.244.1.2   1001       open      open     yes
"""
POLICY_TABLE = """\
KIND            NAMESPACE   NAME                        ACCEPTED   SUBJECTS   RULES   REVISION   REALISED
NetworkPolicy   default     allow-frontend-to-backend   yes        1          1       4          2 of 2
NetworkPolicy   prod        bad                         refused    0          0       0          0 of 2
prod/bad: spec.ingress[0].ports[0].port: is 70000; use 1 to 65535
"""


@pytest.mark.parametrize(
    ("command", "table"),
    [("identity", IDENTITY_TABLE), ("service", SERVICE_TABLE), ("endpoint", ENDPOINT_TABLE)],
)
async def test_tables(world: World, stentor: Run, command: str, table: str) -> None:
    done = stentor(command, "list")
    assert (done.returncode, done.stdout, done.stderr) == (0, table, "")


async def test_identity_json(world: World, stentor: Run) -> None:
    assert json.loads(stentor("identity", "list", "-o", "json").stdout)[0] == {
        "id": 1001,
        "namespace": "default",
        "labels": ["k8s:app=frontend", "k8s:io.kubernetes.pod.namespace=default"],
        "endpoints": 2,
    }


async def test_service_json(world: World, stentor: Run) -> None:
    assert json.loads(stentor("service", "list", "-o", "json").stdout) == [
        {
            "namespace": "default",
            "name": "backend",
            "kind": "ClusterIP",
            "addresses": ["10.96.0.10"],
            "ports": [
                {
                    "name": "web",
                    "protocol": "TCP",
                    "port": 80,
                    "node_port": 0,
                    "backends": 2,
                    "ready_backends": 1,
                }
            ],
        }
    ]


async def test_endpoint_json(world: World, stentor: Run) -> None:
    assert json.loads(stentor("endpoint", "list", "-o", "json").stdout)[0] == {
        "namespace": "default",
        "name": "backend-a",
        "node": "node-1",
        "ips": ["10.244.0.3"],
        "identity": BACKEND,
        "ready": True,
        "ingress": "policy",
        "egress": "open",
    }


@pytest.mark.parametrize("command", ["identity", "service", "endpoint", "policy"])
def test_empty_listing_is_an_empty_array_and_no_error(stentor: Run, command: str) -> None:
    done = stentor(command, "list", "-o", "json")
    assert (done.returncode, json.loads(done.stdout), done.stderr) == (0, [], "")
    assert stentor(command, "list").stdout == ""


async def test_policy_table(world: World, stentor: Run) -> None:
    await world.put_status(refused(REFUSED))
    done = stentor("policy", "list")
    assert (done.returncode, done.stdout) == (0, POLICY_TABLE)


async def test_policy_json(world: World, stentor: Run) -> None:
    await world.put_status(refused(REFUSED))
    await world.realise("node-2", policy_revision=world.policy_revision - 1)
    good, bad = json.loads(stentor("policy", "list", "-o", "json").stdout)
    assert good == {
        "kind": "NetworkPolicy",
        "namespace": "default",
        "name": "allow-frontend-to-backend",
        "accepted": True,
        "in_force": "7",
        "revision": world.policy_revision,
        "subjects": 1,
        "rules": 1,
        "realised": 1,
        "nodes": 2,
        "errors": [],
        "problems": [],
    }
    assert (bad["accepted"], bad["realised"]) == (False, 0)
    assert bad["errors"] == [
        {"field": "spec.ingress[0].ports[0].port", "reason": "is 70000", "remedy": "use 1 to 65535"}
    ]


async def test_policy_show_json(world: World, stentor: Run) -> None:
    await world.realise("node-2", policy_revision=world.policy_revision - 1)
    detail = json.loads(stentor("policy", "show", "default/allow-frontend-to-backend", "-o", "json").stdout)
    assert (detail["realised_on"], detail["awaited_on"]) == (["node-1"], ["node-2"])
    assert [(subject["identity"], subject["directions"]) for subject in detail["subjects"]] == [
        (1002, ["ingress"])
    ]
    assert detail["rules"] == [
        {
            "direction": "ingress",
            "index": 0,
            "peers": ["k8s:app=frontend,k8s:io.kubernetes.pod.namespace=default"],
            "ports": ["TCP 80"],
            "action": "allow",
        }
    ]


async def test_policy_show_for_people(world: World, stentor: Run) -> None:
    done = stentor("policy", "show", "allow-frontend-to-backend")
    assert done.returncode == 0
    assert done.stdout.startswith(
        "NetworkPolicy default/allow-frontend-to-backend\n  in force from revision 4, "
    )
    assert "ingress     0      allow    TCP 80   k8s:app=frontend" in done.stdout


async def test_policy_show_of_a_refused_policy_fails(world: World, stentor: Run) -> None:
    await world.put_status(refused(REFUSED))
    done = stentor("policy", "show", "prod/bad")
    assert done.returncode == 1
    assert "refused: spec.ingress[0].ports[0].port: is 70000; use 1 to 65535" in done.stdout


async def test_policy_show_of_an_unknown_policy(world: World, stentor: Run) -> None:
    done = stentor("policy", "show", "default/nothing")
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(
        "stentor: policy default/nothing: the policy service knows none of this name"
    )
