"""RaBitQ's codes by their definition: planes, ``add`` and ``factor`` of what is left of a vector beside the mean."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from bqstore.kernels import api, layout
from bqstore.kernels.layout import COSINE, DOT, EUCLID, RABITQ
from tests import naive
from tests.kernels.given import (
    INTERPRETED,
    METRICS,
    corrected,
    encoded_as,
    examples,
    parts_of,
    some_turns,
    whole_vectors,
)

BITS = (1, 2, 4)
DIMS = (1, 2, 3, 63, 64, 65, 100) if INTERPRETED else (1, 2, 3, 63, 64, 65, 100, 127, 384, 513, 1000)
every_bits = pytest.mark.parametrize("bits", BITS)
every_metric = pytest.mark.parametrize("metric", METRICS)
rotated_or_not = pytest.mark.parametrize("rounds", [0, 4])


def assert_code(code, vector, quantizer, metric):
    """Planes, floats and padding of one code, against the definition.

    A value whose size is as good as on the border of two levels, in float32, may have either.
    """
    dim, bits, width = len(vector), quantizer.bits, quantizer.width
    assert len(code) == bits * width + 1 == layout.words_per_code(dim, RABITQ, bits)
    for p in range(bits):
        plane = code[p * width : (p + 1) * width]
        assert not any(naive.bit_of(plane, j) for j in range(dim, 64 * width))
    rest = naive.residual(vector, quantizer.mean, metric, quantizer.rotation_signs)
    values = np.array(naive.values_of(code, bits, width, dim), np.float64)
    assert (np.abs(values) % 2 == 1).all() and np.abs(values).max() < 2**bits
    doubt = 2e-6 * max(1e-30, np.abs(rest).max() + np.abs(naive.unit(vector, metric)).max())
    clear = np.abs(rest) > doubt
    assert (np.sign(values)[clear] == np.sign(rest)[clear]).all()
    if bits > 1 and rest.any() and clear.any():
        best = max(naive.fit(naive.valued(rest, step, bits), rest) for step in naive.steps_of(rest, bits))
        assert naive.fit(values, rest) >= best - 1e-5
        assert one_step_makes(values, rest, bits, doubt)
    add, factor = naive.corrections(vector, quantizer.mean, metric, values, rest)
    stored = naive.floats_of(code)
    length = np.linalg.norm(naive.unit(vector, metric)) * np.linalg.norm(quantizer.mean.astype(np.float64))
    assert stored[0] == pytest.approx(add, rel=2e-5, abs=2e-6 * length)
    square = float(rest @ rest)
    if square > 1e-6 * np.linalg.norm(naive.unit(vector, metric)) ** 2 and square > 1e-30:
        assert stored[1] == pytest.approx(factor, rel=1e-3 if square < 1e-3 * length else 2e-5)


def one_step_makes(values, rest, bits, doubt):
    """Whether there is a step that makes these values: that it is between the sizes of neighboring levels."""
    low, high = 0.0, np.inf
    for size, value in zip(np.abs(rest), np.abs(values), strict=True):
        level = (value - 1) // 2
        if level > 0:
            low = max(low, level / (size + doubt))
        if level < 2 ** (bits - 1) - 1:
            high = min(high, (level + 1) / max(size - doubt, 1e-300))
    return low <= high * (1 + 1e-5)


@every_bits
@rotated_or_not
@every_metric
@pytest.mark.parametrize("dim", DIMS)
def test_codes_are_as_they_are_defined(dim, metric, rounds, bits):
    rng = np.random.default_rng(dim)
    mean = (0.1 * rng.standard_normal(dim)).astype(np.float32)
    quantizer = corrected(bits, mean, some_turns(rng, dim, rounds))
    vectors = (rng.standard_normal((4, dim)) * rng.choice([0.3, 1, 20], (4, 1))).astype(np.float32)
    for code, vector in zip(encoded_as(quantizer, vectors, metric).words, vectors, strict=True):
        assert_code(code, vector, quantizer, metric)


@every_bits
@every_metric
@pytest.mark.parametrize("dim", DIMS)
def test_whole_numbers_beside_a_whole_mean_have_no_doubtful_bit(dim, metric, bits):
    """Without rotation all is exact: every sign, of zeros too, and every level of a step that was tried."""
    if metric == COSINE:
        return
    rng = np.random.default_rng(dim)
    mean = rng.integers(-2, 3, dim).astype(np.float32)
    vectors = rng.integers(-5, 6, (5, dim)).astype(np.float32)
    for code, vector in zip(encoded_as(corrected(bits, mean), vectors, metric).words, vectors, strict=True):
        rest = vector.astype(np.float64) - mean
        values = naive.values_of(code, bits, -(-dim // 64), dim)
        assert [value > 0 for value in values] == (rest > 0).tolist()
        if rest.any() and bits > 1:
            tried = [naive.valued(rest, step, bits) for step in naive.steps_of(rest, bits)]
            assert max(naive.fit(each, rest) for each in tried) <= naive.fit(np.array(values), rest) + 1e-6
            steps = np.concatenate([naive.steps_of(rest, bits) * (1 + e) for e in (-1e-6, 0, 1e-6)])
            assert any((naive.valued(rest, step, bits) == values).all() for step in steps)
        assert naive.floats_of(code)[0] == (-(rest @ rest) / 2 if metric == EUCLID else vector @ mean)


@every_bits
@every_metric
def test_the_sign_plane_is_the_first(metric, bits):
    """The first words of a code of any bits are those of one bit: a graph is built on them."""
    rng = np.random.default_rng(0)
    mean, vectors = rng.standard_normal(100).astype(np.float32), rng.standard_normal((9, 100)).astype(np.float32)
    turns = some_turns(rng, 100)
    one, several = (encoded_as(corrected(b, mean, turns), vectors, metric).words for b in (1, bits))
    np.testing.assert_array_equal(one[:, :2], several[:, :2])
    if bits == 1:
        np.testing.assert_array_equal(one, several)


def test_floats_are_in_the_last_word_add_low():
    quantizer = corrected(1, np.array([1, 0, 0], np.float32))
    code = encoded_as(quantizer, np.array([[3, -4, 0.5]], np.float32)).words[0]
    assert code[0] == 0b101
    add, factor = np.array([int(code[1]) & 0xFFFF_FFFF, int(code[1]) >> 32], np.uint32).view(np.float32)
    assert (add, factor) == (3, np.float32((4 + 16 + 0.25) / (2 + 4 + 0.5)))
    small = np.array([[1, -0.1, -7, 0.5]], np.float32)
    code = encoded_as(corrected(4, np.zeros(4, np.float32)), small).words[0]
    assert [naive.bit_of(code, j) for j in range(4)] == [1, 0, 0, 1]
    values = naive.values_of(code, 4, 1, 4)
    assert abs(values[2]) > abs(values[0]) >= abs(values[3]) > 0


@every_bits
@rotated_or_not
@every_metric
@pytest.mark.parametrize("dim", [1, 2, 64, 100])
def test_a_vector_that_is_the_mean_has_no_factor(dim, metric, rounds, bits):
    """And its estimate is ``add`` alone, whatever the query."""
    rng = np.random.default_rng(dim)
    mean = np.zeros(dim, np.float32)
    mean[0] = 1 if metric == COSINE else 5
    codes = encoded_as(corrected(bits, mean, some_turns(rng, dim, rounds)), mean[None], metric)
    values, add, factor = parts_of(codes)
    assert factor[0] == 0
    assert add[0] == {COSINE: 1, DOT: 25, EUCLID: 0}[metric]
    assert (np.abs(values) % 2 == 1).all()


@every_bits
@rotated_or_not
@every_metric
def test_a_zero_vector_is_what_is_left_of_the_mean(metric, rounds, bits):
    rng = np.random.default_rng(0)
    mean = rng.standard_normal(70).astype(np.float32)
    quantizer = corrected(bits, mean, some_turns(rng, 70, rounds))
    zero = np.zeros(70, np.float32)
    code = encoded_as(quantizer, zero[None], metric).words[0]
    assert_code(code, zero, quantizer, metric)
    square = float((mean.astype(np.float64) ** 2).sum())
    assert naive.floats_of(code)[0] == pytest.approx(-square / 2 if metric == EUCLID else 0, rel=1e-5)
    none = corrected(bits, zero, some_turns(rng, 70, rounds))
    code = encoded_as(none, zero[None], metric).words[0]
    assert naive.floats_of(code).tolist() == [0, 0]


@every_bits
def test_one_dimension_is_exact(bits):
    """The product of a value and its code is the value: nothing is lost but the float32's last bits."""
    vectors = np.array([[3], [-0.5], [1e-3], [-70], [1], [0]], np.float32)
    for metric in (DOT, EUCLID):
        values, add, factor = parts_of(encoded_as(corrected(bits, np.ones(1, np.float32)), vectors, metric))
        np.testing.assert_allclose(values[:, 0] * factor, vectors[:, 0] - 1, rtol=1e-6)
        np.testing.assert_allclose(add, vectors[:, 0] if metric == DOT else -0.5 * (vectors[:, 0] - 1) ** 2, rtol=1e-6)


@every_bits
@rotated_or_not
def test_the_length_of_a_vector_is_nothing_to_a_cosine(rounds, bits):
    rng = np.random.default_rng(0)
    mean = (0.1 * rng.standard_normal(70)).astype(np.float32)
    quantizer = corrected(bits, mean, some_turns(rng, 70, rounds))
    vectors = whole_vectors(rng, 5, 70)
    expected = encoded_as(quantizer, vectors, COSINE).words
    for factor in (0.25, 4096, 2.0**40):  # powers of two: all is as exact
        np.testing.assert_array_equal(encoded_as(quantizer, vectors * np.float32(factor), COSINE).words, expected)


@every_bits
@rotated_or_not
@settings(max_examples=examples(60), deadline=None)
@given(
    vectors=hnp.arrays(
        np.float32, st.tuples(st.integers(0, 3), st.integers(1, 70)), elements=st.floats(-(2.0**30), 2.0**30, width=32)
    ),
    metric=st.sampled_from(METRICS),
    seed=st.integers(0, 2**32 - 1),
)
def test_any_vectors_have_the_code_that_is_defined(rounds, bits, vectors, metric, seed):
    rng = np.random.default_rng(seed)
    dim = vectors.shape[1]
    size = max(1.0, float(np.abs(vectors).max(initial=0)))
    scale = np.float32(1 if metric == COSINE else size)
    mean = (scale * 0.1 * rng.standard_normal(dim)).astype(np.float32)
    vectors[np.abs(vectors) < 1e-6 * size] = 0  # whose squares are lost
    quantizer = corrected(bits, mean, some_turns(rng, dim, rounds))
    for code, vector in zip(encoded_as(quantizer, vectors, metric).words, vectors, strict=True):
        assert_code(code, vector, quantizer, metric)


@every_bits
@pytest.mark.parametrize("length", [1e-15, 1e-18, 1e-22, 1e-30, 1e-44, 1e15, 9e17])
def test_very_short_and_very_long_vectors(length, bits):
    """All that dot and euclid take: finite, and an estimate of the product that is right, or lost with its squares."""
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((5, 70))
    vectors = (length * vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)
    for metric in (DOT, EUCLID):
        with np.errstate(all="ignore"):
            codes = encoded_as(corrected(bits, np.zeros(70, np.float32)), vectors, metric)
        values, add, factor = parts_of(codes)
        assert np.isfinite(add).all() and np.isfinite(factor).all() and (factor >= 0).all()
        if length > 1e-16:
            for row in range(5):
                rest = vectors[row].astype(np.float64)
                assert factor[row] == pytest.approx(rest @ rest / (rest @ values[row]), rel=1e-4)


def test_rows_and_batches_are_the_same():
    rng = np.random.default_rng(0)
    vectors = rng.standard_normal((20, 100)).astype(np.float32)
    for bits in BITS:
        quantizer = corrected(bits, vectors.mean(0), some_turns(rng, 100))
        whole = encoded_as(quantizer, vectors, COSINE).words
        alone = np.concatenate([encoded_as(quantizer, vectors[i : i + 1], COSINE).words for i in range(20)])
        np.testing.assert_array_equal(whole, alone)
        short = np.full((7, whole.shape[1]), 77, np.uint64)
        api.encode(vectors, quantizer, COSINE, short)  # fewer places than vectors
        np.testing.assert_array_equal(short, whole[:7])


@pytest.mark.parametrize("shape", ["gauss", "uniform", "heavy", "two values", "one huge"])
def test_more_bits_are_nearer_to_the_vector(shape):
    rng = np.random.default_rng(0)
    dim = 64 if INTERPRETED else 512
    vectors = {
        "gauss": lambda: rng.standard_normal((8, dim)),
        "uniform": lambda: rng.uniform(-1, 1, (8, dim)),
        "heavy": lambda: rng.standard_t(3, (8, dim)),
        "two values": lambda: rng.choice([-1.0, 2.2], (8, dim)),
        "one huge": lambda: np.where(np.arange(dim) == 3, 30.0, rng.standard_normal((8, dim))),
    }[shape]()
    vectors, found = vectors.astype(np.float32), []
    for bits in BITS:
        codes = encoded_as(corrected(bits, np.zeros(dim, np.float32)), vectors)
        values = parts_of(codes)[0]
        found.append(np.mean([naive.fit(each, row) for each, row in zip(values, vectors, strict=True)]))
    assert found[0] < found[1] < found[2], found
    if shape in ("gauss", "uniform"):
        assert found[0] > 0.78 and found[1] > 0.92 and found[2] > 0.99
    if shape == "two values":
        assert found[2] > 0.995
