"""A flow as one line for people.

`05:27:13.123  default/web-1:43210 -> default/api-1:80  TCP ingress  DROPPED  POLICY_DENIED  policy default/x
(no ingress rule allows it)`: the policy is the one whose rule decided, or with a default deny all that
select the pod.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from deploy.cli.output import styled
from shared.contract.base import Direction
from shared.contract.flow import Flow, FlowEnd, FlowPolicy, FlowsLost, Verdict
from shared.contract.reserved import FIRST_ALLOCATED, Reserved

if TYPE_CHECKING:
    from rich.text import Text

VERDICT_STYLE = {
    Verdict.FORWARDED: "green",
    Verdict.DROPPED: "red",
    Verdict.AUDIT: "yellow",
    Verdict.REDIRECTED: "cyan",
}

_NAMED_RESERVED = {member.value: member.name.lower().replace("_", "-") for member in Reserved if member.value}


def clock(time: str) -> str:
    """The time of day with milliseconds of an RFC 3339 time, as UTC."""
    day = time.partition("T")[2].removesuffix("Z")
    whole, _, fraction = day.partition(".")
    return f"{whole}.{fraction[:3]:0<3}" if whole else time


def end_text(end: FlowEnd) -> str:
    """``namespace/pod:port``; for what is no pod ``ip:port`` and what is known of it."""
    port = f":{end.port}" if end.port else ""
    if end.pod:
        return f"{end.namespace}/{end.pod}{port}"
    ip = f"[{end.ip}]" if ":" in end.ip and port else end.ip
    known = _NAMED_RESERVED.get(end.identity) if end.identity < FIRST_ALLOCATED else str(end.identity)
    return f"{ip}{port} ({known})" if known else f"{ip}{port}"


def protocol_text(flow: Flow) -> str:
    """The protocol; for ICMP with type and code."""
    if flow.icmp_type is None:
        return flow.protocol
    return f"{flow.protocol} {flow.icmp_type}/{flow.icmp_code or 0}"


def policy_text(policy: FlowPolicy, *, direction: Direction, dropped: bool) -> str:
    """Which policy decided and how: by a rule, or because no rule allows it."""
    names = [f"{ref.namespace}/{ref.name}" if ref.namespace else ref.name for ref in policy.policies]
    if not names:
        return ""
    if policy.rule is not None:
        deed = "denies" if dropped else "allows"
        return f"policy {names[0]} ({direction} rule {policy.rule} {deed} it)"
    word = "policy" if len(names) == 1 else "policies"
    return f"{word} {', '.join(names)} (no {direction} rule allows it)" if dropped else f"{word} {names[0]}"


def service_text(flow: Flow) -> str:
    """The Service through which the client came, empty without one."""
    if flow.service is None:
        return ""
    name = f"{flow.service.namespace}/{flow.service.name}" if flow.service.name else flow.service.ip
    return f"via service {name}:{flow.service.port}"


def why_text(flow: Flow) -> str:
    """Reason of a drop and the policy that decided."""
    dropped = flow.verdict is Verdict.DROPPED
    parts = [flow.drop_reason.name] if flow.drop_reason else []
    if flow.policy is not None:
        parts.append(policy_text(flow.policy, direction=flow.direction, dropped=dropped))
    return "  ".join(part for part in parts if part)


def flow_line(flow: Flow) -> Text:
    """The whole line."""
    line = styled(clock(flow.time), "dim")
    line.append("  ")
    line.append(styled(end_text(flow.source)))
    line.append(styled(" -> ", "dim"))
    line.append(styled(end_text(flow.destination)))
    line.append(styled(f"  {protocol_text(flow)} {flow.direction}"))
    if flow.is_reply:
        line.append(" reply")
    line.append(styled(f"  {flow.verdict.upper()}", VERDICT_STYLE[flow.verdict]))
    for more in (why_text(flow), service_text(flow)):
        if more:
            line.append(styled(f"  {more}"))
    return line


def lost_line(lost: FlowsLost) -> str:
    """The sentence about events that a node could not tell."""
    told = ", ".join(f"{count} of class {kind}" for kind, count in sorted(lost.events.items()))
    return f"node {lost.node} lost events at {clock(lost.time)}: {told}."
