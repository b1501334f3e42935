"""A small cluster as its services would publish it: two nodes, two frontends and two backends, one policy.

Everything is hand-written contract messages on a real NATS; a test changes the part that it is about.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

from shared.bus import Bus
from shared.contract.base import ClassId, Direction, Identity, Message, Protocol, SetId
from shared.contract.flow import (
    DropReasonText,
    Flow,
    FlowEnd,
    FlowPolicy,
    FlowService,
    FlowsLost,
    Verdict,
)
from shared.contract.identity import EndpointRecord, IdentityRecord, IpEntry, NodeRecord
from shared.contract.names import (
    COMMIT_KEY,
    Bucket,
    flow_subject,
    health_subject,
    ip_key,
    pod_key,
    policy_status_key,
    service_key,
    token,
)
from shared.contract.node import EndpointState, MapUse, Realised, ServiceHealth
from shared.contract.policy import (
    Action,
    Commit,
    FieldError,
    IdentityPolicy,
    PolicyRef,
    PolicySet,
    PolicyStatus,
    PortRange,
    Row,
    RuleRef,
)
from shared.contract.service import Backend, ServiceKind, ServicePort, ServiceRecord, ServicesSynced

FRONTEND, BACKEND = Identity(1001), Identity(1002)
POLICY = PolicyRef(kind="NetworkPolicy", namespace="default", name="allow-frontend-to-backend")
SET = SetId("00000000000000aa")
FRONTEND_CLASS, BACKEND_CLASS = ClassId("00000000000000f1"), ClassId("00000000000000b1")
PODS = {
    "frontend-a": ("node-1", "10.244.0.2", FRONTEND),
    "frontend-b": ("node-2", "10.244.1.2", FRONTEND),
    "backend-a": ("node-1", "10.244.0.3", BACKEND),
    "backend-b": ("node-2", "10.244.1.3", BACKEND),
}
NODES = ("node-1", "node-2")
TIME = "2026-01-02T03:04:05.678901234Z"

SERVICE = ServiceRecord(
    namespace="default",
    name="backend",
    uid="u-service",
    kind=ServiceKind.CLUSTER_IP,
    cluster_ips=("10.96.0.10",),
    ports=(
        ServicePort(
            name="web",
            protocol=Protocol.TCP,
            port=80,
            backends=(
                Backend(ip="10.244.0.3", port=80, namespace="default", pod="backend-a"),
                Backend(ip="10.244.1.3", port=80, namespace="default", pod="backend-b", ready=False),
            ),
        ),
    ),
)


def _answer(health: ServiceHealth, told: Callable[[], None]) -> ServiceHealth:
    told()
    return health


def labels(app: str) -> tuple[str, ...]:
    return (f"k8s:app={app}", "k8s:io.kubernetes.pod.namespace=default")


def status_of(policy: PolicyRef = POLICY, *, version: str = "7", revision: int = 0) -> PolicyStatus:
    return PolicyStatus(
        policy=policy,
        uid=f"u-{policy.name}",
        resource_version=version,
        accepted=True,
        revision=revision,
        subjects=1,
        rules=1,
    )


def refused(policy: PolicyRef) -> PolicyStatus:
    return PolicyStatus(
        policy=policy,
        uid="u-bad",
        resource_version="9",
        accepted=False,
        errors=(
            FieldError(field="spec.ingress[0].ports[0].port", reason="is 70000", remedy="use 1 to 65535"),
        ),
    )


class World:
    """Publishes the cluster and knows the revisions of what it published."""

    def __init__(self, bus: Bus) -> None:
        self.bus = bus
        self.policy_revision = 0
        self.services_revision = 0
        self.ipcache_revision = 0

    async def put(self, bucket: Bucket, items: Iterable[tuple[str, Message | None]]) -> int:
        store = await self.bus.bucket(bucket, as_type=Message, create=True)
        return await store.put_many(items)

    async def publish(self) -> None:
        """Everything, realised everywhere."""
        await self.put(Bucket.NODES, [(node, NodeRecord(name=node, use_cilium=True)) for node in NODES])
        await self.put(
            Bucket.IDENTITIES,
            [
                (str(number), IdentityRecord(id=number, namespace="default", labels=labels(app)))
                for number, app in ((FRONTEND, "frontend"), (BACKEND, "backend"))
            ],
        )
        self.ipcache_revision = await self.put(
            Bucket.IPCACHE,
            [
                (ip_key(ip), IpEntry(ip=ip, identity=identity, node=node, namespace="default", pod=pod))
                for pod, (node, ip, identity) in PODS.items()
            ],
        )
        await self.put(
            Bucket.ENDPOINTS,
            [
                (
                    pod_key(node=node, namespace="default", pod=pod),
                    EndpointRecord(
                        node=node, namespace="default", name=pod, uid=f"u-{pod}", identity=identity, ips=(ip,)
                    ),
                )
                for pod, (node, ip, identity) in PODS.items()
            ],
        )
        await self.publish_policy()
        await self.put_status(status_of(revision=self.policy_revision))
        self.services_revision = await self.put(
            Bucket.SERVICES,
            [
                (service_key(namespace="default", name="backend"), SERVICE),
                (COMMIT_KEY, ServicesSynced(time=TIME, services=1, backends=2)),
            ],
        )
        for node in NODES:
            await self.realise(node)

    async def publish_policy(self) -> None:
        """The compiled policy; its commit is the latest revision."""
        allow = Row(ranges=(PortRange(protocol=Protocol.TCP, first=80, last=80, rule=0),))
        self.policy_revision = await self.put(
            Bucket.POLICY,
            [
                (
                    f"set.{SET}",
                    PolicySet(
                        id=SET,
                        direction=Direction.INGRESS,
                        policies=(POLICY,),
                        rules=(RuleRef(policy=0, index=0),),
                        default=Row(action=Action.DENY),
                        rows={FRONTEND_CLASS: allow},
                    ),
                ),
                ("identity.1001", IdentityPolicy(identity=FRONTEND, peer_class=FRONTEND_CLASS)),
                (
                    "identity.1002",
                    IdentityPolicy(identity=BACKEND, peer_class=BACKEND_CLASS, ingress=SET),
                ),
                (COMMIT_KEY, Commit(time=TIME, policies=1, identities=2, sets=1, rows=1)),
            ],
        )

    async def put_status(self, status: PolicyStatus | None, *, policy: PolicyRef = POLICY) -> None:
        ref = status.policy if status else policy
        key = policy_status_key(kind=ref.kind, namespace=ref.namespace, name=ref.name)
        await self.put(Bucket.POLICY_STATUS, [(key, status)])

    async def realise(
        self,
        node: str,
        *,
        policy_revision: int | None = None,
        services_revision: int | None = None,
        ready: bool = True,
        enforcing: bool = True,
        entries: int = 10,
        problems: tuple[str, ...] = (),
    ) -> None:
        """What the node's datapath would say."""
        record = Realised(
            node=node,
            time=TIME,
            instance=f"i-{node}",
            enforcing=enforcing,
            policy_revision=self.policy_revision if policy_revision is None else policy_revision,
            services_revision=self.services_revision if services_revision is None else services_revision,
            ipcache_revision=self.ipcache_revision,
            endpoints=tuple(
                EndpointState(namespace="default", pod=pod, ips=(ip,), identity=identity, ready=ready)
                for pod, (where, ip, identity) in PODS.items()
                if where == node
            ),
            maps={"policy": MapUse(entries=entries, capacity=100), "ct": MapUse(entries=1, capacity=1000)},
            problems=problems,
        )
        await self.put(Bucket.REALISED, [(token(node), record)])

    async def answer_health(
        self, *, without: str = "", unready: str = "", told: Callable[[], None] = lambda: None
    ) -> None:
        """Answer as all services would, but for one, with one not ready; ``told`` hears of each question."""
        for service, node in (
            ("identity", ""),
            ("policy", ""),
            ("lb", ""),
            *(("datapath", node) for node in NODES),
        ):
            if without in (service, f"{service}@{node}"):
                continue
            health = ServiceHealth(
                service=service,
                instance="i-1",
                node=node,
                ready=service != unready,
                reasons=("the API server is away",) if service == unready else (),
                uptime_seconds=300,
                resident_bytes=50 * 2**20,
                detail={"things": 3},
            )
            await self.bus.answer(health_subject(cluster=self.bus.cluster), partial(_answer, health, told))

    async def flow(self, flow: Flow) -> None:
        """As a node would send it."""
        subject = flow_subject(cluster=self.bus.cluster, node=flow.node, verdict=flow.verdict)
        await self.bus.publish(subject, flow)

    async def lose(self, lost: FlowsLost) -> None:
        """As a node that was too slow would send it."""
        await self.bus.publish(flow_subject(cluster=self.bus.cluster, node=lost.node, verdict="lost"), lost)


def forwarded() -> Flow:
    """A frontend reached a backend through the Service."""
    return Flow(
        time=TIME,
        node="node-1",
        verdict=Verdict.FORWARDED,
        direction=Direction.INGRESS,
        protocol="TCP",
        source=FlowEnd(
            ip="10.244.0.2",
            port=43210,
            identity=FRONTEND,
            namespace="default",
            pod="frontend-a",
            node="node-1",
        ),
        destination=FlowEnd(
            ip="10.244.0.3", port=80, identity=BACKEND, namespace="default", pod="backend-a", node="node-1"
        ),
        service=FlowService(ip="10.96.0.10", port=80, namespace="default", name="backend"),
        policy=FlowPolicy(policies=(POLICY,), rule=0, revision=4),
        tcp_flags=("SYN",),
    )


def dropped(*, namespace: str = "default", pod: str = "other") -> Flow:
    """Another pod was kept from a backend by default deny."""
    return Flow(
        time=TIME,
        node="node-2",
        verdict=Verdict.DROPPED,
        direction=Direction.INGRESS,
        protocol="TCP",
        source=FlowEnd(ip="10.244.1.9", port=50000, identity=1003, namespace=namespace, pod=pod),
        destination=FlowEnd(ip="10.244.0.3", port=80, identity=BACKEND, namespace="default", pod="backend-a"),
        drop_reason=DropReasonText(code=133, name="POLICY_DENIED"),
        policy=FlowPolicy(policies=(POLICY,), revision=4),
    )
