from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from bqstore.kernels import api, bits, layout
from tests import naive
from tests.kernels.given import DIMS, ENCODINGS, INTERPRETED, examples, of_planes, signs, whole_vectors


def pack(vectors):
    out = np.full((len(vectors), layout.words_per_code(vectors.shape[1])), 0xFFFF, np.uint64)
    api.encode(vectors, signs(vectors.shape[1]), layout.COSINE, out)
    return out


@pytest.mark.parametrize("dim", DIMS)
def test_packed_signs_are_those_of_the_naive_version(dim):
    vectors = np.random.default_rng(dim).integers(-1, 2, (5, dim)).astype(np.float32)
    np.testing.assert_array_equal(pack(vectors), naive.pack_signs(vectors))


def test_zero_and_minus_zero_are_not_positive():
    vectors = np.array([[0.0, -0.0, 1e-45, -1e-45, np.inf, -np.inf]], np.float32)
    assert pack(vectors)[0, 0] == 0b010100


@settings(max_examples=examples(50), deadline=None)
@given(
    hnp.arrays(
        np.float32,
        st.tuples(st.integers(0, 3), st.integers(1, 200)),
        elements=st.floats(width=32, allow_nan=False),
    )
)
def test_any_vectors_pack_as_the_naive_version_packs_them(vectors):
    np.testing.assert_array_equal(pack(vectors), naive.pack_signs(vectors))


def test_a_row_is_packed_to_its_place():
    vectors = np.array([[1, -1, 1], [-1, -1, 1]], np.float32)
    out = np.full((3, 1), 77, np.uint64)
    bits.pack_row(vectors[1], out, 2)
    assert out[:, 0].tolist() == [77, 77, 0b100]


def queried(dim, encoding):
    """Codes, rows of some of them, a query, and the distances of those rows by the naive version."""
    rng = np.random.default_rng(dim)
    query = whole_vectors(rng, 1, dim)[0]
    words = naive.pack_signs(rng.standard_normal((9, dim)))
    rows = rng.integers(0, 9, 7).astype(np.int32)
    levels = naive.levels_of(query, encoding)
    planes = np.full((8, words.shape[1]), 77, np.uint64)
    planes[:encoding] = naive.planes_of(levels, encoding)
    held = of_planes(planes, encoding)
    return words, rows, held, [naive.distance(levels, encoding, words[row]) for row in rows]


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_distances_are_those_of_the_naive_version(encoding):
    for dim in (*range(1, 201, 23 if INTERPRETED else 1), 512, 513, 768, *DIMS):
        words, rows, query, expected = queried(dim, encoding)
        out = np.full(9, -1, np.int32)
        bits.measure(words, rows, 7, query, 0, out)
        assert out.tolist() == [*expected, -1, -1], dim
        for ahead in (0, 1, 5, 10**6):  # past the end: asked for, never read
            out[:] = -1
            bits.measure(words, rows, 5, query, ahead, out)
            assert out.tolist() == [*expected[:5], -1, -1, -1, -1], (dim, ahead)
