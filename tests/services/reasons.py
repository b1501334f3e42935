"""What a service tells of itself while it cannot do its work."""

from __future__ import annotations

from tests.service_process import ServiceProcess


async def waits_only_for(process: ServiceProcess, *parts: str) -> bool:
    """Whether these parts, and the publication that needs them, are all that is missing."""
    reasons = await process.reasons()
    return sorted(line.partition(":")[0] for line in reasons.splitlines()) == sorted([*parts, "publication"])


async def cannot_publish(process: ServiceProcess) -> bool:
    """Whether the last attempt to publish what it wants has failed."""
    return "publication: cannot publish" in await process.reasons()
