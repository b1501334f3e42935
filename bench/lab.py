"""`stentor bench lab`: pods, policies, memory and the demo, in a lab of two nodes of its own.

The order is: policy changes with the demo's six pods, then pods that come, memory and CPU time while all of
them run, pods that go, and the demo in labs of its own.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from bench.changes import PolicyChanges, listening
from bench.demo import measure_demo
from bench.fresh import fresh_lab
from bench.pods import PodSeries, PodStates
from bench.processes import process_uses
from bench.report import Record
from bench.shown import Shown
from deploy.cli.connection import open_bus
from deploy.cli.demo import MANIFESTS, POLICY_FILE, WORKLOADS
from deploy.cli.lab_state import lab_settings
from deploy.lab import client
from shared.kubernetes import connect

NODES = 2


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """How many samples of each; 0 leaves the part out."""

    pods: int
    changes: int
    demos: int
    patience: float
    """Seconds that each sample waits for a quiet machine."""

    @property
    def command(self) -> str:
        """The command that measures all of this."""
        return f"stentor bench lab --pods {self.pods} --changes {self.changes} --demos {self.demos}"


async def measure_lab(wanted: Wanted, record: Record, *, shown: Shown) -> None:
    """Measure all that is wanted, into ``record``."""
    if wanted.pods or wanted.changes:
        manifests = [MANIFESTS / name for name in (*WORKLOADS, POLICY_FILE)]
        async with fresh_lab(nodes=NODES, manifests=manifests, shown=shown) as lab:
            await _measure_in(lab, wanted, record, shown=shown)
    if wanted.demos:
        record.add([await measure_demo(count=wanted.demos, shown=shown)])


async def _measure_in(lab: str, wanted: Wanted, record: Record, *, shown: Shown) -> None:
    kubeconfig = client.kubeconfig(lab)
    api = await connect(kubeconfig=str(kubeconfig))
    try:
        if wanted.changes:
            async with open_bus(lab_settings(lab)) as bus, listening(api, bus, nodes=NODES) as in_force:
                changes = PolicyChanges(
                    api, in_force, kubeconfig=kubeconfig, count=wanted.changes, patience=wanted.patience
                )
                await changes.make(shown)
            record.add(changes.figures())
        if wanted.pods:
            states = PodStates(api)
            following = asyncio.create_task(states.follow(), name="follow pods")
            try:
                pods = PodSeries(api, states, lab=lab, count=wanted.pods, patience=wanted.patience)
                await pods.create(shown)
                record.processes += await process_uses(lab, command=wanted.command)
                await pods.delete(shown)
            finally:
                following.cancel()
            record.add(pods.figures())
        else:
            record.processes += await process_uses(lab, command=wanted.command)
    finally:
        await api.close()
