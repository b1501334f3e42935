"""docs/policy-coverage.md is true: what it names exists, and no case of the scenarios is missing from it."""

from __future__ import annotations

import ast
import re
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

import pytest

from tests.packet.policy_cases.case import Case
from tests.packet.policy_cases.together import CASES, GROUPS

REPOSITORY = Path(__file__).resolve().parents[2]
COVERAGE = (REPOSITORY / "docs" / "policy-coverage.md").read_text()
POLICY = (REPOSITORY / "docs" / "policy.md").read_text()
SUITES = {"The end-to-end suite of Kubernetes": 50, "cyclonus": 112, "Two peers in one rule": 45}
"""Sections whose lines have numbers, and how many cases the suites have."""

_NAME = re.compile(r"`([^`]+)`")
_TEST = re.compile(r"`(tests/[\w/]+\.py)::(test_\w+)`")


def rows(text: str) -> list[list[str]]:
    """The cells of every line of a table, without headings."""
    found: list[list[str]] = []
    lines = text.splitlines()
    for line, following in zip(lines, [*lines[1:], ""], strict=True):
        if line.startswith("|") and not line.startswith("|--") and not following.startswith("|--"):
            found.append([cell.strip() for cell in line.strip("|").split("|")])
    return found


@cache
def functions_of(path: Path) -> frozenset[str]:
    """The test functions of a file; none when there is no such file."""
    if not path.is_file():
        return frozenset()
    functions = (ast.FunctionDef, ast.AsyncFunctionDef)
    return frozenset(each.name for each in ast.parse(path.read_text()).body if isinstance(each, functions))


def faults(text: str, cases: Mapping[str, Case] = CASES) -> list[str]:
    """What is not so, as sentences."""
    named: set[str] = set()
    found = []
    for cells in rows(text):
        names = _NAME.findall(cells[-1])
        if not names:
            found.append(f"nothing covers: {cells[-2]}")
        for name in names:
            path, _, test = name.partition("::")
            if test and test not in functions_of(REPOSITORY / "tests" / path):
                found.append(f"there is no test {name}")
            elif not test and name not in cases:
                found.append(f"there is no case {name}")
        named.update(names)
    found += [f"the case {name} is missing" for name in cases if name not in named]
    for section, count in SUITES.items():
        if numbers(text, section) != list(range(1, count + 1)):
            found.append(f"{section} has not the lines 1 to {count}")
    return found


def numbers(text: str, section: str) -> Sequence[int]:
    """Of the lines of a section that have one."""
    _, _, rest = text.partition(f"\n## {section}\n")
    return [int(cells[0]) for cells in rows(rest.partition("\n## ")[0]) if cells[0].isdigit()]


def test_what_covers_each_line_exists_and_no_case_is_missing() -> None:
    assert faults(COVERAGE) == []


def test_tests_that_the_policy_document_names_exist() -> None:
    named = _TEST.findall(POLICY)
    assert named
    assert [name for path, name in named if name not in functions_of(REPOSITORY / path)] == []


def test_no_two_cases_have_one_name() -> None:
    """Else the later would take the place of the earlier, and nobody would notice."""
    assert sum(map(len, GROUPS)) == len(CASES)


LINE = next(line for line in COVERAGE.splitlines() if line.startswith("| 7 |"))


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("`not-in`", "`not-there`", "there is no case not-there"),
        ("`two-rules`", "`two-policies`", "the case two-rules is missing"),
        ("::test_network_policy_life", "::test_network_policy_death", "there is no test deploy/lab/api"),
        ("test_kubectl.py::", "test_kubecuttle.py::", "there is no test deploy/lab/api"),
        ("| `two-rules` |", "| soon |", "nothing covers: Rules of one policy add up as policies do"),
        (f"{LINE}\n", "", "The end-to-end suite of Kubernetes has not the lines 1 to 50"),
        ("| 112 | conflict |", "| 113 | conflict |", "cyclonus has not the lines 1 to 112"),
    ],
    ids=["case", "missing", "test", "file", "nothing", "line", "number"],
)
def test_a_line_that_is_not_so_is_told(old: str, new: str, fault: str) -> None:
    assert old in COVERAGE
    assert [each for each in faults(COVERAGE.replace(old, new)) if each.startswith(fault)]


def test_a_case_that_nobody_entered_is_told() -> None:
    assert faults(COVERAGE, {**CASES, "new": CASES["pods"]}) == ["the case new is missing"]
