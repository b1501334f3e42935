"""`stentor bench path`: packets between two pods of one node, compared with plain routing of the same pods.

A lab of one node, where enforcement is switched by the Node's annotation: off, the programs are detached and
the same packets take the node's plain routes. Every round measures all variants, in an order shuffled anew,
so that drift hits all alike; what counts is the ratio to plain routing of the same round.

Client and server go before all other processes, each on a processor of its own, so that they measure the
kernel's part alone. What new connections cost outside of the kernel, where each is told as a flow, is
measured apart, in CPU time. Before each sample the lab has come to rest.
"""

from __future__ import annotations

import os
import random
import tempfile
from dataclasses import dataclass, field
from pathlib import Path

import msgspec

from bench.figures import Figure, Samples, counting, spread
from bench.fresh import fresh_lab
from bench.load import since, usage
from bench.packets import Packets
from bench.programs import Talk, build, start_server, talk
from bench.report import Record
from bench.shown import Shown
from bench.switches import NAMESPACE, State, Switches
from bench.telling import measure_telling
from deploy.cli.connection import open_bus
from deploy.cli.errors import UnfitError
from deploy.cli.lab_state import lab_settings
from deploy.lab import client
from shared.kubernetes import Object, connect

MANIFEST = Path(__file__).resolve().parent / "manifests" / "path.yaml"
CLIENT, SERVER = "bench-client", "bench-server"
PORT = 5001

POLICY: Object = {
    "apiVersion": "networking.k8s.io/v1",
    "kind": "NetworkPolicy",
    "metadata": {"name": "bench-path", "namespace": NAMESPACE},
    "spec": {
        "podSelector": {"matchLabels": {"app": SERVER}},
        "ingress": [
            {
                "from": [{"podSelector": {"matchLabels": {"app": CLIENT}}}],
                "ports": [{"protocol": "TCP", "port": PORT}],
            }
        ],
    },
}

PLAIN = "plain routing"
OPEN = "no policy"
BY_POLICY = "policy that allows"
BY_SERVICE = "no policy, by ClusterIP"
VARIANTS = {
    PLAIN: State(enforcing=False),
    OPEN: State(enforcing=True),
    BY_POLICY: State(enforcing=True, policy=True),
    BY_SERVICE: State(enforcing=True),
}
KINDS = {"ask": "requests on one connection", "connect": "new connections"}


@dataclass
class _Series:
    """Samples of one variant, by round."""

    rates: list[tuple[float, bool]] = field(default_factory=list)
    microseconds: list[tuple[float, bool]] = field(default_factory=list)


class PathBench:
    """One run, in a lab of one node. ``program`` is the command line of client and server."""

    def __init__(self, lab: str, *, program: list[str], command: str, patience: float, shown: Shown) -> None:
        processors = sorted(os.sched_getaffinity(0))
        self._lab = lab
        self._program = program
        self._command = command
        self._patience = patience
        self._shown = shown
        self._client_cpu, self._server_cpu = processors[0], processors[-1]
        self._client_ip = client.find_pod(lab, CLIENT).ips[0]
        self._server_ip = client.find_pod(lab, SERVER).ips[0]

    async def measure(self, record: Record, *, rounds: int, seconds: float) -> None:
        """Everything, into ``record``."""
        api = await connect(kubeconfig=str(client.kubeconfig(self._lab)))
        server = await start_server(self._lab, SERVER, self._program, port=PORT, cpu=self._server_cpu)
        try:
            async with open_bus(lab_settings(self._lab)) as bus:
                switches = Switches(self._lab, api=api, bus=bus, policy=POLICY)
                service_ip = await switches.served(SERVER)
                series = await self._rounds(switches, service_ip, rounds=rounds, seconds=seconds)
                for kind, title in KINDS.items():
                    record.add(self._compared(title, {name: series[kind, name] for name in VARIANTS}))
                record.add(
                    self._figure(f"connect(): {name}", "us", series["connect", name].microseconds)
                    for name in VARIANTS
                )
                record.add(await self._single_packets(switches, service_ip))
                await switches.set(VARIANTS[BY_POLICY], patience=self._patience)
                record.add(
                    await measure_telling(
                        self._lab,
                        lambda moment: self._talk("connect", self._server_ip, seconds=moment),
                        command=self._command,
                        patience=self._patience,
                        shown=self._shown,
                    )
                )
        finally:
            server.kill()
            await server.wait()
            await api.close()

    async def _rounds(
        self, switches: Switches, service_ip: str, *, rounds: int, seconds: float
    ) -> dict[tuple[str, str], _Series]:
        series = {(kind, name): _Series() for kind in KINDS for name in VARIANTS}
        with self._shown.part("path", total=rounds * len(series)) as advance:
            for _ in range(rounds):
                for name in random.sample(list(VARIANTS), k=len(VARIANTS)):
                    target = service_ip if name == BY_SERVICE else self._server_ip
                    for kind in KINDS:
                        await switches.set(VARIANTS[name], patience=self._patience)
                        before = usage()
                        said = await self._talk(kind, target, seconds=seconds)
                        quiet = since(before).quiet
                        series[kind, name].rates.append((said.rate, quiet))
                        series[kind, name].microseconds.append((said.median_us, quiet))
                        advance()
        return series

    async def _talk(self, kind: str, target: str, *, seconds: float) -> Talk:
        return await talk(
            *(self._lab, CLIENT, self._program),
            kind=kind,
            target=(target, PORT),
            seconds=seconds,
            cpu=self._client_cpu,
        )

    async def _single_packets(self, switches: Switches, service_ip: str) -> list[Figure | None]:
        self._shown.tell("single packets")
        packets = Packets(
            self._lab, source=self._client_ip, destination=self._server_ip, service=service_ip, port=PORT
        )
        await switches.set(VARIANTS[OPEN], patience=self._patience)
        await packets.without_policy()
        await switches.set(VARIANTS[BY_POLICY], patience=self._patience)
        await packets.with_policy()
        return packets.figures(command=self._command)

    def _compared(self, title: str, series: dict[str, _Series]) -> list[Figure | None]:
        figures = []
        for name, measured in series.items():
            figure = self._figure(f"{title}: {name}", "/s", measured.rates)
            if figure is not None and name != PLAIN:
                pairs = zip(measured.rates, series[PLAIN].rates, strict=True)
                ratios, _ = counting(
                    [(rate / plain, calm and still) for (rate, calm), (plain, still) in pairs]
                )
                figure = msgspec.structs.replace(figure, to_plain=spread(ratios))
            figures.append(figure)
        return figures

    def _figure(self, name: str, unit: str, values: list[tuple[float, bool]]) -> Figure | None:
        return Samples(name, unit, values).figure(command=self._command)


async def measure_path(record: Record, *, rounds: int, seconds: float, patience: float, shown: Shown) -> None:
    """In a lab of its own, into ``record``."""
    if len(os.sched_getaffinity(0)) < 2:
        raise UnfitError("client and server both never sleep: `stentor bench path` needs two processors.")
    command = f"stentor bench path --rounds {rounds} --seconds {seconds:g}"
    with tempfile.TemporaryDirectory() as folder:
        program, language = await build(Path(folder))
        async with fresh_lab(nodes=1, manifests=[MANIFEST], enable_on="annotated", shown=shown) as lab:
            bench = PathBench(lab, program=program, command=command, patience=patience, shown=shown)
            await bench.measure(record, rounds=rounds, seconds=seconds)
    record.notes.append(
        f"Client and server are written in {language}, busy-poll with real-time priority, each on its own "
        "processor. Judge the ratios to plain routing, not the rates."
    )
