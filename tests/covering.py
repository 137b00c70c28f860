"""Few of many cases: those in which every value of every parameter of a test occurs, or every two of them together.

A test with three parameters of ten values has a thousand cases; thirty or a hundred of them say nearly as much.
"""

from __future__ import annotations

import itertools
from pathlib import Path

import pytest

PAIRS = 6  # cases of a test, at most, in which every two values occur together, unless more are asked for


def cases_of(items: list[pytest.Item], folder: Path) -> list[list[pytest.Item]]:
    """The cases of each test in a folder, without those that are marked as slow."""
    tests: dict[tuple[Path, str, object], list[pytest.Item]] = {}
    inside = {path for path in {item.path for item in items} if path.is_relative_to(folder)}
    for item in items:
        if item.path in inside and not item.get_closest_marker("slow"):
            tests.setdefault((item.path, item.originalname, item.cls), []).append(item)
    return list(tests.values())


def covering(cases: list[pytest.Item], strength: int) -> list[pytest.Item]:
    """Cases in which so many values of different parameters occur together as in all: 1, each value; 2, each pair."""
    left = {case: _together(case, strength) for case in cases}
    missing = set().union(*left.values())
    chosen = []
    while True:
        best = max(left, key=lambda case: len(left[case] & missing))
        chosen.append(best)
        missing -= left.pop(best)
        if not missing:
            return chosen


def mark_slow(items: list[pytest.Item], folder: Path, pairs: int = PAIRS) -> None:
    """Mark the cases that `make test` leaves out: it runs every pair of values if that takes few, else each value."""
    for cases in cases_of(items, folder):
        some = covering(cases, 2)
        for case in set(cases) - set(some if len(some) <= pairs else covering(cases, 1)):
            case.add_marker("slow")


def _together(case: pytest.Item, strength: int) -> set[tuple[tuple[str, str], ...]]:
    """Values of different parameters that occur together in a case, each as (parameter, value)."""
    values = [(name, repr(value)) for name, value in case.callspec.params.items()] if hasattr(case, "callspec") else []
    return set(itertools.combinations(values, min(strength, len(values))))
