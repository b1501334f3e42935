"""Which pod labels make a security identity: the same for the service that makes identities and the one
whose policies select by them, or a policy would select by a label that no identity has. So the first
publishes what it goes by (:class:`~shared.contract.identity.LabelRules`), and the second compares.

Left out are labels that controllers write for each pod, Job or revision: they say nothing that a policy
could mean, and each value would be an identity of its own.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping

NOISY_LABELS = (
    "pod-template-hash",
    "controller-revision-hash",
    "pod-template-generation",
    "statefulset.kubernetes.io/pod-name",
    "apps.kubernetes.io/pod-index",
    "batch.kubernetes.io/*",
    "controller-uid",
    "job-name",
    "job-completion-index",
)
"""Pod labels left out by default; ``*`` at the end matches any rest."""


class LabelFilter:
    """Which labels count. ``excluded`` are label keys, or prefixes when they end in ``*``."""

    def __init__(self, excluded: Iterable[str] = NOISY_LABELS) -> None:
        patterns = self.excluded = tuple(sorted(set(excluded)))
        """The keys and prefixes."""
        self._keys = frozenset(pattern for pattern in patterns if not pattern.endswith("*"))
        self._prefixes = tuple(pattern[:-1] for pattern in patterns if pattern.endswith("*"))

    def __contains__(self, key: str) -> bool:
        return key not in self._keys and not key.startswith(self._prefixes)

    def keep(self, labels: Mapping[str, str]) -> dict[str, str]:
        """The labels that count."""
        return {key: value for key, value in labels.items() if key in self}


EVERY_LABEL = LabelFilter(())
"""For namespaces, whose labels identities carry all."""


def add_label_arguments(parser: argparse.ArgumentParser) -> None:
    """The flags by which an operator says which labels count; :func:`label_filter` reads them."""
    parser.add_argument(
        "--exclude-label",
        action="append",
        default=[],
        metavar="KEY[*]",
        help="leave pod labels with this key (or prefix, with *) out of identities; may be repeated; "
        "policies cannot select by them. All replicas of identity and policy must agree. Left out by "
        "default: " + ", ".join(NOISY_LABELS),
    )
    parser.add_argument(
        "--default-exclusions",
        action=argparse.BooleanOptionalAction,
        default=True,
        help="whether the labels named above are left out",
    )


def label_filter(arguments: argparse.Namespace) -> LabelFilter:
    """What the flags say."""
    defaults = NOISY_LABELS if arguments.default_exclusions else ()
    return LabelFilter((*defaults, *arguments.exclude_label))
