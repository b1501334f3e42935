"""A datapath without policy for tests of the lab: real links and addresses, made when the CNI plugin asks.

Pods of one node reach each other and their node; the test's own API for everything else.
"""

from __future__ import annotations

import asyncio
import hashlib
from ipaddress import ip_network
from pathlib import Path

from pyroute2 import IPRoute

from deploy.lab import namespaces
from deploy.lab.names import LabNames
from deploy.lab.topology import HostPlan
from tests.deploy.lab.fake_datapath import Answer, Body, FakeDatapath

GATEWAY = "169.254.1.1"


class LinkingDatapath(FakeDatapath):
    """Gives each pod a veth, an address of the node's pod CIDR, and a route on the node."""

    def __init__(self, names: LabNames, host: HostPlan) -> None:
        super().__init__(names.cni_socket(host.name), answer=self._link)
        self._host = host
        self._addresses = [str(ip) for ip in ip_network(host.pod_cidrs[0]).hosts()]
        self.given: dict[str, str] = {}
        """Address by container id, of pods attached now."""
        self.refuse: Answer | None = None

    async def _link(self, operation: str, body: Body) -> Answer:
        if self.refuse is not None:
            return self.refuse
        container = body["containerID"]
        if operation == "add":
            ip = next(ip for ip in self._addresses if ip not in self.given.values())
            self.given[container] = ip
            await asyncio.to_thread(self._connect, container, Path(body["netns"]).name, ip)
            return 200, {"cni": _result(body, ip)}
        if operation == "del":
            self.given.pop(container, None)
        if operation == "check" and container not in self.given:
            return 404, {"code": 100, "msg": "no such attachment"}
        return 200, {}

    def _connect(self, container: str, namespace: str, ip: str) -> None:
        outer = "v" + hashlib.sha256(container.encode()).hexdigest()[:10]

        def inside() -> None:
            with IPRoute() as route, Path(f"/run/netns/{self._host.namespace}").open("rb") as node:
                route.link(
                    "add", ifname="eth0", kind="veth", peer={"ifname": outer, "net_ns_fd": node.fileno()}
                )
                index = route.link_lookup(ifname="eth0")[0]
                route.addr("add", index=index, address=ip, prefixlen=32)
                route.link("set", index=index, state="up")
                route.route("add", dst=f"{GATEWAY}/32", oif=index, scope="link")
                route.route("add", dst="default", gateway=GATEWAY, oif=index)

        def outside() -> None:
            with IPRoute() as route:
                index = route.link_lookup(ifname=outer)[0]
                route.link("set", index=index, state="up")
                route.route("add", dst=f"{ip}/32", oif=index)
            Path(f"/proc/sys/net/ipv4/conf/{outer}/proxy_arp").write_text("1")

        namespaces.run_in(namespace, inside)
        namespaces.run_in(self._host.namespace, outside)


def _result(body: Body, ip: str) -> Body:
    return {
        "cniVersion": "1.1.0",
        "interfaces": [{"name": body["ifname"], "sandbox": body["netns"]}],
        "ips": [{"address": f"{ip}/32", "gateway": GATEWAY, "interface": 0}],
    }
