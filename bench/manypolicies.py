"""`stentor bench policy`, the part about connections: what many policies on one pod cost a new one.

A lab of one node with a pair of pods for each number of policies. All policies are in force at the same time,
and each pair is selected by its own, of which the first lets it talk and the others speak of other peers and
ports. Every round measures each pair by plain routing and with its policies, in an order shuffled anew.
"""

from __future__ import annotations

import os
import random
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median

import msgspec
import yaml

from bench.feeding import create_policies
from bench.figures import Figure, Samples, counting, spread
from bench.fresh import fresh_lab
from bench.load import since, usage
from bench.packets import Packets
from bench.programs import build, start_server, talk
from bench.report import Record
from bench.shown import Shown
from bench.switches import NAMESPACE, State, Switches
from bench.testrun import FRESH
from deploy.cli.connection import open_bus
from deploy.cli.errors import UnfitError
from deploy.cli.lab_state import lab_settings
from deploy.cli.policy_wait import network_policies
from deploy.cli.waiting import wait_for_policies
from deploy.lab import client
from shared.kubernetes import Object, connect

COUNTS = (10, 1_000, 5_000)
PORT = 5001
_FIRST_PORT = 10_000
_FIRST_SOURCE_PORT = 15_000
MOST_ROUNDS = (65_536 - _FIRST_SOURCE_PORT) // FRESH
"""Each round of test runs needs source ports of its own, as a port that was used is a known connection."""


@dataclass
class _Pair:
    """The pods that ``count`` policies select, and what was measured of them."""

    count: int
    plain: list[tuple[float, bool]] = field(default_factory=list)
    with_policies: list[tuple[float, bool]] = field(default_factory=list)
    lookup: list[tuple[float, bool]] = field(default_factory=list)

    @property
    def group(self) -> dict[str, str]:
        """Labels of both pods."""
        return {"group": f"g{self.count}"}

    @property
    def client(self) -> str:
        return f"client-g{self.count}"

    @property
    def server(self) -> str:
        return f"server-g{self.count}"


async def measure_many(record: Record, *, rounds: int, seconds: float, patience: float, shown: Shown) -> None:
    """In a lab of its own, into ``record``."""
    processors = sorted(os.sched_getaffinity(0))
    if len(processors) < 2:
        raise UnfitError("client and server both never sleep: this benchmark needs two processors.")
    pairs = [_Pair(count) for count in COUNTS]
    with tempfile.TemporaryDirectory() as folder:
        program, language = await build(Path(folder))
        manifest = Path(folder) / "pods.yaml"
        pods = [pod for pair in pairs for pod in (_pod(pair, pair.client), _pod(pair, pair.server))]
        manifest.write_text(yaml.safe_dump_all(pods))
        async with fresh_lab(nodes=1, manifests=[manifest], enable_on="annotated", shown=shown) as lab:
            bench = _Many(lab, pairs, program=program, cpus=(processors[0], processors[-1]), shown=shown)
            await bench.measure(rounds=rounds, seconds=seconds, patience=patience)
    command = f"stentor bench policy --starts 0 --changes 0 --rounds {rounds} --seconds {seconds:g}"
    record.add(_figures(pairs, command=command))
    record.notes.append(
        f"Client and server of new connections are written in {language}, busy-poll with real-time priority, "
        "each on its own processor. Judge the ratios to plain routing; of the program, those to 10 policies."
    )


class _Many:
    def __init__(
        self, lab: str, pairs: list[_Pair], *, program: list[str], cpus: tuple[int, int], shown: Shown
    ) -> None:
        self._lab = lab
        self._pairs = pairs
        self._program = program
        self._client_cpu, self._server_cpu = cpus
        self._shown = shown

    async def measure(self, *, rounds: int, seconds: float, patience: float) -> None:
        api = await connect(kubeconfig=str(client.kubeconfig(self._lab)))
        try:
            bodies = [body for pair in self._pairs for body in _policies(pair)]
            with self._shown.part("creating policies", total=len(bodies)) as advance:
                await create_policies(api, bodies, advance=advance)
            async with (
                open_bus(lab_settings(self._lab)) as bus,
                network_policies(client.kubeconfig(self._lab)) as list_policies,
            ):
                switches = Switches(self._lab, api=api, bus=bus, policy={})
                await switches.set(State(enforcing=True), patience=patience)
                self._shown.tell("waiting for the policies")
                await wait_for_policies(bus, only=None, list_policies=list_policies, tell=client.silent)
                with self._shown.part("new connections", total=rounds * len(self._pairs) * 3) as advance:
                    for number in range(rounds):
                        for pair in random.sample(self._pairs, k=len(self._pairs)):
                            await switches.set(State(enforcing=True), patience=patience)
                            pair.lookup.append(await self._lookup(pair, number))
                            advance()
                            for enforcing in random.sample([True, False], k=2):
                                await switches.set(State(enforcing=enforcing), patience=patience)
                                into = pair.with_policies if enforcing else pair.plain
                                into.append(await self._rate(pair, seconds=seconds))
                                advance()
        finally:
            await api.close()

    async def _rate(self, pair: _Pair, *, seconds: float) -> tuple[float, bool]:
        server = await start_server(self._lab, pair.server, self._program, port=PORT, cpu=self._server_cpu)
        try:
            before = usage()
            said = await talk(
                *(self._lab, pair.client, self._program),
                kind="connect",
                target=(client.find_pod(self._lab, pair.server).ips[0], PORT),
                seconds=seconds,
                cpu=self._client_cpu,
            )
            return said.rate, since(before).quiet
        finally:
            server.kill()
            await server.wait()

    async def _lookup(self, pair: _Pair, number: int) -> tuple[float, bool]:
        source, destination = (client.find_pod(self._lab, pod).ips[0] for pod in (pair.client, pair.server))
        packets = Packets(self._lab, source=source, destination=destination, service="", port=PORT)
        nanoseconds, quiet = await packets.fresh(source_port=_FIRST_SOURCE_PORT + number * FRESH)
        return median(nanoseconds), quiet


def _figures(pairs: list[_Pair], *, command: str) -> Iterator[Figure | None]:
    for pair in pairs:
        name = f"new connections, {pair.count:,} policies"
        yield _compared(name, "/s", pair.with_policies, to=pair.plain, command=command)
    for pair in pairs:
        name = f"program, first packet of a connection, {pair.count:,} policies"
        yield _compared(name, "ns", pair.lookup, to=pairs[0].lookup, command=command)


def _compared(
    name: str, unit: str, values: list[tuple[float, bool]], *, to: list[tuple[float, bool]], command: str
) -> Figure | None:
    figure = Samples(name, unit, values).figure(command=command)
    if figure is None:
        return None
    pairs = zip(values, to, strict=True)
    ratios, _ = counting([(value / other, calm and still) for (value, calm), (other, still) in pairs])
    return msgspec.structs.replace(figure, to_plain=spread(ratios))


def _pod(pair: _Pair, name: str) -> Object:
    return {
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {"name": name, "labels": pair.group},
        "spec": {"containers": [{"name": "nginx", "image": "nginx:latest"}]},
    }


def _policies(pair: _Pair) -> Iterator[Object]:
    """As many as the pair is to have; each selects both pods in both directions."""
    for number in range(pair.count):
        labels = pair.group if number == 0 else {"app": f"stranger-{number % 500}"}
        port = PORT if number == 0 else _FIRST_PORT + number
        peers, ports = [{"podSelector": {"matchLabels": labels}}], [{"port": port}]
        yield {
            "apiVersion": "networking.k8s.io/v1",
            "kind": "NetworkPolicy",
            "metadata": {"name": f"{pair.group['group']}-{number}", "namespace": NAMESPACE},
            "spec": {
                "podSelector": {"matchLabels": pair.group},
                "policyTypes": ["Ingress", "Egress"],
                "ingress": [{"from": peers, "ports": ports}],
                "egress": [{"to": peers, "ports": ports}],
            },
        }
