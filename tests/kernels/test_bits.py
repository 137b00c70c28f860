from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from bqstore.kernels import api, bits, layout
from tests import naive
from tests.kernels.given import DIMS, METRICS


def pack(vectors):
    out = np.full((len(vectors), layout.words_per_code(vectors.shape[1])), 0xFFFF, np.uint64)
    api.pack_signs(vectors, out)
    return out


@pytest.mark.parametrize("dim", DIMS)
def test_packed_signs_are_those_of_the_twin(dim):
    vectors = np.random.default_rng(dim).integers(-1, 2, (5, dim)).astype(np.float32)
    np.testing.assert_array_equal(pack(vectors), naive.pack_signs(vectors))


def test_zero_and_minus_zero_are_not_positive():
    vectors = np.array([[0.0, -0.0, 1e-45, -1e-45, np.inf, -np.inf]], np.float32)
    assert pack(vectors)[0, 0] == 0b010100


@settings(max_examples=50, deadline=None)
@given(
    hnp.arrays(
        np.float32,
        st.tuples(st.integers(0, 3), st.integers(1, 200)),
        elements=st.floats(width=32, allow_nan=False),
    )
)
def test_any_vectors_pack_as_the_twin_packs_them(vectors):
    np.testing.assert_array_equal(pack(vectors), naive.pack_signs(vectors))


@pytest.mark.parametrize("width", [1, 2, 7, 8, 9, 24, 48])
def test_distances_are_those_of_the_twin(width):
    rng = np.random.default_rng(width)
    words = rng.integers(0, 2**64, (20, width), dtype=np.uint64)
    rows = rng.integers(0, 20, 11).astype(np.int32)
    out = np.empty(11, np.int32)
    for ahead in (0, 5):
        out[:] = -1
        bits.hamming_rows(words, rows, 11, words[3], ahead, out)
        assert out.tolist() == [naive.hamming(words[row], words[3]) for row in rows]


@pytest.mark.parametrize("metric", METRICS)
def test_the_score_of_codes_is_the_metric_of_their_signs(metric):
    a, b = np.array([1, 1, -1, 1, -1.0]), np.array([1, -1, -1, -1, -1.0])
    of_vectors = {
        layout.COSINE: a @ b / 5,
        layout.DOT: a @ b,
        layout.EUCLID: -np.linalg.norm(a - b),
    }[metric]
    assert bits.code_score(2, 5, metric) == pytest.approx(of_vectors)
