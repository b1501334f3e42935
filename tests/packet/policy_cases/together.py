"""All cases together: they are in force, and are tried, at the same time."""

from __future__ import annotations

from tests.packet.policy_cases.absent import ABSENT_AND_EMPTY
from tests.packet.policy_cases.blocks import BLOCKS
from tests.packet.policy_cases.case import Case
from tests.packet.policy_cases.directions import BOTH_NEEDED, TYPES
from tests.packet.policy_cases.egress import EGRESS
from tests.packet.policy_cases.expressions import EXPRESSIONS
from tests.packet.policy_cases.hosts import HOSTS
from tests.packet.policy_cases.names import NAMES
from tests.packet.policy_cases.peer_pairs import PEER_PAIRS
from tests.packet.policy_cases.peers import PEERS
from tests.packet.policy_cases.port_entries import PORT_ENTRIES
from tests.packet.policy_cases.ports import PORTS
from tests.packet.policy_cases.stacked import STACKED
from tests.packet.policy_cases.subjects import SUBJECTS

GROUPS = (
    ABSENT_AND_EMPTY,
    SUBJECTS,
    PEERS,
    PEER_PAIRS,
    EXPRESSIONS,
    PORTS,
    PORT_ENTRIES,
    NAMES,
    BLOCKS,
    HOSTS,
    EGRESS,
    TYPES,
    BOTH_NEEDED,
    STACKED,
)

CASES: dict[str, Case] = {name: case for group in GROUPS for name, case in group.items()}
