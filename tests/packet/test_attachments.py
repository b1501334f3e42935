"""Which interfaces have programs when, and that those of others are left alone."""

from __future__ import annotations

import subprocess

import pytest

from services.datapath.attachments import Attachments
from services.datapath.errors import LinkError
from services.datapath.kernel.attach import Hook
from tests.packet.mininode import MiniNode, Pod


def filters(mini: MiniNode) -> str:
    """What tc shows of the uplink."""
    command = ["tc", "-n", mini.prefix, "filter", "show", "dev", "up0", "ingress"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


class Node:
    """A node with two bare pod links and an uplink, and what is attached to them."""

    def __init__(self, mini: MiniNode, pods: list[Pod], uplink: Pod) -> None:
        self.mini = mini
        self.pods = [pod.ifindex for pod in pods]
        self.uplink = uplink.ifindex
        self.attachments = Attachments(loaded=mini.loaded, netlink=mini.netlink, pods=lambda: self.pods)

    async def programs(self, ifindex: int) -> list[str | None]:
        sides = ("ingress", "egress")
        names = [await self.mini.netlink.attached_program(ifindex=ifindex, side=side) for side in sides]
        return [name and name.partition("-")[0] for name in names]

    def another(self, *, name: str, side: str = "ingress") -> Hook:
        """Where Stentor's program would be, but named as somebody else's."""
        return Hook(
            ifindex=self.uplink, side=side, name=name, fd=self.mini.loaded.program_fds["from_network"]
        )


@pytest.fixture
async def bare(node: MiniNode) -> Node:
    """No interface has a program."""
    pods = [await node.add_pod(name, identity=300) for name in "ab"]
    uplink = await node.add_outside(guarded=False)
    for pod in pods:
        await node.netlink.detach_programs(pod.ifindex)
    return Node(node, pods, uplink)


async def test_a_new_pod_is_guarded_until_it_is_known_that_the_node_does_not_enforce(bare: Node) -> None:
    first, second = bare.pods
    await bare.attachments.guard(first)
    assert await bare.programs(first) == ["from_pod", "to_pod"]
    assert not bare.attachments.enforcing

    await bare.attachments.enforce(False)
    assert await bare.programs(first) == [None, None]
    await bare.attachments.guard(second)
    assert await bare.programs(second) == [None, None]


async def test_enforcement_comes_and_goes_on_all_interfaces(bare: Node) -> None:
    await bare.attachments.set_uplinks([bare.uplink])
    assert await bare.programs(bare.uplink) == [None, None]
    await bare.attachments.enforce(True)
    for pod in bare.pods:
        assert await bare.programs(pod) == ["from_pod", "to_pod"]
    assert await bare.programs(bare.uplink) == ["from_network", None]

    await bare.attachments.set_uplinks([])
    assert await bare.programs(bare.uplink) == [None, None]
    await bare.attachments.set_uplinks([bare.uplink])
    assert await bare.programs(bare.uplink) == ["from_network", None]

    await bare.attachments.enforce(False)
    for ifindex in (*bare.pods, bare.uplink):
        assert await bare.programs(ifindex) == [None, None]


async def test_programs_that_somebody_removed_are_put_back(bare: Node) -> None:
    await bare.attachments.enforce(True)
    assert await bare.attachments.mend() == 0
    await bare.mini.netlink.detach_programs(bare.pods[0])
    assert await bare.attachments.mend() == 2
    assert await bare.programs(bare.pods[0]) == ["from_pod", "to_pod"]


async def test_what_cannot_be_attached_is_told_and_tried_again(bare: Node) -> None:
    gone = 1_000_000
    bare.pods.append(gone)
    await bare.attachments.enforce(True)
    assert len(bare.attachments.problems) == 1
    assert str(gone) in bare.attachments.problems[0]
    with pytest.raises(LinkError):
        await bare.attachments.guard(gone)

    bare.pods.remove(gone)
    await bare.attachments.enforce(True)
    assert not bare.attachments.problems


async def test_filters_of_others_are_neither_replaced_nor_removed(bare: Node) -> None:
    netlink = bare.mini.netlink
    await netlink.attach_program(bare.another(name="theirs"))

    await bare.attachments.set_uplinks([bare.uplink])
    await bare.attachments.enforce(True)
    assert "theirs" in "".join(bare.attachments.problems)
    await bare.attachments.enforce(False)

    assert "theirs" in filters(bare.mini)


async def test_what_an_earlier_process_left_is_taken_over(bare: Node) -> None:
    netlink, fds = bare.mini.netlink, bare.mini.loaded.program_fds
    for side, program in (("ingress", "from_pod"), ("egress", "to_pod")):
        hook = Hook(ifindex=bare.pods[0], side=side, name=f"{program}-0123", fd=fds[program])
        await netlink.attach_program(hook)
    await netlink.attach_program(bare.another(name="from_network-0123"))

    assert await bare.attachments.adopt(), "they are of another text"
    assert bare.attachments.enforcing
    assert any("another text" in problem for problem in bare.attachments.problems)
    await bare.attachments.enforce(True)
    assert not bare.attachments.problems
    for ifindex in (bare.pods[0], bare.uplink):
        name = await netlink.attached_program(ifindex=ifindex, side="ingress")
        assert name is not None
        assert not name.endswith("-0123")
    assert not await bare.attachments.adopt()

    await bare.attachments.set_uplinks([])
    assert await bare.programs(bare.uplink) == [None, None]


async def test_an_interface_that_was_an_uplink_of_an_earlier_process_is_bare_in_the_end(bare: Node) -> None:
    await bare.mini.netlink.attach_program(bare.another(name="from_network-0123"))
    await bare.attachments.adopt()
    await bare.attachments.set_uplinks([])
    await bare.attachments.enforce(True)
    assert await bare.programs(bare.uplink) == [None, None]
