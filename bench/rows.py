"""How many entries the kernel holds for policy, next to what one for each allowed identity would come to.

Compared is with a map for each endpoint and direction that has an entry for each allowed identity and each
block of ports that a prefix can name (a range of any alignment needs several); what is allowed to everybody
needs one entry for each block.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from bench.figures import Figure, Samples
from deploy.cli.cluster import read_bucket, read_mixed
from shared.bus import Bus
from shared.contract.base import ClassId, Identity, SetId
from shared.contract.identity import IpEntry
from shared.contract.names import Bucket
from shared.contract.node import Realised
from shared.contract.policy import POLICY_TYPES, Action, CidrClass, IdentityPolicy, PolicySet, Row

ALL_PORTS = 1


def port_blocks(first: int, last: int) -> int:
    """How few aligned blocks of ports a range is made of."""
    count = 0
    while first <= last:
        size = first & -first or 1 << 16
        while first + size - 1 > last:
            size >>= 1
        first += size
        count += 1
    return count


def entries_of(row: Row) -> int:
    """Entries for one peer identity with this row."""
    if row.action is Action.ALLOW:
        return ALL_PORTS
    return sum(port_blocks(item.first, item.last) for item in row.ranges if item.action is Action.ALLOW)


async def count_rows(bus: Bus, record: Realised, *, command: str) -> list[Figure | None]:
    """For the node of the record and for the whole cluster, as the buckets have it."""
    policy = (await read_mixed(bus, Bucket.POLICY, types=POLICY_TYPES)).values.values()
    identities = {value.identity: value for value in policy if isinstance(value, IdentityPolicy)}
    sets = {value.id: value for value in policy if isinstance(value, PolicySet)}
    peers = Counter(value.peer_class for value in policy if isinstance(value, IdentityPolicy | CidrClass))
    each = {id: _entries(value, peers) for id, value in sets.items()}

    def entries(endpoints: Iterable[Identity]) -> int:
        """What the endpoints' maps would hold; an endpoint is given by its identity."""
        return sum(each[id] for number in endpoints for id in _sets_of(identities[number]))

    ipcache = (await read_bucket(bus, Bucket.IPCACHE, as_type=IpEntry)).values.values()
    pods = [entry.identity for entry in ipcache if entry.pod]
    local = [Identity(endpoint.identity) for endpoint in record.endpoints]
    counts = {
        "one node: rows in the kernel": record.maps["policy_rows"].entries,
        f"one node, {len(local)} pods: entries per identity": entries(local),
        "cluster: rows published": sum(len(value.rows) + 1 for value in sets.values()),
        f"cluster, {len(pods):,} pods: entries per identity": entries(pods),
    }
    node, node_entries, cluster, cluster_entries = counts.values()
    shares = {"one node: share": node / node_entries, "cluster: share": cluster / cluster_entries}
    return [
        *(_exact(name, count, "entries", command) for name, count in counts.items()),
        *(_exact(name, share * 100, "%", command) for name, share in shares.items()),
    ]


def _sets_of(policy: IdentityPolicy) -> list[SetId]:
    return [id for id in (policy.ingress, policy.egress) if id is not None]


def _entries(value: PolicySet, peers: Counter[ClassId]) -> int:
    everybody = entries_of(value.default)
    return everybody + sum(entries_of(row) * peers[id] for id, row in value.rows.items())


def _exact(name: str, value: float, unit: str, command: str) -> Figure | None:
    samples = Samples(name, unit)
    samples.add(value, quiet=True)
    return samples.figure(command=command)
