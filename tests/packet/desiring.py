"""Real maps and a :class:`Desire` about them, fed by hand, without a bus: one node with one local pod."""

from __future__ import annotations

from services.datapath.desire import Desire
from services.datapath.endpoints import LocalEndpoint
from services.datapath.kernel.layout import ENDPOINT, PEER, packed
from services.datapath.kernel.loader import Loaded
from services.datapath.kernel.state import KernelState
from services.datapath.setrows import WhenFull
from shared.bus import Batch, Entry
from shared.contract.base import ClassId, Identity, M, Message
from shared.contract.identity import EndpointRecord, IpEntry, NodeRecord
from shared.contract.names import ip_key, pod_key
from shared.contract.policy import (
    AddressClass,
    Commit,
    IdentityPolicy,
)

NODE, POD_IP, REMOTE_IP, NODE_IP = "n1", "10.1.0.5", "10.2.0.5", "192.0.2.1"
COMMIT = Commit(time="2026-01-01T00:00:00Z", policies=0, identities=0, sets=0, rows=0)


class Kernel:
    """Real maps, and a desire that lasts as long as a process does."""

    def __init__(self, loaded: Loaded, *, when_full: WhenFull = WhenFull.CLOSED) -> None:
        self._loaded = loaded
        self._when_full = when_full
        self._revision = 0
        self.state = KernelState(loaded.maps)
        for mirror in self.state.mirrors:
            mirror.want_exactly({})
        self.state.apply()
        self.desire = Desire(node=NODE, kernel=self.state, when_full=when_full)

    def restart(self) -> None:
        """Another process begins, with what the kernel holds."""
        self.close()
        self.state = KernelState(self._loaded.maps)
        self.desire = Desire(node=NODE, kernel=self.state, when_full=self._when_full)

    def close(self) -> None:
        """Another may have the descriptors."""
        self.state.close()

    def batch(self, entries: dict[str, M | None], *, snapshot: bool = False) -> Batch[M]:
        numbered = []
        for key, value in entries.items():
            self._revision += 1
            numbered.append(Entry(key, value, self._revision))
        return Batch(snapshot=snapshot, entries=tuple(numbered), revision=self._revision, caught_up=True)

    def policy(self, *identities: int, addresses: dict[str, tuple[int, int] | None] | None = None) -> None:
        """A commit which knows these identities, and of some addresses the identity and own class."""
        values: dict[str, Message | None] = {
            f"identity.{number}": IdentityPolicy(identity=Identity(number), peer_class=peer_class(number))
            for number in identities
        }
        for ip, own in (addresses or {}).items():
            values[f"address.{ip_key(ip)}"] = own and AddressClass(
                ip=ip, identity=Identity(own[0]), peer_class=peer_class(own[1])
            )
        assert self.desire.take_policy(self.batch({**values, "commit": COMMIT}))

    def address(self, ip: str) -> tuple[int, int] | None:
        """Class and identity that the kernel holds for an address."""
        self.desire.want_local()
        assert self.state.apply().problems == ()
        value = self.state.v4.ipcache.get(packed(ip))
        return None if value is None else PEER.unpack(value)

    def endpoint(self) -> tuple[int, ...] | None:
        """What the kernel holds for the local pod: its sets, ifindex, identity and flags."""
        self.desire.want_local()
        assert self.state.apply().problems == ()
        value = self.state.v4.endpoints.get(packed(POD_IP))
        if value is None:
            return None
        return tuple(ENDPOINT.unpack(value))


def peer_class(number: int) -> ClassId:
    return ClassId(f"{number:016x}")


def remote(identity: int, *, pod: str = "web") -> dict[str, IpEntry | None]:
    entry = IpEntry(ip=REMOTE_IP, identity=Identity(identity), node="n2", namespace="shop", pod=pod)
    return {ip_key(REMOTE_IP): entry}


def local(identity: int) -> dict[str, IpEntry | None]:
    entry = IpEntry(ip=POD_IP, identity=Identity(identity), node=NODE, namespace="shop", pod="db")
    return {ip_key(POD_IP): entry}


def nodes(*names: str) -> dict[str, NodeRecord | None]:
    return {name: NodeRecord(name=name, pod_cidrs=(f"10.{name[1:]}.0.0/24",)) for name in names}


LOCAL = LocalEndpoint(
    container_id="c1",
    ifname="eth0",
    netns="/run/netns/c1",
    namespace="shop",
    pod="db",
    uid="u1",
    ips=(POD_IP,),
    host_ifname="stn0123456789",
    host_ifindex=17,
    mac="0e:53:0a:01:00:05",
    mtu=1500,
)


def enter_local(kernel: Kernel, identity: int) -> None:
    """The local pod with everything that it takes to be ready."""
    record = EndpointRecord(node=NODE, namespace="shop", name="db", uid="u1", identity=Identity(identity))
    kernel.desire.local[LOCAL.host_ifname] = LOCAL
    kernel.desire.take_endpoints(kernel.batch({pod_key(node=NODE, namespace="shop", pod="db"): record}))
    kernel.desire.addresses.take_ipcache(kernel.batch(local(identity)))
