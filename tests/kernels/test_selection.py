"""The best of many keys: `selection` against numpy's sort."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bqstore.kernels import selection
from tests.kernels.given import examples


def in_a_row(keys):
    """Keys as the second of three rows, with others behind them that must stay."""
    rows = np.full((3, len(keys) + 3), -7, np.int64)
    rows[1, : len(keys)] = keys
    return rows


def check_cut(keys, c):
    rows = in_a_row(keys)
    worst = selection.cut_to_best(rows, 1, len(keys), c)
    expected = np.sort(np.asarray(keys, np.int64))
    assert np.sort(rows[1, :c]).tolist() == expected[:c].tolist() and worst == expected[c - 1]
    assert np.sort(rows[1, : len(keys)]).tolist() == expected.tolist()
    assert (rows[[0, 2]] == -7).all() and (rows[1, len(keys) :] == -7).all()


@settings(max_examples=examples(60), deadline=None)
@given(st.lists(st.integers(-(2**62), 2**62), min_size=1, max_size=70, unique=True), st.data())
def test_a_cut_leaves_the_best(keys, data):
    check_cut(keys, data.draw(st.integers(1, len(keys))))


@pytest.mark.parametrize(
    "order",
    [
        np.arange,
        lambda n: np.arange(n)[::-1],
        lambda n: np.concatenate([np.arange(0, n, 2), np.arange(1, n, 2)[::-1]]),
        lambda n: np.arange(n).reshape(-1, 8).T.ravel(),
    ],
    ids=["ascending", "descending", "up and down", "eight by eight"],
)
@pytest.mark.parametrize("c", [1, 120, 255])
def test_a_cut_of_keys_in_some_order(order, c):
    check_cut(order(256), c)


@settings(max_examples=examples(60), deadline=None)
@given(st.lists(st.integers(-(2**62), 2**62), max_size=150, unique=True))
def test_keys_are_sorted(keys):
    rows = in_a_row(keys)
    selection.sort_keys(rows, 1, len(keys))
    assert rows[1].tolist() == [*sorted(keys), -7, -7, -7] and (rows[[0, 2]] == -7).all()
