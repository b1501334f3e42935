"""Label selectors: from the API's text to the canonical model.

``matchLabels`` are requirements ``In`` with one value, so both ways to write one have one form and one id.
"""

from __future__ import annotations

import re

from services.policy.faults import Faults
from services.policy.model import LabelSelector, Operator, Requirement
from services.policy.raw import RawRequirement, RawSelector
from shared.labels import LabelFilter

_NAME = re.compile(r"[A-Za-z0-9]([-A-Za-z0-9_.]{0,61}[A-Za-z0-9])?")
_PREFIX = re.compile(r"[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*")
_LONGEST_PREFIX = 253
_OPERATORS = frozenset(Operator)
_TAKES_VALUES = frozenset((Operator.IN, Operator.NOT_IN))


def read_selector(raw: RawSelector, *, path: str, faults: Faults, selectable: LabelFilter) -> LabelSelector:
    """The canonical selector; what is wrong goes to ``faults`` under ``path``."""
    requirements: set[Requirement] = set()
    for key, value in (raw.match_labels or {}).items():
        field = f"{path}.matchLabels[{key}]"
        _check_key(key, field=field, faults=faults, selectable=selectable)
        _check_value(value, field=field, faults=faults)
        requirements.add(Requirement(key, Operator.IN, (value,)))
    for index, expression in enumerate(raw.match_expressions or ()):
        requirement = _read_expression(
            expression, path=f"{path}.matchExpressions[{index}]", faults=faults, selectable=selectable
        )
        if requirement is not None:
            requirements.add(requirement)
    return LabelSelector(tuple(sorted(requirements)))


def _read_expression(
    raw: RawRequirement, *, path: str, faults: Faults, selectable: LabelFilter
) -> Requirement | None:
    _check_key(raw.key, field=f"{path}.key", faults=faults, selectable=selectable)
    if raw.operator not in _OPERATORS:
        known = ", ".join(Operator)
        faults.add(f"{path}.operator", f"{raw.operator!r} is not an operator", remedy=f"use one of {known}")
        return None
    operator = Operator(raw.operator)
    values = tuple(sorted(set(raw.values or ())))
    if operator in _TAKES_VALUES and not values:
        faults.add(f"{path}.values", f"{operator} needs at least one value", remedy="list the values")
    if operator not in _TAKES_VALUES and values:
        faults.add(f"{path}.values", f"{operator} takes no values", remedy="remove them, or use In or NotIn")
    for value in values:
        _check_value(value, field=f"{path}.values", faults=faults)
    return Requirement(raw.key, operator, values)


def _check_key(key: str, *, field: str, faults: Faults, selectable: LabelFilter) -> None:
    prefix, slash, name = key.rpartition("/")
    if not _NAME.fullmatch(name) or (
        slash and (len(prefix) > _LONGEST_PREFIX or not _PREFIX.fullmatch(prefix))
    ):
        faults.add(field, f"{key!r} is not a label key", remedy="write it as name or dns.prefix/name")
    elif key not in selectable:
        faults.add(
            field,
            f"label {key} is not part of pod identities, so nothing can be selected by it",
            remedy="select by a label of the workload, or let the identity service keep this label",
        )


def _check_value(value: str, *, field: str, faults: Faults) -> None:
    if value and not _NAME.fullmatch(value):
        faults.add(
            field,
            f"{value!r} is not a label value",
            remedy="use up to 63 letters, digits, '-', '_', '.'; a letter or digit at both ends",
        )
