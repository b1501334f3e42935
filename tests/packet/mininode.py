"""A node without services: a network namespace with the datapath's programs, pods, and maps filled by hand.

It shows what the kernel does with packets. Everything it makes carries one prefix and goes with
:meth:`MiniNode.close`, also when a test fails.
"""

from __future__ import annotations

import asyncio
import ctypes
import itertools
import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import IntEnum
from functools import cache
from pathlib import Path
from typing import NamedTuple, Self

from deploy.lab import namespaces
from services.datapath.intake import kernel_events
from services.datapath.kernel import ring
from services.datapath.kernel.attach import Hook
from services.datapath.kernel.build import RINGS
from services.datapath.kernel.layout import (
    BLOCKS_PER_ROW,
    CLASS_DEFAULT,
    DROP_COUNTER,
    ENDPOINT,
    ENDPOINT_READY,
    FRONTEND,
    PEER,
    PORT_RANGE,
    RANGES_PER_BLOCK,
    ROW_HEADER,
    ROW_KEY,
    ROW_SIZE,
    RULE_NONE,
    SET_OPEN,
    SLOT_KEY,
    U32,
    U64,
    packed,
    port_bytes,
)
from services.datapath.kernel.loader import Loaded, open_ring
from services.datapath.kernel.ring import EventRings, RawEvent
from services.datapath.kernel.source import CONSTANTS
from services.datapath.kernel.state import FamilyState, KernelState
from services.datapath.netlink import Netlink
from services.datapath.podlink import HOST_MAC, PodLink
from shared.contract.drops import DropReason
from shared.contract.reserved import Reserved
from tests.packet.runs import RUN

_CLONE_NEWNET = 0x40000000
_PROBE = Path(__file__).with_name("probe.py")
_numbers = itertools.count()

CLASS_OF = 1_000_000
"""Class of an identity in these tests: this plus the identity."""


class Action(IntEnum):
    """What a range or a row decides."""

    DENY = CONSTANTS["ACTION_DENY"]
    ALLOW = CONSTANTS["ACTION_ALLOW"]
    REDIRECT = CONSTANTS["ACTION_REDIRECT"]
    AUDIT = CONSTANTS["ACTION_AUDIT"]


class Range(NamedTuple):
    """Ports of one protocol in a row. A plain tuple of the first three is allowed by rule 0."""

    protocol: int
    first: int
    last: int
    action: Action = Action.ALLOW
    rule: int | None = 0


class Dropped(NamedTuple):
    """What the kernel counted."""

    packets: int
    bytes: int


class FamilyPlan(NamedTuple):
    """Addresses of a node of one family."""

    node: str
    uplink: str
    outside: tuple[str, str]
    pods: str
    bits: int
    uplink_length: int
    ethertype: int
    nodad: tuple[str, ...] = ()


V4 = FamilyPlan("10.9.0.1", "192.0.2.1", ("192.0.2.2", "192.0.2.3"), "10.1.0.{}", 32, 24, 0x0800)
V6 = FamilyPlan(
    "fd00:9::1", "2001:db8::1", ("2001:db8::2", "2001:db8::3"), "fd00:1::{}", 128, 64, 0x86DD, ("nodad",)
)


def set_netns(descriptor: int) -> None:
    """Moves the calling thread, and the threads that it starts from now on, into a network namespace."""
    if ctypes.CDLL(None, use_errno=True).setns(descriptor, _CLONE_NEWNET):
        raise OSError(ctypes.get_errno(), "setns")


def enter(netns: str) -> None:
    """:func:`set_netns` by name."""
    descriptor = os.open(f"/run/netns/{netns}", os.O_RDONLY)
    try:
        set_netns(descriptor)
    finally:
        os.close(descriptor)


@dataclass
class Pod:
    """A pod of the node."""

    name: str
    netns: str
    ip: str
    identity: int
    ifindex: int
    host_ifname: str = ""
    ingress_set: int = SET_OPEN
    egress_set: int = SET_OPEN


@dataclass
class MiniNode:
    """See the module; made by :meth:`create`."""

    prefix: str
    home: int
    kernel: KernelState
    loaded: Loaded
    netlink: Netlink
    pods: dict[str, Pod] = field(default_factory=dict)
    outside: Pod | None = None
    events: list[RawEvent] = field(default_factory=list)
    batches: list[int] = field(default_factory=list)
    """How many events came at once."""
    _processes: list[asyncio.subprocess.Process] = field(default_factory=list)
    _rings: EventRings | None = None
    _descriptors: list[int] = field(default_factory=list)
    _news: asyncio.Event = field(default_factory=asyncio.Event)

    family: FamilyPlan = field(default_factory=lambda: V4)

    @property
    def maps(self) -> FamilyState:
        """The maps for this node's addresses."""
        return self.kernel.of(self.NODE_IP)

    @property
    def NODE_IP(self) -> str:
        return self.family.node

    @property
    def UPLINK_IP(self) -> str:
        return self.family.uplink

    @property
    def OUTSIDE_IPS(self) -> tuple[str, str]:
        return self.family.outside

    @classmethod
    async def create(cls, loaded: Loaded, *, family: FamilyPlan | None = None) -> Self:
        """A node with an address of its own and no pods; IPv4 if not said."""
        family = family or V4
        prefix = f"stm-{RUN}{next(_numbers)}"
        _ip("netns", "add", prefix)
        _ip("-n", prefix, "link", "set", "lo", "up")
        _ip("-n", prefix, "addr", "add", f"{family.node}/{family.bits}", "dev", "lo")

        home = os.open("/proc/thread-self/ns/net", os.O_RDONLY)
        enter(prefix)
        netlink = Netlink(workers=2)
        await netlink.enable_forwarding()
        kernel = _kernel(loaded.maps)
        kernel.repair(kernel.drift())
        for mirror in kernel.mirrors:
            mirror.want_exactly({})
        for each in kernel.families:
            each.connections.delete_all(list(each.connections.keys()))
        kernel.set_mac(bytes.fromhex(HOST_MAC.replace(":", "")))
        node = cls(prefix=prefix, home=home, kernel=kernel, loaded=loaded, netlink=netlink, family=family)
        node._descriptors += [open_ring(loaded, name) for name in RINGS]
        node._rings = EventRings(node._descriptors, node._take)
        node.maps.ipcache.want(packed(family.node), PEER.pack(0, Reserved.HOST))
        node.identity(Reserved.WORLD)
        kernel.apply()
        node.events.clear()
        return node

    async def close(self) -> None:
        """Removes everything."""
        for process in self._processes:
            if process.returncode is None:
                process.kill()
            await process.wait()
        if self._rings is not None:
            self._rings.close()
        for descriptor in self._descriptors:
            os.close(descriptor)
        await self.netlink.close()
        set_netns(self.home)
        os.close(self.home)
        for pod in (*self.pods.values(), *([self.outside] if self.outside else [])):
            _ip("netns", "del", pod.netns)
        _ip("netns", "del", self.prefix)

    async def add_outside(self, *, guarded: bool = True) -> Pod:
        """Another machine, behind an uplink that has (``guarded``) the program for uplinks or has none."""
        netns = f"{self.prefix}-out"
        _ip("netns", "add", netns)
        for each in (self.prefix, netns):
            # Looking for duplicates would keep the link-local addresses, and so neighbours, waiting.
            namespaces.write_sysctl(each, {"net.ipv6.conf.default.accept_dad": "0"})
        _ip("-n", self.prefix, "link", "add", "up0", "type", "veth", "peer", "name", "eth0", "netns", netns)
        length = self.family.uplink_length
        _ip("-n", self.prefix, "addr", "add", f"{self.UPLINK_IP}/{length}", "dev", "up0", *self.family.nodad)
        _ip("-n", self.prefix, "link", "set", "up0", "up")
        for ip in self.OUTSIDE_IPS:
            _ip("-n", netns, "addr", "add", f"{ip}/{length}", "dev", "eth0", *self.family.nodad)
        _ip("-n", netns, "link", "set", "eth0", "up")
        _ip("-n", netns, "route", "add", "default", "via", self.UPLINK_IP)
        index = (await self.netlink.uplinks(node_addresses=[self.UPLINK_IP]))[0].ifindex
        if guarded:
            fd = self.loaded.program_fds["from_network"]
            await self.netlink.attach_program(Hook(ifindex=index, side="ingress", name="from_network", fd=fd))
        self.maps.ipcache.want(packed(self.UPLINK_IP), PEER.pack(0, Reserved.HOST))
        self.kernel.apply()
        self.outside = Pod("outside", netns, self.OUTSIDE_IPS[0], Reserved.WORLD, index)
        return self.outside

    def identity(self, identity: int) -> None:
        """Gives an identity its class."""
        self.kernel.classes.want(U32.pack(identity), U64.pack(CLASS_OF + identity))

    async def add_pod(
        self, name: str, *, identity: int, ready: bool = True, ip: str = "", also: tuple[str, ...] = ()
    ) -> Pod:
        """A pod with a link, known to the kernel by ``ip``; its link has the addresses of ``also``, too."""
        ip = ip or self.family.pods.format(len(self.pods) + 2)
        netns = f"{self.prefix}-{name}"
        _ip("netns", "add", netns)
        link = PodLink(
            container_id=netns, ifname="eth0", netns=f"/run/netns/{netns}", addresses=(ip, *also), mtu=1500
        )
        pair = await self.netlink.create_pod_link(link)
        pod = self.pods[name] = Pod(name, netns, ip, identity, pair.host_ifindex, link.host_ifname)
        for side, program in (("ingress", "from_pod"), ("egress", "to_pod")):
            fd = self.loaded.program_fds[program]
            await self.netlink.attach_program(Hook(ifindex=pair.host_ifindex, side=side, name=program, fd=fd))
        await self.netlink.bring_up_pod_link(link)
        self.identity(identity)
        self.kernel.of(ip).ipcache.want(packed(ip), PEER.pack(0, identity))
        self.enter(pod, ready=ready)
        return pod

    def enter(self, pod: Pod, *, ready: bool = True) -> None:
        """Writes a pod's endpoint entry, with its sets."""
        flags = ENDPOINT_READY if ready else 0
        value = ENDPOINT.pack(pod.ingress_set, pod.egress_set, pod.ifindex, pod.identity, flags)
        self.kernel.of(pod.ip).endpoints.want(packed(pod.ip), value)
        self.kernel.apply()

    def row(
        self,
        policy_set: int,
        identity: int | None,
        *ranges: Range | tuple[int, int, int],
        allow: bool = False,
        action: Action = Action.DENY,
        rule: int | None = None,
    ) -> None:
        """Writes a row, the default row for None; ``action`` (``allow``: that one) is for all other ports."""
        blocks, rest = divmod(len(ranges), RANGES_PER_BLOCK)
        blocks = max(1, blocks + bool(rest))
        assert blocks <= BLOCKS_PER_ROW, "a row has no room for so many ranges"
        header = ROW_HEADER.pack(len(ranges), _rule(rule), Action.ALLOW if allow else action)
        packed_ranges = [
            PORT_RANGE.pack(each.first, each.last, each.protocol, each.action, _rule(each.rule), 0)
            for each in sorted(Range(*each) for each in ranges)
        ]
        for block, key in enumerate(_row_keys(policy_set, identity)):
            part = packed_ranges[block * RANGES_PER_BLOCK : (block + 1) * RANGES_PER_BLOCK]
            value = (header + b"".join(part)).ljust(ROW_SIZE, b"\0")
            self.kernel.rows.want(key, value if block < blocks else None)
        self.kernel.apply()

    def forget_row(self, policy_set: int, identity: int | None, *, blocks: slice = slice(None)) -> None:
        """Removes a row, or some blocks of it."""
        for key in _row_keys(policy_set, identity)[blocks]:
            self.kernel.rows.want(key, None)
        self.kernel.apply()

    def service(self, ip: str, *, port: int, protocol: int, backends: list[tuple[str, int]]) -> None:
        """Writes a Service with one port."""
        number = hash((ip, port, protocol, tuple(backends))) & 0xFFFFFFFF
        maps = self.kernel.of(ip)
        key = maps.family.frontend_key
        maps.frontends.want(key.pack(packed(ip), bytes(2), 0), FRONTEND.pack(0, 0, 0))
        maps.frontends.want(
            key.pack(packed(ip), port_bytes(port), protocol), FRONTEND.pack(number, len(backends), 0)
        )
        for slot, (address, backend_port) in enumerate(backends):
            value = maps.family.backend.pack(packed(address), port_bytes(backend_port), 0)
            maps.backends.want(SLOT_KEY.pack(number, slot), value)
        self.kernel.apply()

    async def probe(self, where: Pod | None, *arguments: str) -> dict[str, object]:
        """Runs ``probe.py`` in a pod (None: on the node) and gives its JSON answer."""
        process = await self._start(where, *arguments)
        output, _ = await process.communicate()
        assert process.returncode == 0, f"probe {arguments} ended with {process.returncode}"
        answer = json.loads(output.splitlines()[-1])
        assert isinstance(answer, dict)
        return answer

    async def hears(self, where: Pod, sender: Pod | None, *data: bytes) -> list[bytes]:
        """The packets that reach a namespace while a sender (None: the node) sends ``data``."""
        sniffer = await self.serve(where, "sniff", "eth0", hex(self.family.ethertype))
        await self.send(sender, *data)
        output, _ = await sniffer.communicate(b"")
        heard: list[str] = json.loads(output)["heard"]
        return [bytes.fromhex(packet) for packet in heard]

    async def send(self, sender: Pod | None, *data: bytes) -> None:
        """Sends packets as they are."""
        await self.probe(sender, "packets", *(packet.hex() for packet in data))

    async def serve(self, where: Pod | None, *arguments: str) -> asyncio.subprocess.Process:
        """Starts ``probe.py`` and returns once it says that it is ready; it ends with the node."""
        process = await self._start(where, *arguments)
        assert process.stdout is not None
        assert (await process.stdout.readline()).strip() == b"ready"
        return process

    def told(self, *, dropped: bool) -> list[RawEvent]:
        """Events told so far, of one kind."""
        return [event for event in self.events if (event.type == ring.EVENT_DROP) is dropped]

    async def until(self, enough: Callable[[], bool]) -> None:
        """Takes events until something holds."""
        async with asyncio.timeout(3):
            while not enough():
                self._news.clear()
                await self._news.wait()

    async def drop_reason(self) -> int:
        """Waits for the first drop and gives its reason."""
        await self.until(lambda: bool(self.told(dropped=True)))
        return self.told(dropped=True)[0].reason

    def drops(self, reason: int) -> int:
        """Packets from pods dropped for a reason, as counted by the kernel."""
        return self._dropped(reason, ingress=False).packets

    def all_drops(self) -> dict[tuple[DropReason, str], Dropped]:
        """All that the kernel ever counted, by reason and direction."""
        counted = {
            (reason, direction): self._dropped(reason, ingress=direction == "ingress")
            for reason in DropReason
            for direction in ("egress", "ingress")
        }
        return {key: dropped for key, dropped in counted.items() if dropped.packets}

    def _dropped(self, reason: int, *, ingress: bool) -> Dropped:
        values = self.kernel.drops.per_cpu(U32.pack(reason * 2 + ingress))
        packets, sizes = zip(*map(DROP_COUNTER.unpack, values), strict=True)
        return Dropped(sum(packets), sum(sizes))

    async def _start(self, where: Pod | None, *arguments: str) -> asyncio.subprocess.Process:
        netns = where.netns if where else self.prefix
        process = await asyncio.create_subprocess_exec(
            "nsenter",
            f"--net=/run/netns/{netns}",
            sys.executable,
            "-S",
            "-E",
            str(_PROBE),
            *arguments,
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
        )
        self._processes.append(process)
        return process

    def _take(self, batch: list[bytes]) -> None:
        self.batches.append(len(batch))
        for data in batch:
            raw = ring.decode(data)
            assert list(kernel_events(raw))
            self.events.append(raw)
        self._news.set()


def since(
    node: MiniNode, before: dict[tuple[DropReason, str], Dropped]
) -> dict[tuple[DropReason, str], Dropped]:
    """What has been counted since."""
    none = Dropped(0, 0)
    found = {}
    for key, now in node.all_drops().items():
        then = before.get(key, none)
        if now != then:
            found[key] = Dropped(now.packets - then.packets, now.bytes - then.bytes)
    return found


@cache
def _kernel(maps: Path) -> KernelState:
    """One for all nodes with these maps: it keeps a descriptor of each map for good."""
    return KernelState(maps)


def _row_keys(policy_set: int, identity: int | None) -> list[bytes]:
    """Keys of all blocks that a row may have."""
    peer_class = CLASS_DEFAULT if identity is None else CLASS_OF + identity
    return [ROW_KEY.pack(policy_set, peer_class, block) for block in range(BLOCKS_PER_ROW)]


def _rule(rule: int | None) -> int:
    return RULE_NONE if rule is None else rule


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True, capture_output=True)
