"""A node's datapath that follows a world of the policy tests, by way of the policy service's publications.

All that it hears are messages of the contract, encoded and decoded as on the bus. Which bucket it hears of
first is left to chance, as is how much of a publication comes at once and when the kernel is brought up to
date in between. Pods are on this node or on another one; a pod that gets another address or namespace is
another pod, with another link. A process of the datapath may end and another one begin, with what the kernel
holds.
"""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Callable, Mapping
from itertools import count

from services.datapath.desire import Desire
from services.datapath.endpoints import LocalEndpoint
from services.datapath.kernel.state import KernelState
from services.policy.compiler import Compiler
from services.policy.planner import Planner
from services.policy.retirement import Patience
from shared.bus import Batch, Entry
from shared.contract.base import Identity, M, Message, decode, encode
from shared.contract.identity import EndpointRecord, IpEntry, NodeRecord
from shared.contract.names import ip_key, pod_key
from shared.contract.policy import POLICY_TYPES
from shared.contract.reserved import Reserved
from tests.packet.mininode import Pod as Link
from tests.packet.stage import OWN_IPS
from tests.services.policy.naive import Pod
from tests.services.policy.world import NODE_IPS, World

THIS, OTHER = "n1", "n2"


class Follower:
    """See the module. :meth:`follow` brings all of it up to the world as it is."""

    def __init__(
        self, world: World, *, kernel: KernelState, links: list[Link], chance: random.Random
    ) -> None:
        for mirror in kernel.mirrors:
            mirror.want_exactly({})
        kernel.apply()
        self.here: set[str] = set()
        """Names of the pods that are, or will be, on this node."""
        self.links: dict[str, Link] = {}
        """Of the pods of this node."""
        self._world = world
        self._kernel = kernel
        self._chance = chance
        self._free = deque(links)
        self._uids: dict[str, tuple[Pod, str]] = {}
        self._numbers = count(1)
        self._revision = 0
        self._realised = 0
        self._now = 0.0
        self._told: dict[str, dict[str, Message]] = {}
        self._published: dict[str, Entry[Message]] = {}
        self._compiler = Compiler()
        self._planner = Planner(self._compiler, patience=Patience(settle=1.0, grace=float("inf")))
        self._desire = self._begin()

    def _begin(self) -> Desire:
        desire = Desire(node=THIS, kernel=self._kernel)
        desire.addresses.set_own(OWN_IPS)
        return desire

    def link_at(self, ip: str) -> Link | None:
        """The link of the pod of this node that has an address."""
        pod = self._world.cluster.pod_at(ip)
        return None if pod is None else self.links.get(pod.name)

    def restart(self) -> None:
        """Another process of the datapath begins; it finds its pods, and hears of everything anew."""
        local = self._desire.local
        self._desire = self._begin()
        self._desire.local.update(local)
        self._told.clear()

    def follow(self) -> None:
        """Publishes how the world is, and takes it in until the kernel holds it."""
        self._note_pods()
        steps: list[Callable[[], None]] = [
            self.hear_nodes,
            self.hear_ipcache,
            self.hear_endpoints,
            self.hear_policy,
            self._move_pods,
        ]
        self._chance.shuffle(steps)
        for step in steps:
            step()
            if self._chance.random() < 0.5:
                self.apply()
        self._desire.addresses.settle()
        self.apply()
        self.pass_time(self._chance.choice((0.0, 2.0)))
        assert not self._desire.problems, self._desire.problems
        for endpoint in self._desire.local.values():
            assert not self._desire.readiness(endpoint).reason

    def apply(self) -> None:
        """Brings the kernel up to what was heard, and tells the policy service of it."""
        self._desire.want_local()
        assert self._kernel.apply().problems == ()
        if not self._desire.addresses.is_outdated:
            self._realised = self._desire.policy.revision

    def pass_time(self, seconds: float) -> None:
        """What is retired gets older."""
        self._now += seconds

    def hear_nodes(self) -> None:
        """Of bucket ``nodes``."""
        self._hear("nodes", self._nodes(), NodeRecord, self._desire.addresses.take_nodes)

    def hear_ipcache(self) -> None:
        """Of bucket ``ipcache``."""
        self._hear("ipcache", self._ipcache(), IpEntry, self._desire.addresses.take_ipcache)

    def hear_endpoints(self) -> None:
        """Of bucket ``endpoints``."""
        self._hear("endpoints", self._endpoints(), EndpointRecord, self._desire.take_endpoints)

    # -- what there is -------------------------------------------------------------------------------

    def _note_pods(self) -> None:
        """Gives new pods a uid of their own."""
        pods = self._world.cluster.pods
        known = {name: value for name, value in self._uids.items() if name in pods}
        for name, pod in pods.items():
            node = THIS if name in self.here else OTHER
            before = known.get(name)
            if before is not None:
                same = (before[0].namespace, before[0].ips) == (pod.namespace, pod.ips)
                if same and before[1].startswith(node):
                    continue
            known[name] = pod, f"{node}-{next(self._numbers)}"
        self._uids = known

    def _nodes(self) -> dict[str, NodeRecord]:
        return {
            THIS: NodeRecord(name=THIS, pod_cidrs=self._world.pod_cidrs),
            OTHER: NodeRecord(name=OTHER),
        }

    def _ipcache(self) -> dict[str, IpEntry]:
        entries = [
            IpEntry(ip=ip, identity=Identity(Reserved.REMOTE_NODE), node=node)
            for node, ips in ((THIS, OWN_IPS), (OTHER, NODE_IPS))
            for ip in ips
        ]
        entries += [
            IpEntry(
                ip=ip,
                identity=Identity(self._world.identity(pod)),
                node=THIS if pod.name in self.here else OTHER,
                namespace=pod.namespace,
                pod=pod.name,
            )
            for pod in self._world.cluster.pods.values()
            for ip in pod.ips
        ]
        return {ip_key(entry.ip): entry for entry in entries}

    def _endpoints(self) -> dict[str, EndpointRecord]:
        return {
            pod_key(node=THIS, namespace=pod.namespace, pod=name): EndpointRecord(
                node=THIS,
                namespace=pod.namespace,
                name=name,
                uid=self._uids[name][1],
                identity=Identity(self._world.identity(pod)),
                ips=pod.ips,
            )
            for name, pod in self._world.cluster.pods.items()
            if name in self.here
        }

    # -- what is heard of it -------------------------------------------------------------------------

    def _hear(
        self, bucket: str, values: Mapping[str, M], as_type: type[M], take: Callable[[Batch[M]], object]
    ) -> None:
        """Tells what differs from what was told last."""
        before = self._told.get(bucket)
        changed: dict[str, M | None] = {
            key: value for key, value in values.items() if before is None or before.get(key) != value
        }
        changed |= dict.fromkeys((before or {}).keys() - values.keys())
        self._told[bucket] = dict(values)
        keys = sorted(changed)
        self._chance.shuffle(keys)
        entries = [self._entry(key, changed[key], as_type) for key in keys]
        take(Batch(snapshot=before is None, entries=tuple(entries), revision=self._revision, caught_up=True))

    def hear_policy(self) -> None:
        """Of bucket ``policy``, which is published first."""
        self._world.feed(self._compiler)
        made = self._planner.plan(realised=self._realised, now=self._now, time="2026-01-01T00:00:00Z")
        entries: list[Entry[Message]] = []
        for key, value in () if made is None else made.items:
            entry = self._entry(key, value, POLICY_TYPES[key.partition(".")[0]])
            entries.append(entry)
            self._published[key] = entry
        if made is not None:
            self._planner.committed(made, revision=self._revision, now=self._now)
        if not self._desire.policy.spoken:
            held = [entry for entry in self._published.values() if entry.value is not None]
            self._take_policy(sorted(held, key=lambda entry: entry.revision), snapshot=True)
        elif entries:
            cut = self._chance.randrange(len(entries))
            self._take_policy(entries[:cut])
            self._take_policy(entries[cut:])

    def _take_policy(self, entries: list[Entry[Message]], *, snapshot: bool = False) -> None:
        batch = Batch(snapshot=snapshot, entries=tuple(entries), revision=self._revision, caught_up=True)
        self._desire.take_policy(batch)

    def _entry(self, key: str, value: M | None, as_type: type[M]) -> Entry[M]:
        self._revision += 1
        sent = None if value is None else decode(encode(value), as_type=as_type)
        return Entry(key, sent, self._revision)

    # -- this node's own pods ------------------------------------------------------------------------

    def _move_pods(self) -> None:
        """Lets pods of this node go and come, each with the link that has been free for the longest time."""
        wanted = {
            self._uids[name][1]: pod
            for name, pod in self._world.cluster.pods.items()
            if name in self.here and pod.ips
        }
        local = self._desire.local
        for ifname, endpoint in list(local.items()):
            if endpoint.uid not in wanted:
                del local[ifname]
                self._free.append(self.links.pop(endpoint.pod))
        for uid in sorted(wanted.keys() - {endpoint.uid for endpoint in local.values()}):
            pod, link = wanted[uid], self._free.popleft()
            self.links[pod.name] = link
            local[link.host_ifname] = LocalEndpoint(
                container_id=uid,
                ifname="eth0",
                netns=f"/run/netns/{link.netns}",
                namespace=pod.namespace,
                pod=pod.name,
                uid=uid,
                ips=pod.ips,
                host_ifname=link.host_ifname,
                host_ifindex=link.ifindex,
                mac="0e:53:0a:01:00:05",
                mtu=1500,
            )
