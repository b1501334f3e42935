"""A pod that causes events faster than they can be read does not keep the datapath from its other work."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.packet.craft import UDP, ipv4, udp
from tests.packet.mininode import MiniNode, Pod
from tests.waiting import eventually

SET = 77
PACKETS = 2000
"""Fewer than a ring has room for."""


def flood(sender: Pod, packet: bytes) -> None:
    """Sends, and lets nothing of the event loop run meanwhile."""
    probe = Path(__file__).with_name("probe.py")
    command = ["nsenter", f"--net=/run/netns/{sender.netns}", sys.executable, "-S", "-E", str(probe)]
    subprocess.run([*command, "flood", packet.hex(), str(PACKETS)], check=True, stdout=subprocess.DEVNULL)


async def test_a_flood_of_drops_is_read_in_parts(node: MiniNode) -> None:
    client, server = await node.add_pod("c", identity=300), await node.add_pod("s", identity=301)
    node.row(SET, None)
    server.ingress_set = SET
    node.enter(server)
    node.batches.clear()

    flood(client, ipv4(client.ip, server.ip, UDP, udp(4000, 80)))

    await eventually(lambda: len(node.told(dropped=True)) == PACKETS)
    assert sum(node.batches) == PACKETS
    assert max(node.batches) <= 512, "others have their turn between two parts"
