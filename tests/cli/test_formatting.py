"""Numbers and settings as text."""

from dataclasses import replace

import pytest

from bqstore.cli import formatting
from tests.cli import given


@pytest.mark.parametrize(
    ("n", "text"), [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (6_700_000, "6.7 MB"), (1.25e9, "1.2 GB")]
)
def test_size(n, text):
    assert formatting.size(n) == text


@pytest.mark.parametrize(
    ("n", "text"),
    [
        (0.0, "0.00"),
        (0.05, "0.0500"),
        (0.66, "0.660"),
        (1.1, "1.10"),
        (12.34, "12.3"),
        (99.96, "100"),
        (1234.5, "1,234"),
    ],
)
def test_milliseconds(n, text):
    assert formatting.milliseconds(n) == text


def test_printable():
    assert formatting.printable("naïve\x1b[31m\n\udcff") == "naïve\\x1b[31m\\n\\udcff"


def test_groups_hold_every_point_once():
    points = given.points()
    groups = formatting.by_encoding(points)
    held = [point for group in groups.values() for point in group]
    assert sorted(map(repr, held)) == sorted(map(repr, points))
    assert list(groups)[:2] == ["1 bit, sign (binary)", "1 bit, sign (scalar4bits)"]  # stored ones first
    assert all(len({p.quantization for p in group}) == 1 for group in groups.values())


def test_a_query_encoding_is_named_only_where_there_are_two():
    assert list(formatting.by_encoding([given.point(given.SIGN, 3.0, None, 0.9)])) == ["1 bit, sign"]


def test_exact_search_is_a_group_of_its_own():
    exact = replace(given.points()[0], way="exact")
    assert list(formatting.by_encoding([exact, *given.points()]))[-1] == formatting.EXACT


def test_memory_begins_with_float32_and_marks_what_is_in_use():
    memory = formatting.memory_by_encoding(given.report())
    assert next(iter(memory.items())) == ("float32, no codes", given.DOCUMENTS * given.DIM * 4)
    assert [name for name in memory if name.endswith("(in use)")] == ["1 bit, sign (in use)"]


def test_codes_of_a_part_say_so_and_are_a_group_of_their_own():
    part = replace(given.SIGN, truncate_dim=1024)
    assert formatting.encoding(part) == "1 bit, sign, first 1,024 values"
    points = [given.point(each, 3.0, None, 0.9) for each in (given.SIGN, part)]
    assert list(formatting.by_encoding(points)) == [
        "1 bit, sign, first 1,024 values",
        "1 bit, sign",
    ]  # the cheaper first
