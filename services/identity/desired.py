"""The pure core: pods, namespaces, nodes, claims and numbers -> what is to be published.

Setters only note what an input touches; :meth:`DesiredState.settle` then recomputes exactly that: a pod
event touches its pod, a namespace event the pods in it, a node event the claims on it. The result
depends on the inputs held, not on their order. A pod whose namespace or number is not known yet waits:
what was published for it stands unless it is another pod (other uid) by now.
"""

from __future__ import annotations

from collections import defaultdict
from typing import NamedTuple

from services.identity.addresses import AddressBook, Holder, NodeName, is_assignable, node_rank, pod_rank
from services.identity.claims import Standing, judge
from services.identity.labels import LabelSet, LabelsHash
from services.identity.objects import Node, Pod, PodName
from shared.contract.base import Identity, Message
from shared.contract.identity import Claim, EndpointRecord, IpEntry, LabelRules, NodeRecord
from shared.contract.names import LABELS_KEY, Bucket, ip_key, pod_key, token
from shared.contract.reserved import Reserved
from shared.index import discard
from shared.labels import LabelFilter
from shared.runtime.notices import Notices

REFUSED_ADDRESS = "address-refused"


class Change(NamedTuple):
    """A key whose desired value may have changed."""

    bucket: Bucket
    key: str


class _Part(NamedTuple):
    """What one pod puts into the desired state."""

    pod: Pod
    labels: LabelsHash
    identity: Identity
    ips: tuple[str, ...]
    vouched: frozenset[str]
    """Those of ``ips`` for which more than a claim speaks."""

    @property
    def key(self) -> str:
        return pod_key(node=self.pod.node, namespace=self.pod.namespace, pod=self.pod.name)


class DesiredState:
    """All inputs and, after :meth:`settle`, all outputs."""

    def __init__(self, *, cluster: str, label_filter: LabelFilter, notices: Notices) -> None:
        self.identities: dict[str, Message] = {}
        self.ipcache: dict[str, Message] = {}
        self.endpoints: dict[str, Message] = {}
        self.nodes: dict[str, Message] = {}
        self.settings: dict[str, Message] = {LABELS_KEY: LabelRules(excluded=label_filter.excluded)}
        self.waiting: dict[PodName, str] = {}
        """Pods without a part of their own yet, and what they wait for."""
        self.unnumbered: dict[LabelsHash, LabelSet] = {}
        """Label sets that pods have and that need a number."""
        self._cluster = cluster
        self._filter = label_filter
        self._notices = notices
        self._pods: dict[PodName, Pod] = {}
        self._namespaces: dict[str, dict[str, str]] = {}
        self._node_objects: dict[str, Node] = {}
        self._claims: dict[str, Claim] = {}
        self._numbers: dict[LabelsHash, Identity] = {}
        self._label_sets: dict[LabelsHash, LabelSet] = {}
        self._pods_of_namespace: defaultdict[str, set[PodName]] = defaultdict(set)
        self._claims_of_pod: defaultdict[PodName, set[str]] = defaultdict(set)
        self._claims_of_node: defaultdict[str, set[str]] = defaultdict(set)
        self._wish: dict[PodName, LabelsHash] = {}
        self._pods_of_labels: defaultdict[LabelsHash, set[PodName]] = defaultdict(set)
        """Pods that want these labels' identity or still have it."""
        self._parts: dict[PodName, _Part] = {}
        self._addresses = AddressBook()
        self._dirty_pods: set[PodName] = set()
        self._dirty_ips: set[str] = set()
        self._dirty_endpoints: set[PodName] = set()
        self._changed: set[Change] = set()

    # ---- inputs

    def set_pod(self, name: PodName, pod: Pod | None) -> None:
        """A pod is there, changed, or is gone (None)."""
        if pod == self._pods.get(name):
            return
        if pod is None:
            del self._pods[name]
            discard(self._pods_of_namespace, name.namespace, name)
        else:
            self._pods[name] = pod
            self._pods_of_namespace[name.namespace].add(name)
        self._dirty_pods.add(name)

    def set_namespace(self, name: str, labels: dict[str, str] | None) -> None:
        """A namespace is there, changed, or is gone (None)."""
        if labels == self._namespaces.get(name):
            return
        if labels is None:
            del self._namespaces[name]
        else:
            self._namespaces[name] = labels
        self._dirty_pods |= self._pods_of_namespace.get(name, set())

    def set_node(self, name: str, node: Node | None) -> None:
        """A node is there, changed, or is gone (None)."""
        before = self._node_objects.get(name)
        if node == before:
            return
        holder = NodeName(name)
        for ip in before.addresses if before else ():
            self._addresses.withdraw(ip, holder=holder)
            self._dirty_ips.add(ip)
        key = token(name)
        if node is None:
            del self._node_objects[name]
            self.nodes.pop(key, None)
        else:
            self._node_objects[name] = node
            for ip in filter(is_assignable, node.addresses):
                self._addresses.contend(ip, holder=holder, rank=node_rank(node))
                self._dirty_ips.add(ip)
            self.nodes[key] = NodeRecord(
                name=name,
                addresses=node.addresses,
                pod_cidrs=tuple(map(str, node.pod_cidrs)),
                use_cilium=node.use_cilium,
                zone=node.zone,
                labels=node.labels,
            )
        self._changed.add(Change(Bucket.NODES, key))
        if (before and (before.pod_cidrs, before.addresses)) != (node and (node.pod_cidrs, node.addresses)):
            self._judge_again(name)

    def _judge_again(self, node: str) -> None:
        """The claims that a node's addresses and podCIDRs decide: its own, and those of nodes without any."""
        for claimant, keys in self._claims_of_node.items():
            known = self._node_objects.get(claimant)
            if claimant == node or (known is not None and not known.pod_cidrs):
                claims = (self._claims[key] for key in keys)
                self._dirty_pods.update(PodName(claim.namespace, claim.pod) for claim in claims)

    def set_claim(self, key: str, claim: Claim | None) -> None:
        """A claim is there, changed, or is gone (None)."""
        before = self._claims.get(key)
        if claim == before:
            return
        if before is not None:
            name = PodName(before.namespace, before.pod)
            discard(self._claims_of_pod, name, key)
            discard(self._claims_of_node, before.node, key)
            self._dirty_pods.add(name)
            self._notices.clear("claim-invalid", about=key)
            del self._claims[key]
        if claim is not None:
            name = PodName(claim.namespace, claim.pod)
            self._claims[key] = claim
            self._claims_of_pod[name].add(key)
            self._claims_of_node[claim.node].add(key)
            self._dirty_pods.add(name)

    def set_number(self, labels: LabelsHash, identity: Identity) -> None:
        """The number of a label set in use."""
        before = self._numbers.get(labels)
        if before == identity or not self.in_use(labels):
            return
        if before is not None:
            del self._numbers[labels]
            self.identities.pop(str(before), None)
        self._numbers[labels] = identity
        self._settle_identity(labels)
        self._dirty_pods |= self._pods_of_labels.get(labels, set())

    # ---- outputs

    def of(self, bucket: Bucket) -> dict[str, Message]:
        """The desired contents of one of the published buckets."""
        return {
            Bucket.SETTINGS: self.settings,
            Bucket.IDENTITIES: self.identities,
            Bucket.IPCACHE: self.ipcache,
            Bucket.ENDPOINTS: self.endpoints,
            Bucket.NODES: self.nodes,
        }[bucket]

    def in_use(self, labels: LabelsHash) -> bool:
        """Whether a pod has or wants this label set."""
        return bool(self._pods_of_labels.get(labels))

    def used_label_sets(self) -> dict[LabelsHash, LabelSet]:
        """Every label set in use."""
        return {labels: self._label_sets[labels] for labels, pods in self._pods_of_labels.items() if pods}

    def number(self, labels: LabelsHash) -> Identity | None:
        """The number that is in force here for a label set."""
        return self._numbers.get(labels)

    def settle(self) -> set[Change]:
        """Recompute what the inputs touched; returns, once, the keys that may differ from before."""
        dirty_pods, self._dirty_pods = self._dirty_pods, set()
        for name in dirty_pods:
            self._settle_pod(name)
        dirty_ips, self._dirty_ips = self._dirty_ips, set()
        for ip in dirty_ips:
            self._settle_address(ip)
        dirty_endpoints, self._dirty_endpoints = self._dirty_endpoints, set()
        for name in dirty_endpoints:
            self._settle_endpoint(name)
        changed, self._changed = self._changed, set()
        return changed

    # ---- one pod

    def _settle_pod(self, name: PodName) -> None:
        pod = self._pods.get(name)
        claimed = self._claimed_ips(name, pod)
        if pod is None or not pod.has_endpoint:
            self._notices.clear(REFUSED_ADDRESS, about=str(name))
            self._wait(name, None)
            self._want(name, None)
            self._replace_part(name, None)
            return
        before = self._parts.get(name)
        if before is not None and before.pod.uid != pod.uid:
            self._replace_part(name, None)
        namespace_labels = self._namespaces.get(name.namespace)
        if namespace_labels is None:
            self._wait(name, "its namespace is not known")
            return
        label_set = LabelSet(
            namespace=name.namespace,
            namespace_labels=namespace_labels,
            service_account=pod.service_account,
            pod_labels=self._filter.keep(pod.labels),
            named_ports=pod.named_ports,
        )
        labels = self._want(name, label_set)
        identity = self._numbers.get(labels) if labels else None
        if labels is None or identity is None:
            self._wait(name, "its identity has no number")
            return
        self._wait(name, None)
        usable = self._usable(pod)
        node = self._node_objects.get(pod.node)
        vouched = claimed if node is not None and node.pod_cidrs else ()
        ips = claimed or usable
        self._replace_part(name, _Part(pod, labels, identity, ips, frozenset((*vouched, *usable))))

    def _claimed_ips(self, name: PodName, pod: Pod | None) -> tuple[str, ...]:
        """Addresses of the pod's valid claim; it outranks ``status.podIPs``, which come later."""
        ips: tuple[str, ...] = ()
        for key in sorted(self._claims_of_pod.get(name, ())):
            claim = self._claims[key]
            node, nodes = self._node_objects.get(claim.node), self._node_objects.values()
            judgement = judge(claim, key=key, pod=pod, node=node, nodes=nodes)
            if judgement.standing is Standing.INVALID:
                reason = f"claim ignored: {judgement.reason}"
                self._notices.report("claim-invalid", about=key, object=str(name), message=reason)
            else:
                self._notices.clear("claim-invalid", about=key)
            if judgement.standing is Standing.VALID:
                ips = judgement.ips
        return ips

    def _usable(self, pod: Pod) -> tuple[str, ...]:
        usable = tuple(ip for ip in pod.ips if is_assignable(ip))
        about = str(pod.key)
        if usable != pod.ips:
            refused = ", ".join(ip for ip in pod.ips if ip not in usable)
            message = f"status.podIPs: {refused} ignored, no address a pod can have"
            self._notices.report(REFUSED_ADDRESS, about=about, object=about, message=message)
        else:
            self._notices.clear(REFUSED_ADDRESS, about=about)
        return usable

    def _wait(self, name: PodName, reason: str | None) -> None:
        if reason is None:
            self.waiting.pop(name, None)
        else:
            self.waiting[name] = reason

    def _want(self, name: PodName, label_set: LabelSet | None) -> LabelsHash | None:
        """Notes which identity the pod is to have; returns its hash."""
        before = self._wish.get(name)
        labels = label_set.digest() if label_set else None
        if labels == before:
            return labels
        if labels is None or label_set is None:
            del self._wish[name]
        else:
            self._wish[name] = labels
            self._pods_of_labels[labels].add(name)
            self._label_sets[labels] = label_set
            self._settle_identity(labels)
        if before is not None:
            self._leave(name, before)
        return labels

    def _leave(self, name: PodName, labels: LabelsHash) -> None:
        """The pod may not need this identity any more."""
        part = self._parts.get(name)
        if self._wish.get(name) == labels or (part is not None and part.labels == labels):
            return
        discard(self._pods_of_labels, labels, name)
        if not self.in_use(labels):
            self._settle_identity(labels)

    def _replace_part(self, name: PodName, part: _Part | None) -> None:
        before = self._parts.pop(name, None)
        if part is not None:
            self._parts[name] = part
            for ip in part.ips:
                rank = pod_rank(part.pod, vouched=ip in part.vouched)
                self._addresses.contend(ip, holder=name, rank=rank)
                self._dirty_ips.add(ip)
        if before is not None:
            for ip in set(before.ips) - set(part.ips if part else ()):
                self._addresses.withdraw(ip, holder=name)
                self._dirty_ips.add(ip)
            if part is None or part.key != before.key:
                self.endpoints.pop(before.key, None)
                self._changed.add(Change(Bucket.ENDPOINTS, before.key))
            self._leave(name, before.labels)
        self._dirty_endpoints.add(name)

    # ---- one address, endpoint, identity

    def _settle_address(self, ip: str) -> None:
        key = ip_key(ip)
        holder = self._addresses.holder(ip)
        entry = None if holder is None else self._entry(ip, holder)
        if entry is None:
            self.ipcache.pop(key, None)
        else:
            self.ipcache[key] = entry
        self._changed.add(Change(Bucket.IPCACHE, key))
        contenders = self._addresses.contenders(ip)
        losers = sorted(str(contender) for contender in contenders if contender != holder)
        if losers:
            self._notices.report(
                "address-conflict",
                about=ip,
                object=losers[0],
                message=f"{ip} belongs to {holder} and is withheld from {', '.join(losers)}",
            )
        else:
            self._notices.clear("address-conflict", about=ip)
        self._dirty_endpoints.update(contender for contender in contenders if isinstance(contender, PodName))

    def _entry(self, ip: str, holder: Holder) -> IpEntry:
        if isinstance(holder, NodeName):
            return IpEntry(ip=ip, identity=Identity(Reserved.REMOTE_NODE), node=holder.name)
        part = self._parts[holder]
        return IpEntry(
            ip=ip,
            identity=part.identity,
            node=part.pod.node,
            namespace=part.pod.namespace,
            pod=part.pod.name,
            workload=part.pod.workload,
            workload_kind=part.pod.workload_kind,
        )

    def _settle_endpoint(self, name: PodName) -> None:
        part = self._parts.get(name)
        if part is None:
            return
        self.endpoints[part.key] = EndpointRecord(
            node=part.pod.node,
            namespace=part.pod.namespace,
            name=part.pod.name,
            uid=part.pod.uid,
            identity=part.identity,
            ips=tuple(ip for ip in part.ips if self._addresses.holder(ip) == name),
        )
        self._changed.add(Change(Bucket.ENDPOINTS, part.key))

    def _settle_identity(self, labels: LabelsHash) -> None:
        """Keeps ``unnumbered`` and ``identities`` in step with use and number of one label set.

        An unused identity only ceases to be desired: its record is deleted when its number is released. The
        number is forgotten at once, because from now on another replica may release it.
        """
        identity = self._numbers.get(labels)
        if not self.in_use(labels):
            self.unnumbered.pop(labels, None)
            self._label_sets.pop(labels, None)
            if self._numbers.pop(labels, None) is not None:
                self.identities.pop(str(identity), None)
        elif identity is None:
            self.unnumbered[labels] = self._label_sets[labels]
        else:
            self.unnumbered.pop(labels, None)
            key = str(identity)
            self.identities[key] = self._label_sets[labels].record(identity, cluster=self._cluster)
            self._changed.add(Change(Bucket.IDENTITIES, key))
