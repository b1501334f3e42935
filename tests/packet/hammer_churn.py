"""Changes in a seeded random order that leave what is always so (:mod:`tests.packet.hammer_world`).

Policies, labels of pods and of namespaces, pods and whole namespaces, by requests of their own to the API
server. Policy, identity and pods come to Stentor over different watches, in whatever order: so every change
is of no consequence for its own part, whichever of the others have arrived.
"""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from ipaddress import ip_network
from random import Random

from deploy.lab import client
from shared.kubernetes import NAMESPACES as NAMESPACE
from shared.kubernetes import NETWORK_POLICIES, PODS
from shared.kubernetes.api import Kubernetes
from shared.kubernetes.resources import Resource
from tests.packet.hammer_world import BLUE, CAGED, CROWD, HOME, PEER, RED, SERVER, Grant, Spots, addresses
from tests.packet.labs import Lab
from tests.packet.manifests import (
    Object,
    block,
    from_namespaces,
    from_pods,
    namespace,
    network_policy,
    pod,
    policy_port,
)

SLOTS = ("a", "b")
MOST_NOISE, MOST_EXTRAS, MOST_PASSING = 16, 3, 1
"""About how many policies, pods and namespaces of no consequence there are at one time."""
PORTS = ("53", "80/UDP", "1-79", "81-65535", "8080", "8000-8999", "metrics", "1-52/UDP", "54-65535/UDP")
"""All but those that are used; 53 and 80 with the other's protocol."""
FLIPS: list[tuple[Resource, str, str, str, tuple[str | None, ...]]] = [
    (PODS, HOME, "friend", "role", ("friend", "pal")),
    (PODS, HOME, "friend", "mood", ("good", "bad", None)),
    (PODS, HOME, "stranger", "role", ("stranger", "nobody", None)),
    (PODS, HOME, "server-1", "version", ("1", "2", None)),
    (PODS, HOME, "server-2", "version", ("1", "2", None)),
    (PODS, HOME, "caged-1", "mood", ("good", "bad", None)),
    (PODS, HOME, "caged-2", "mood", ("good", "bad", None)),
    (PODS, BLUE, "blue", "role", ("friend", "stranger", None)),
    (PODS, RED, "red", "role", ("friend", "pal", None)),
    (PODS, CROWD, "listed", "mood", ("good", "bad", None)),
    (PODS, CROWD, "excepted", "mood", ("good", "bad", None)),
    (NAMESPACE, "", BLUE, "team", ("blue", "navy")),
    (NAMESPACE, "", RED, "team", ("red", "crimson", None)),
    (NAMESPACE, "", CROWD, "team", ("red", "green", None)),
    (NAMESPACE, "", HOME, "mood", ("good", "bad", None)),
]
"""Labels and the values between which they change."""


@dataclass
class Change:
    """One change, and when it was asked for."""

    began: float
    text: str
    ended: float = 0.0


@dataclass
class Churn:
    """All changes so far, and what there is now."""

    lab: Lab
    kubernetes: Kubernetes
    spots: Spots
    grants: list[Grant]
    """Each said at first by its policy ``a`` in its first form."""
    random: Random
    log: list[Change] = field(default_factory=list)
    kinds: Counter[str] = field(default_factory=Counter)
    _serial: int = 0
    _said: list[dict[str, int]] = field(default_factory=list)
    _noise: list[tuple[str, str]] = field(default_factory=list)
    _extras: list[tuple[str, str]] = field(default_factory=list)
    _passing: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        self._said = [{"a": 0} for _ in self.grants]

    async def change(self) -> None:
        """One change of any kind."""
        changes = {
            self.change_grant: 30,
            self.change_noise: 35,
            self.change_label: 25,
            self.change_pods: 5,
            self.change_namespaces: 1,
        }
        kinds: list[Callable[[], Awaitable[None]]] = list(changes)
        (made,) = self.random.choices(kinds, list(changes.values()))
        await made()

    def before(self, moment: float, *, count: int = 6) -> list[str]:
        """The last changes that were asked for before a moment, as sentences."""
        earlier = [each for each in self.log if each.began <= moment]
        return [f"{moment - each.began:.3f} s before: {each.text}" for each in earlier[-count:]]

    async def kill(self, child: str) -> None:
        """A service dies; it is started again."""
        await self._logged("service", f"{child} killed", client.kill_child(self.lab.name, child))

    async def change_grant(self) -> None:
        """Says a grant by another policy, too, or no longer by one of two, or in another form."""
        number = self.random.randrange(len(self.grants))
        grant, said = self.grants[number], self._said[number]
        slot = self.random.choice(SLOTS)
        if slot not in said:
            said[slot] = self.random.randrange(len(grant.forms))
            await self._create(
                NETWORK_POLICIES, grant.policy(slot, said[slot], *self._rules_of(grant.direction))
            )
        elif len(said) > 1 and self.random.random() < 0.6:
            del said[slot]
            await self._delete(NETWORK_POLICIES, grant.policy(slot, 0)["metadata"]["name"], HOME)
        else:
            said[slot] = self.random.randrange(len(grant.forms))
            await self._edit(grant.policy(slot, said[slot], *self._rules_of(grant.direction)))

    async def change_noise(self) -> None:
        """A policy of no consequence comes, changes, or goes."""
        chance = self.random.random()
        if chance < len(self._noise) / MOST_NOISE / 2:
            name, home = self._noise.pop(self.random.randrange(len(self._noise)))
            await self._delete(NETWORK_POLICIES, name, home)
        elif self._noise and chance > 0.7:
            name, home = self.random.choice(self._noise)
            await self._edit(self._noisy(name, home))
        else:
            self._serial += 1
            name, home = f"noise-{self._serial}", self.random.choice((HOME, HOME, HOME, BLUE, RED, CROWD))
            self._noise.append((name, home))
            await self._create(NETWORK_POLICIES, self._noisy(name, home))

    async def change_label(self) -> None:
        """A pod or a namespace gets another label."""
        resource, home, name, key, values = self.random.choice(FLIPS)
        value = self.random.choice(values)
        text = f"{resource.kind} {home or name}/{name} has {key}={value}"
        patch = self.kubernetes.patch(
            resource, {"metadata": {"labels": {key: value}}}, name=name, namespace=home
        )
        await self._logged(f"{resource.kind} label", text, patch)

    async def change_pods(self) -> None:
        """A pod comes or goes."""
        if self._extras and self.random.random() < len(self._extras) / MOST_EXTRAS:
            await self._delete(PODS, *self._extras.pop(0))
            return
        self._serial += 1
        made = self._extra(self.random.choice((HOME, BLUE, RED, CROWD)))
        self._extras.append((made["metadata"]["name"], made["metadata"]["namespace"]))
        await self._create(PODS, made)

    async def change_namespaces(self) -> None:
        """A namespace with a pod comes or goes."""
        if len(self._passing) >= MOST_PASSING:
            await self._delete(NAMESPACE, self._passing.pop(), "")
            return
        self._serial += 1
        name = f"passing-{self._serial}"
        self._passing.append(name)
        labels = {"team": self.random.choice(("blue", "red", "green"))}
        await self._create(NAMESPACE, namespace(name, **labels))
        await self._create(PODS, self._extra(name))

    # -- what is made ---------------------------------------------------------------------------------

    def _noisy(self, name: str, home: str) -> Object:
        if home != HOME or self.random.random() < 0.2:
            return self._about_peers(name, home)
        return self._near_miss(name)

    def _near_miss(self, name: str) -> Object:
        """A policy about servers or the cage that grants nothing of what is tried."""
        subject, direction = self.random.choice(
            ((SERVER, "ingress"), (SERVER, "ingress"), (CAGED, "egress"), (CAGED, "egress"),
             (SERVER, "egress"), (CAGED, "ingress"))
        )  # fmt: skip
        rules = [self._rule(direction) for _ in range(self.random.randrange(3))]
        return network_policy(
            name,
            namespace=HOME,
            subject={"app": subject},
            policyTypes=[direction.capitalize()],
            **{direction: rules},
        )

    def _about_peers(self, name: str, home: str) -> Object:
        """A policy about all other pods of a namespace that allows them everything that is tried."""
        everybody = [from_namespaces(), block("0.0.0.0/0"), block("::/0")]
        forms: list[tuple[Object, Object]] = [
            ({}, {}),
            ({"from": everybody}, {"to": everybody}),
            ({"from": everybody[:1]}, {"to": everybody[:1]}),
            ({"from": everybody[1:]}, {"to": everybody[1:]}),
        ]
        into, out = self.random.choice(forms)
        return network_policy(
            name,
            namespace=home,
            subject={"app": PEER},
            policyTypes=["Ingress", "Egress"],
            ingress=[into, *self._rules_of("ingress")],
            egress=[*self._rules_of("egress"), out],
        )

    def _rules_of(self, direction: str) -> list[Object]:
        return [self._rule(direction) for _ in range(self.random.randrange(2))]

    def _rule(self, direction: str) -> Object:
        """Lets anybody do what nobody does."""
        ports = [policy_port(port) for port in self.random.sample(PORTS, self.random.randint(1, 3))]
        if self.random.random() < 0.2:  # more than one block of a row
            ports += [policy_port(str(port)) for port in self.random.sample(range(1000, 9000), 40)]
        peers = [self._peer() for _ in range(self.random.randint(0, 3))]
        return {"ports": ports, ("from" if direction == "ingress" else "to"): peers}

    def _peer(self) -> Object:
        choice = self.random.choice
        match self.random.randrange(4):
            case 0:
                return from_pods(**choice(({"role": "friend"}, {"role": "nobody"}, {"mood": "bad"})))
            case 1:
                return from_namespaces(**choice(({}, {"team": "navy"}, {"team": "red"}, {"mood": "good"})))
            case 2:
                return block(f"{(ip := choice(addresses(self.spots)))}/{128 if ':' in ip else 32}")
            case _:
                return self._wide_block()

    def _wide_block(self) -> Object:
        """A block around somebody, without somebody of it."""
        ip = self.random.choice(addresses(self.spots))
        full = 128 if ":" in ip else 32
        length = self.random.choice((0, 8, full // 2, full - 8, full - 4, full - 1))
        around = ip_network(f"{ip}/{length}", strict=False)
        if around.prefixlen == full - 1 or self.random.random() < 0.3:
            return block(str(around))
        inner = ip_network(f"{ip}/{self.random.choice((full, full - 1, full - 2))}", strict=False)
        return block(str(around), str(inner))

    def _extra(self, home: str) -> Object:
        self._serial += 1
        labels = {"role": self.random.choice(("friend", "stranger")), "known": "yes"}
        node = self.random.choice(("node-1", "node-2"))
        return pod(f"extra-{self._serial}", namespace=home, node=node, **labels)

    # -- requests -------------------------------------------------------------------------------------

    async def _create(self, resource: Resource, made: Object) -> None:
        home = made["metadata"].get("namespace", "")
        text = f"{resource.kind} {home}/{made['metadata']['name']} made: {made.get('spec', '')}"
        await self._logged(
            f"{resource.kind} made", text, self.kubernetes.create(resource, made, namespace=home)
        )

    async def _edit(self, made: Object) -> None:
        name, home = made["metadata"]["name"], made["metadata"]["namespace"]
        # The merge keeps fields that the new spec does not have.
        spec = {"ingress": None, "egress": None, **made["spec"]}
        patch = self.kubernetes.patch(NETWORK_POLICIES, {"spec": spec}, name=name, namespace=home)
        await self._logged(
            "NetworkPolicy edited", f"NetworkPolicy {home}/{name} is now {made['spec']}", patch
        )

    async def _delete(self, resource: Resource, name: str, home: str) -> None:
        done = self.kubernetes.delete(resource, name=name, namespace=home)
        await self._logged(f"{resource.kind} deleted", f"{resource.kind} {home}/{name} deleted", done)

    async def _logged(self, kind: str, text: str, made: Awaitable[object]) -> None:
        change = Change(time.monotonic(), text)
        self.log.append(change)
        self.kinds[kind] += 1
        await made
        change.ended = time.monotonic()
