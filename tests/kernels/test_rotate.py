"""The rotation: orthogonal, the same at every call, and what one dimension held is spread over all."""

from __future__ import annotations

import numpy as np
import pytest

from bqstore.kernels import rotate
from tests import naive
from tests.kernels.given import INTERPRETED, some_turns

SMALL = (1, 2, 3, 4, 5, 6, 7, 8, 9, 15, 16, 17, 31, 33, 48, 63, 64, 65, 96, 127)
LARGE = () if INTERPRETED else (128, 129, 384, 768, 1000, 1024, 1536, 2047, 2049, 3072, 16384)


def turned(rows, turns):
    """The rows, float32 (m, dim), each rotated by the kernel."""
    out = rows.astype(np.float32)
    for row in out:
        rotate.rotate_row(row, turns)
    return out


@pytest.mark.parametrize("rounds", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("dim", SMALL)
def test_it_is_the_product_of_its_matrices(dim, rounds):
    rng = np.random.default_rng(dim)
    turns = some_turns(rng, dim, rounds)
    rows = rng.standard_normal((4, dim))
    np.testing.assert_allclose(turned(rows, turns), rows @ naive.rotation(turns).T, atol=2e-6 * np.sqrt(dim))


@pytest.mark.parametrize("size", [1, 2, 4, 8, 16, 32, 64, 128])
def test_the_transform_is_hadamards(size):
    """In the midst of a row, whose other values stay as they are; whole numbers stay whole."""
    row = np.random.default_rng(size).integers(-9, 10, size + 7).astype(np.float32)
    expected = row.copy()
    matrix = np.rint(naive.hadamard(size) * np.sqrt(size))
    assert (matrix @ matrix.T == size * np.eye(size)).all()
    expected[3 : 3 + size] = matrix @ row[3 : 3 + size]
    rotate.transform(row, 3, size)
    np.testing.assert_array_equal(row, expected)


@pytest.mark.parametrize("dim", SMALL + LARGE)
def test_lengths_and_products_stay(dim):
    rng = np.random.default_rng(dim)
    rows = rng.standard_normal((6, dim)).astype(np.float32)
    rows[5] = rows[4]
    found = turned(rows, some_turns(rng, dim)).astype(np.float64)
    rows = rows.astype(np.float64)
    np.testing.assert_allclose(found @ found.T, rows @ rows.T, atol=3e-6 * dim)
    assert (found[4] == found[5]).all()


@pytest.mark.parametrize("dim", [dim for dim in SMALL + LARGE if dim >= 31])
def test_a_single_dimension_is_spread_over_all(dim):
    """No value is left with much more than its share, wherever it came from: also between the two transforms."""
    rng = np.random.default_rng(dim)
    turns = some_turns(rng, dim)
    places = {0, 1, dim // 3, dim // 2, dim - 2, dim - 1, *rng.integers(0, dim, 10).tolist()}
    rows = np.zeros((len(places), dim))
    rows[np.arange(len(places)), sorted(places)] = 1
    found = turned(rows, turns)
    np.testing.assert_allclose((found.astype(np.float64) ** 2).sum(1), 1, rtol=1e-5)
    assert (np.abs(found) * np.sqrt(dim)).max() < 7
    assert (found != 0).mean() > 0.25


@pytest.mark.parametrize("dim", [1, 7, 64, 100])
def test_without_rounds_nothing_happens(dim):
    row = np.random.default_rng(dim).standard_normal(dim).astype(np.float32)
    before = row.copy()
    rotate.rotate_row(row, np.zeros((0, dim), np.float32))
    np.testing.assert_array_equal(row, before)


@pytest.mark.parametrize("dim", [3, 64, 100])
def test_what_lies_behind_the_dimensions_is_left(dim):
    """The scratch is a multiple of 64 long."""
    rng = np.random.default_rng(dim)
    row, turns = np.full(256, 77, np.float32), some_turns(rng, dim)
    row[:dim] = rng.standard_normal(dim)
    expected = turned(row[None, :dim], turns)[0]
    rotate.rotate_row(row, turns)
    np.testing.assert_array_equal(row[:dim], expected)
    assert (row[dim:] == 77).all()


@pytest.mark.parametrize("dim", [64, 100, *LARGE[:3]])
def test_it_is_the_same_at_every_call(dim):
    rng = np.random.default_rng(dim)
    rows, turns = rng.standard_normal((5, dim)), some_turns(rng, dim)
    first = turned(rows, turns)
    for _ in range(3):
        np.testing.assert_array_equal(turned(rows, turns), first)
    alone = np.concatenate([turned(row[None], turns) for row in rows])
    np.testing.assert_array_equal(alone, first)
    assert (turned(rows, some_turns(rng, dim)) != first).any()
