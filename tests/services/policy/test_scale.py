"""A large cluster: ten thousand identities under five thousand policies with five hundred distinct peers."""

from __future__ import annotations

import random
import time
from typing import Any

import pytest

from services.policy.compiler import Compiler, identity_key
from services.policy.networkpolicy import read_network_policy
from services.policy.planner import Planner
from services.policy.retirement import Patience
from shared.contract.base import Identity
from shared.contract.identity import IdentityRecord
from shared.contract.names import COMMIT_KEY
from shared.labels import EVERY_LABEL

IDENTITIES, POLICIES, PEERS, NAMESPACES, APPS = 10_000, 5_000, 500, 100, 250
FULL_SECONDS = 10.0
CHANGE_SECONDS = 0.1


def namespace_labels(number: int) -> dict[str, str]:
    return {"team": f"t{number % 20}", "env": ("prod", "dev", "test")[number % 3]}


def peer(number: int) -> dict[str, Any]:
    app, team = f"app{number % APPS}", f"t{number % 20}"
    match number % 5:
        case 0:
            return {
                "podSelector": {"matchLabels": {"app": app}},
                "namespaceSelector": {"matchLabels": {"team": team}},
            }
        case 1:
            return {
                "podSelector": {"matchLabels": {"tier": f"tier{number % 7}"}},
                "namespaceSelector": {"matchLabels": {"team": team}},
            }
        case 2:
            several = [app, f"app{(number + 7) % APPS}"]
            return {
                "podSelector": {"matchExpressions": [{"key": "app", "operator": "In", "values": several}]},
                "namespaceSelector": {},
            }
        case 3:
            dev = {"key": "env", "operator": "NotIn", "values": ["dev"]}
            return {
                "podSelector": {"matchLabels": {"app": app}},
                "namespaceSelector": {"matchExpressions": [dev]},
            }
        case _:
            first = number % 256
            return {"ipBlock": {"cidr": f"172.{first}.0.0/16", "except": [f"172.{first}.4.0/24"]}}


def some_policy(number: int, chance: random.Random, peers: list[dict[str, Any]]) -> dict[str, Any]:
    subject = {"matchLabels": {"app": f"app{chance.randrange(APPS)}"}} if number % 50 else {}
    ports = [{"port": 80}, {"port": 8000, "endPort": 9000}]
    spec: dict[str, Any] = {
        "podSelector": subject,
        "ingress": [{"from": chance.sample(peers, 2), "ports": ports}, {"from": [chance.choice(peers)]}],
    }
    if number % 3 == 0:
        spec["egress"] = [{"to": [chance.choice(peers)]}, {"ports": [{"protocol": "UDP", "port": 53}]}]
    return {"metadata": {"name": f"p{number}", "namespace": f"ns{number % NAMESPACES}"}, "spec": spec}


def some_identity(number: int, chance: random.Random) -> IdentityRecord:
    home = chance.randrange(NAMESPACES)
    return IdentityRecord(
        id=Identity(256 + number),
        namespace=f"ns{home}",
        namespace_labels=namespace_labels(home),
        pod_labels={
            "app": f"app{chance.randrange(APPS)}",
            "tier": f"tier{chance.randrange(7)}",
            "n": str(number),
        },
    )


@pytest.mark.timeout(120)
def test_a_large_cluster_is_compiled_in_seconds_and_a_change_in_milliseconds() -> None:
    chance = random.Random(1)
    began = time.process_time()
    compiler = Compiler()
    for number in range(IDENTITIES):
        compiler.set_identity(some_identity(number, chance))
        compiler.set_address(f"10.0.{number // 256}.{number % 256}", Identity(256 + number))
    peers = [peer(number) for number in range(PEERS)]
    for number in range(POLICIES):
        data = some_policy(number, chance, peers)
        where = data["metadata"]
        compiler.set_policy(
            read_network_policy(
                data, namespace=where["namespace"], name=where["name"], selectable=EVERY_LABEL
            )
        )
    planner = Planner(compiler, patience=Patience())
    first = planner.plan(realised=0, now=0.0, time="now")
    assert first is not None
    planner.committed(first, revision=len(first.items), now=0.0)
    assert time.process_time() - began < FULL_SECONDS
    assert len(compiler.sets) > 1000
    assert planner.classes < IDENTITIES / 5

    began = time.process_time()
    compiler.set_identity(
        IdentityRecord(
            id=Identity(99_999),
            namespace="ns1",
            namespace_labels=namespace_labels(1),
            pod_labels={"app": "nothing-selects-this"},
        )
    )
    change = planner.plan(realised=0, now=0.0, time="now")
    assert change is not None
    assert [key for key, _ in change.items if key.startswith("identity.")] == [identity_key(99_999)]
    assert change.items[-1][0] == COMMIT_KEY
    assert time.process_time() - began < CHANGE_SECONDS
