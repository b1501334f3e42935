"""The contract's messages and its documents."""

from __future__ import annotations

import json
from pathlib import Path

import msgspec
import pytest

from shared.contract import describe
from shared.contract.base import ContractError, Identity, decode, encode
from shared.contract.identity import IpEntry
from shared.contract.names import cidr_key, ip_key, pod_key, token

DOCS = Path(__file__).resolve().parents[3] / "docs"
ENTRY = IpEntry(ip="10.0.0.1", identity=Identity(300), node="n1", namespace="default", pod="web")


def test_messages_survive_the_wire() -> None:
    assert decode(encode(ENTRY), as_type=IpEntry) == ENTRY


def test_fields_of_newer_writers_are_ignored() -> None:
    fields = msgspec.json.decode(encode(ENTRY))
    fields["colour"] = "green"
    assert decode(json.dumps(fields).encode(), as_type=IpEntry) == ENTRY


def test_a_newer_version_is_refused_by_name() -> None:
    newer = encode(msgspec.structs.replace(ENTRY, v=2))
    with pytest.raises(ContractError, match="IpEntry: version 2"):
        decode(newer, as_type=IpEntry)


def test_a_bad_field_is_refused_by_path() -> None:
    with pytest.raises(ContractError, match=r"IpEntry: .*\$\.identity"):
        decode(b'{"ip": "10.0.0.1", "identity": "x", "node": "n"}', as_type=IpEntry)


def test_keys_are_one_to_one() -> None:
    assert token("a.b") != token("a-b")
    assert pod_key(node="n.1", namespace="ns", pod="p") == "n_1.ns.p"
    assert ip_key("fd00::1") == "fd00-0000-0000-0000-0000-0000-0000-0001"
    assert cidr_key("10.0.0.0/8") == "10-0-0-0_8"


def test_the_documents_are_what_the_code_says() -> None:
    remedy = "run: python -m shared.contract.describe docs"
    made = json.loads(json.dumps(describe.asyncapi()))
    assert json.loads((DOCS / "asyncapi.json").read_text()) == made, remedy
    assert (DOCS / "contract.md").read_text() == describe.page(), remedy
