"""Describes the contract: an AsyncAPI 3.0 document and a page for people, both made from the code.

``python -m shared.contract.describe docs`` writes ``asyncapi.json`` and ``contract.md`` into a directory; a
test compares the files in ``docs/`` with what this makes.
"""

from __future__ import annotations

import inspect
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import msgspec

from shared.contract.base import Message
from shared.contract.flow import Flow, FlowsLost
from shared.contract.identity import Claim, EndpointRecord, IdentityRecord, IpEntry, LabelRules, NodeRecord
from shared.contract.names import Bucket
from shared.contract.node import Event, Realised, ServiceHealth
from shared.contract.policy import AddressClass, CidrClass, Commit, IdentityPolicy, PolicySet, PolicyStatus
from shared.contract.service import ServiceRecord, ServicesSynced


@dataclass(frozen=True)
class Channel:
    """One kind of message: where it is, who writes it."""

    name: str
    address: str
    """Key inside the bucket, or the whole subject when ``bucket`` is None."""
    message: type[Message]
    writer: str
    bucket: Bucket | None = None

    @property
    def subject(self) -> str:
        """The subject on NATS, with parameters in braces."""
        if self.bucket is None:
            return self.address
        return f"$KV.{self.bucket.of('{cluster}')}.{self.address}"


CHANNELS = (
    Channel("identity", "{number}", IdentityRecord, "identity", Bucket.IDENTITIES),
    Channel("ipEntry", "{ip}", IpEntry, "identity", Bucket.IPCACHE),
    Channel("endpoint", "{node}.{namespace}.{pod}", EndpointRecord, "identity", Bucket.ENDPOINTS),
    Channel("node", "{node}", NodeRecord, "identity", Bucket.NODES),
    Channel("labelRules", "labels", LabelRules, "identity", Bucket.SETTINGS),
    Channel("claim", "{node}.{namespace}.{pod}", Claim, "datapath of the node", Bucket.CLAIMS),
    Channel("policySet", "set.{id}", PolicySet, "policy", Bucket.POLICY),
    Channel("identityPolicy", "identity.{number}", IdentityPolicy, "policy", Bucket.POLICY),
    Channel("cidrClass", "cidr.{prefix}", CidrClass, "policy", Bucket.POLICY),
    Channel("addressClass", "address.{ip}", AddressClass, "policy", Bucket.POLICY),
    Channel("policyCommit", "commit", Commit, "policy", Bucket.POLICY),
    Channel("policyStatus", "{kind}.{namespace}.{name}", PolicyStatus, "policy", Bucket.POLICY_STATUS),
    Channel("service", "service.{namespace}.{name}", ServiceRecord, "lb", Bucket.SERVICES),
    Channel("servicesCommit", "commit", ServicesSynced, "lb", Bucket.SERVICES),
    Channel("realised", "{node}", Realised, "datapath of the node", Bucket.REALISED),
    Channel("flow", "stentor.{cluster}.flow.{node}.{verdict}", Flow, "datapath of the node"),
    Channel("flowsLost", "stentor.{cluster}.flow.{node}.lost", FlowsLost, "datapath of the node"),
    Channel("event", "stentor.{cluster}.event.{service}.{kind}", Event, "every service"),
    Channel("health", "stentor.{cluster}.health", ServiceHealth, "every service, as a reply"),
)
"""Every message of the public contract."""


def asyncapi() -> dict[str, Any]:
    """The contract as an AsyncAPI 3.0 document."""
    messages = [channel.message for channel in CHANNELS]
    _, schemas = msgspec.json.schema_components(messages, ref_template="#/components/schemas/{name}")
    channels: dict[str, Any] = {}
    operations: dict[str, Any] = {}
    for channel in CHANNELS:
        name = channel.message.__name__
        channels[channel.name] = {
            "address": channel.subject,
            "description": _first_paragraph(channel.message),
            "parameters": {parameter: {} for parameter in _parameters(channel.subject)},
            "messages": {name: {"$ref": f"#/components/messages/{name}"}},
        }
        operations[f"receive_{channel.name}"] = {
            "action": "receive",
            "channel": {"$ref": f"#/channels/{channel.name}"},
        }
    return {
        "asyncapi": "3.0.0",
        "info": {
            "title": "Stentor",
            "version": str(Message.VERSION),
            "description": (
                "State is in JetStream key-value buckets, events are subjects; all is JSON. For the user "
                "reader JetStream's API is at $JS.CONTROL.API, and inboxes are below _INBOX.reader."
            ),
        },
        "defaultContentType": "application/json",
        "channels": channels,
        "operations": operations,
        "components": {
            "messages": {
                message.__name__: {"payload": {"$ref": f"#/components/schemas/{message.__name__}"}}
                for message in messages
            },
            "schemas": schemas,
        },
    }


def page() -> str:
    """The contract as Markdown."""
    lines = [
        "# The contract on NATS",
        "",
        "Made from `shared/contract` by `python -m shared.contract.describe docs`; the machine-readable",
        "form is [asyncapi.json](asyncapi.json). Buckets are JetStream key-value buckets named",
        "`stentor-<cluster>-<bucket>`; a revision is the sequence number of the bucket's stream. Names of",
        "Kubernetes objects in keys have `.` written `_`; addresses have `.` and `:` written `-` (IPv6 with",
        "all eight groups), prefixes end in `_<length>`.",
        "",
        *_READING.splitlines(),
        "",
        "| message | where | written by |",
        "|---|---|---|",
    ]
    for channel in CHANNELS:
        where = f"`{channel.address}`"
        if channel.bucket is not None:
            where = f"bucket `{channel.bucket}`, key {where}"
        name = channel.message.__name__
        lines.append(f"| [{name}](#{name.lower()}) | {where} | {channel.writer} |")
    _, schemas = msgspec.json.schema_components(
        [channel.message for channel in CHANNELS], ref_template="#{name}"
    )
    for name, schema in schemas.items():
        lines += ["", f"## {name}", "", str(schema.get("description", "")).strip(), ""]
        if "enum" in schema:
            lines.append("One of " + ", ".join(f"`{value}`" for value in schema["enum"]) + ".")
            continue
        lines += ["| field | type | required |", "|---|---|---|"]
        for field, kind in schema.get("properties", {}).items():
            required = "yes" if field in schema.get("required", ()) else ""
            lines.append(f"| `{field}` | {_kind(kind)} | {required} |")
    return "\n".join(lines) + "\n"


_READING = """\
## Reading

The NATS user `reader` may read every bucket but `allocations` and listen to flows and events; it may write
nothing. JetStream belongs to another account, so a client needs two options:

| option | value | why |
|---|---|---|
| prefix of JetStream's API | `$JS.CONTROL.API` | at the usual `$JS.API` there is none in this account |
| prefix of inboxes | `_INBOX.reader` | answers and deliveries go nowhere else |

With them any key-value client gets, lists and watches. With Node.js and the `nats` package:

```js
import { connect } from "nats";
const { STENTOR_NATS_URL: servers, STENTOR_NATS_PASSWORD: pass } = process.env;
const nc = await connect({ servers, user: "reader", pass, inboxPrefix: "_INBOX.reader" });
const js = nc.jetstream({ apiPrefix: "$JS.CONTROL.API" });
const nodes = await js.views.kv("stentor-lab-nodes", { bindOnly: true });
for await (const e of await nodes.watch()) console.log(e.revision, e.operation, e.key, e.string());
```

With Python and `nats-py`:

```python
nc = await nats.connect(url, user="reader", password=password, inbox_prefix="_INBOX.reader")
nodes = await nc.jetstream(prefix="$JS.CONTROL.API").key_value("stentor-lab-nodes")
async for entry in await nodes.watchall():
    print(entry and (entry.revision, entry.operation, entry.key, entry.value))
```

A deletion comes as an entry with the operation `DEL`. A consumer goes by itself when nobody listens to it any
more; deleting it is not permitted.

NATS vouches for the key or subject of a message, not for what is in it: records in `claims` and `realised`
and flows are of the datapath of the node in their key or subject, events are of a service of the name in
theirs. Which node's datapath sent an event, and who answered for its health, are the sender's own words.

## Messages
"""


def _kind(schema: dict[str, Any]) -> str:
    if "$ref" in schema:
        name = schema["$ref"].lstrip("#")
        return f"[{name}](#{name.lower()})"
    if "anyOf" in schema:
        return " or ".join(_kind(each) for each in schema["anyOf"])
    kind = schema.get("type", "any")
    if kind == "array" and isinstance(schema.get("items"), dict):
        return f"list of {_kind(schema['items'])}"
    if kind == "object" and isinstance(schema.get("additionalProperties"), dict):
        return f"map to {_kind(schema['additionalProperties'])}"
    return str(kind)


def _parameters(subject: str) -> list[str]:
    return [part.split("}")[0] for part in subject.split("{")[1:]]


def _first_paragraph(message: type[Message]) -> str:
    return " ".join((inspect.getdoc(message) or "").split("\n\n")[0].split())


def main(directory: str) -> None:
    """Writes both documents."""
    Path(directory, "asyncapi.json").write_text(json.dumps(asyncapi(), indent=1) + "\n", encoding="utf-8")
    Path(directory, "contract.md").write_text(page(), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
