"""A datapath that restarts finds everything in the kernel as it left it, and leaves it so."""

from __future__ import annotations

import time

from deploy.lab import client
from tests.packet.agents import DENIED_SECONDS, job, traffic
from tests.packet.labs import Lab, eventually, programs
from tests.packet.leftovers import differences
from tests.packet.manifests import from_pods, pod, policy

NS = "again"


def pins(lab: Lab, node: str) -> dict[str, int]:
    """Everything that a node's datapath has pinned, with its inode: made anew it would have another."""
    folder = lab.names.bpffs(node)
    return {str(path.relative_to(folder)): path.stat().st_ino for path in sorted(folder.rglob("*"))}


async def test_restart_compiles_and_attaches_nothing_and_breaks_nothing(lab: Lab) -> None:
    objects = [
        pod("server", namespace=NS, node="node-1", app="server"),
        pod("near", namespace=NS, node="node-1", app="friend"),
        pod("far", namespace=NS, node="node-2", app="friend"),
        pod("stranger", namespace=NS, node="node-1", app="stranger"),
        policy("door", namespace=NS, subject={"app": "server"}, peers=[from_pods(app="friend")]),
    ]
    async with lab.namespace(NS, *objects):
        server = lab.ip("server", namespace=NS)
        jobs = {
            name: [job("kept", server, id=f"{name} kept"), job("new", server, id=f"{name} new")]
            for name in ("near", "far")
        }
        denied = [job("new", server, id="stranger", patience=DENIED_SECONDS)]
        async with traffic(lab, NS, **jobs, stranger=denied) as seen:
            for node in lab.nodes:
                child = f"datapath-{node}"
                before = (programs(lab, node), pins(lab, node))
                assert before[0]
                (old,) = [each for each in (await client.status(lab.name)).children if each.name == child]
                await client.kill_child(lab.name, child)
                killed = time.monotonic()

                async def back(child: str = child, pid: int = old.pid) -> bool:
                    (now,) = [each for each in (await client.status(lab.name)).children if each.name == child]
                    return now.pid not in (0, pid) and now.ready is True

                await eventually(back)
                took = time.monotonic() - killed
                assert (programs(lab, node), pins(lab, node)) == before
                # One second of pause, some for Python; compiling alone would take longer.
                assert took < 10, f"{child} was away for {took:.1f} s"
            await lab.well()
            await seen.more()
            ids = [each["id"] for one in jobs.values() for each in one]
            assert seen.faults(allowed=ids, denied=["stranger"]) == []
        assert await differences(lab) == []
