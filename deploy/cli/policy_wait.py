"""The command `stentor policy wait`: where the API server is, how long to wait, what to say."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from pathlib import Path

from deploy.cli.connection import Connection, find_target, open_bus
from deploy.cli.errors import UnfitError, Unmet
from deploy.cli.lab_state import lab_kubeconfig
from deploy.cli.output import Progress, counted, progress, say
from deploy.cli.policies import kept
from deploy.cli.waiting import ListPolicies, Outcome, PolicyName, wait_for_policies
from shared.contract.policy import PolicyStatus
from shared.kubernetes import NETWORK_POLICIES, KubernetesError, connect


@asynccontextmanager
async def network_policies(kubeconfig: Path | None) -> AsyncIterator[ListPolicies | None]:
    """How to ask the API server for its NetworkPolicies; None without a kubeconfig.

    Raises :class:`UnfitError` when the API server cannot be asked.
    """
    if kubeconfig is None:
        yield None
        return
    try:
        kubernetes = await connect(kubeconfig=str(kubeconfig))
    except KubernetesError as error:
        raise UnfitError(f"{error}.") from error

    async def list_policies() -> Mapping[PolicyName, str]:
        try:
            answer = await kubernetes.request("GET", NETWORK_POLICIES.path())
        except KubernetesError as error:
            raise UnfitError(f"the API server at {kubernetes.url} cannot be asked: {error}.") from error
        versions = {}
        for item in answer["items"]:
            metadata = item["metadata"]
            versions[metadata["namespace"], metadata["name"]] = metadata["resourceVersion"]
        return versions

    try:
        yield list_policies
    finally:
        await kubernetes.close()


def policy_wait(
    connection: Connection, *, only: PolicyName | None, timeout: float, kubeconfig: Path | None
) -> int:
    """Wait for the policies; raises :class:`Unmet` naming what is missing when the time is over."""
    target = find_target(connection)
    if kubeconfig is None and target.lab is not None:
        kubeconfig = lab_kubeconfig(target.lab)

    async def run(shown: Progress) -> Outcome:
        latest = "waiting to begin"

        def tell(text: str) -> None:
            nonlocal latest
            latest = text
            shown.update(text)

        async with open_bus(target.bus) as bus, network_policies(kubeconfig) as list_policies:
            try:
                async with asyncio.timeout(timeout):
                    return await wait_for_policies(bus, only=only, list_policies=list_policies, tell=tell)
            except TimeoutError:
                raise Unmet(
                    f"not in force after {timeout:g} s, still {latest}; `stentor status` shows what is wrong."
                ) from None

    with progress() as shown:
        outcome = asyncio.run(run(shown))
    if outcome.refused:
        raise Unmet("; ".join(refusal(status) for status in outcome.refused) + ".")
    policies = counted(outcome.policies, "policy", "policies")
    nodes = counted(outcome.nodes, "node", "nodes")
    source = "" if kubeconfig else " (not compared with an API server: no --kubeconfig and no lab)"
    say(f"revision {outcome.revision} with {policies} is in force on {nodes}{source}")
    return 0


def refusal(status: PolicyStatus) -> str:
    """Why a policy was refused, and what to do."""
    reasons = ", ".join(f"{error.field}: {error.reason} ({error.remedy})" for error in status.errors)
    return f"policy {status.policy.namespace}/{status.policy.name} is refused: {reasons}{kept(status)}"
