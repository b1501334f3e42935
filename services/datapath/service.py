"""Puts the datapath together: kernel, followers, CNI, flows and reports, each a named task of the runtime.

Order of a start: the kernel's programs and maps are opened (or compiled), pods known from before are entered
with what the kernel holds for them, enforcement is on, and only then what buckets say is taken and CNI is
served. At no point is a pod with a policy without it.
"""

from __future__ import annotations

import argparse
from pathlib import Path

from prometheus_client import REGISTRY

from services.datapath.claims import Claims
from services.datapath.cni import CniServer
from services.datapath.endpoints import EndpointRegistry
from services.datapath.flows import FlowPublisher, FlowViews
from services.datapath.follow import Followers, read_ahead
from services.datapath.intake import EventIntake
from services.datapath.ipam import HostLocalIpam
from services.datapath.kernel.build import RINGS
from services.datapath.kernel.loader import load, open_ring
from services.datapath.kernel.source import Sizes
from services.datapath.kernel.state import KernelState
from services.datapath.lifecycle import PodNetwork
from services.datapath.metrics import DatapathCollector
from services.datapath.netlink import Netlink
from services.datapath.node import NodeNetwork
from services.datapath.podlink import HOST_MAC
from services.datapath.realise import Realiser
from services.datapath.report import Reporter
from services.datapath.setrows import WhenFull
from services.datapath.statefiles import make_directory
from shared.contract.identity import Claim
from shared.contract.names import Bucket
from shared.contract.node import Realised, UnfitSet
from shared.service import Runtime

_COLLECT_SECONDS = 15.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The datapath's own flags."""
    parser.add_argument("--cni-socket", type=Path, default=Path("/run/stentor/cni.sock"))
    parser.add_argument("--bpffs", type=Path, default=Path("/sys/fs/bpf/stentor"), help="directory for pins")
    parser.add_argument("--state-dir", type=Path, default=Path("/run/stentor/datapath"))
    parser.add_argument(
        "--enable-on",
        choices=("all", "annotated"),
        default="all",
        help='enforce on every node, or where the annotation azure.microsoft.com/use-cilium is "true"',
    )
    parser.add_argument(
        "--resync-seconds",
        type=float,
        default=300.0,
        help="how often the kernel is compared with what is desired",
    )
    parser.add_argument(
        "--when-full",
        type=WhenFull,
        choices=list(WhenFull),
        default=WhenFull.CLOSED,
        help="pods whose policies do not fit into the kernel are closed, or keep the last policy that did",
    )
    parser.add_argument(
        "--map-size",
        action="append",
        default=[],
        metavar="MAP=N",
        help=f"entries of a map: {', '.join(vars(Sizes()))}. New sizes start with empty maps.",
    )


def map_sizes(options: list[str]) -> Sizes:
    """The capacities that ``--map-size`` asks for; raises SystemExit naming the option that is wrong."""
    sizes = {}
    for option in options:
        name, _, number = option.partition("=")
        if name not in vars(Sizes()) or not number.isdigit() or int(number) < 1:
            raise SystemExit(
                f"--map-size {option}: expected MAP=N with MAP one of {', '.join(vars(Sizes()))}"
            )
        sizes[name] = int(number)
    return Sizes(**sizes)


async def main(runtime: Runtime) -> None:
    """Runs the datapath of one node until it is cancelled."""
    options = runtime.settings.arguments
    node = runtime.settings.node
    if not node:
        raise SystemExit("--node is missing: the name of this Kubernetes node")
    make_directory(options.state_dir / "endpoints")
    reading = await read_ahead(runtime.bus, node=node)
    loaded = await load(bpffs=options.bpffs, sizes=map_sizes(options.map_size))
    kernel = KernelState(loaded.maps)
    kernel.set_mac(bytes.fromhex(HOST_MAC.replace(":", "")))
    netlink = Netlink()

    async def tell_drift(entries: int) -> None:
        await runtime.event(
            kind="drift-repaired",
            object=f"Node {node}",
            message=f"{entries} entries of the kernel were not as this datapath left them; they are mended",
        )

    async def tell_unfit(unfit: UnfitSet) -> None:
        await runtime.event(
            kind="policy-unfit",
            object=", ".join(f"{ref.kind} {ref.namespace}/{ref.name}" for ref in unfit.policies),
            message=unfit.reason,
        )

    realiser = Realiser(
        node=node,
        instance=runtime.health.instance,
        kernel=kernel,
        loaded=loaded,
        netlink=netlink,
        when_full=options.when_full,
        tell_drift=tell_drift,
        tell_unfit=tell_unfit,
    )
    REGISTRY.register(DatapathCollector(realiser))
    registry = EndpointRegistry(options.state_dir / "endpoints")
    ipam = HostLocalIpam(options.state_dir / "ipam.json")
    claims = Claims(
        node=node,
        store=await runtime.bus.bucket(Bucket.CLAIMS, as_type=Claim),
        reconnected=runtime.bus.reconnected,
    )
    node_network = NodeNetwork(
        node=node,
        annotated_only=options.enable_on == "annotated",
        netlink=netlink,
        realiser=realiser,
        ipam=ipam,
        health=runtime.health,
    )
    network = PodNetwork(
        ipam=ipam,
        registry=registry,
        netlink=netlink,
        kernel=realiser,
        claims=claims,
        mtu=lambda: node_network.mtu,
        report=runtime.event,
    )
    links = await netlink.pod_links()
    for endpoint in registry.all():
        if links.get(endpoint.host_ifname) == endpoint.host_ifindex:
            realiser.enter(endpoint)
    realiser.desire.unknown_links = {
        broken.host_ifname: links[broken.host_ifname]
        for broken in registry.broken
        if broken.host_ifname in links
    }
    await node_network.start()

    followers = Followers(runtime, realiser, reading=reading)
    followers.on_nodes(node_network.trigger)
    views = FlowViews(
        ipcache=realiser.desire.addresses.ipcache,
        identities=followers.identities,
        services=realiser.desire.services.names,
        sets=realiser.desire.sets,
        endpoints=realiser.endpoints_by_ifindex,
        policy_revision=lambda: realiser.policy_revision,
    )
    flows = FlowPublisher(node=node, bus=runtime.bus, views=views)
    intake = EventIntake(
        [open_ring(loaded, name) for name in RINGS], flows=flows, losses=realiser.events_lost
    )
    reporter = Reporter(realiser, await runtime.bus.bucket(Bucket.REALISED, as_type=Realised), node=node)
    cni = CniServer(
        network=network,
        path=options.cni_socket,
        readiness=lambda: "; ".join(runtime.health.reasons),
        report=runtime.event,
    )
    try:
        runtime.start("apply", realiser.run())
        runtime.start("claims", claims.run())
        runtime.start("node network", node_network.run())
        runtime.start("report", reporter.run())
        runtime.start("resync", realiser.resync(seconds=options.resync_seconds))
        runtime.start("conntrack", realiser.collect(seconds=_COLLECT_SECONDS))
        runtime.start("flows", flows.run())
        runtime.start("events", intake.run())
        followers.start()
        await cni.run()
    finally:
        intake.close()
        await netlink.close()
