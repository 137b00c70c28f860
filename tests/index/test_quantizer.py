"""The quantizer: trained, kept as numbers, restored; the same codes at every call and on any number of threads."""

import json
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from bqstore.errors import CorruptionError
from bqstore.index import ENCODINGS, Plan, Quantizer, Search
from bqstore.index.quantizer import random_signs, values_of
from bqstore.index.threads import ALONE, Workers
from bqstore.kernels import layout
from bqstore.kernels.layout import COSINE, DOT, EUCLID
from tests import naive
from tests.conftest import clustered
from tests.index.given import CODINGS, CORRECTED, named, no_executor, searchable

METRICS = (COSINE, DOT, EUCLID)
DIM = 70
every_coding = pytest.mark.parametrize("coding", CODINGS, ids=named)
every_corrected = pytest.mark.parametrize("coding", CORRECTED, ids=named)
every_metric = pytest.mark.parametrize("metric", METRICS)


@pytest.fixture(scope="module")
def vectors():
    return clustered(900, DIM, 3) + np.float32(0.3)


def units(vectors):
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32)


# ---- training


@every_coding
@every_metric
def test_what_is_trained_is_what_kernels_take(vectors, coding, metric):
    encoding, estimator, rotate = coding
    made = Quantizer.train(vectors, encoding, estimator, rotate, metric)
    arrays = made.arrays
    assert (made.encoding, made.estimator, made.rotate, made.metric, made.trained) == (*coding, metric, 900)
    assert made.dim == DIM
    assert arrays.bits == {"two_bits": 2, "four_bits": 4}.get(encoding, 1) if estimator == "rabitq" else 1
    assert arrays.rotation_signs.shape == (4 if rotate else 0, DIM)
    lanes = {"one_and_half_bits": 105, "two_bits": 140 if estimator == "sign" else 70}.get(encoding, 70)
    assert (arrays.lanes, arrays.width) == (lanes, -(-lanes // 64))
    assert arrays.shifts.tolist() == [p for p in range(arrays.bits)[::-1] for _ in range(arrays.width)]
    for array in arrays[5:-1]:
        assert array.dtype == np.float32 and array.flags.c_contiguous and array.flags.writeable
    codes = made.encode(vectors)
    assert codes.shape == (900, made.words) and codes.dtype == np.uint64 and codes.flags.c_contiguous


@every_coding
@every_metric
def test_without_bounds_codes_and_estimates_are_the_same(vectors, coding, metric):
    whole, part = (Quantizer.train(vectors, *coding, metric, bounds=bounds) for bounds in (True, False))
    assert np.array_equal(whole.encode(vectors), part.encode(vectors))
    found = []
    for quantizer in (whole, part):
        data = searchable(quantizer.encode(vectors), DIM, metric=metric, quantizer=quantizer)
        search = Search(data, None, len(vectors), 20, Plan("scan", False, 20), ENCODINGS["scalar4bits"])
        found.append(search.nearest(vectors[:9], ALONE))
    assert np.array_equal(found[0][0], found[1][0]) and np.array_equal(found[0][1], found[1][1])
    assert (whole.arrays.error_scales.all(), part.arrays.error_scales.any()) == (coding in CORRECTED, False)


@pytest.mark.parametrize("dim", range(1, 140, 6))
def test_dimensions_are_known(dim):
    vectors = np.random.default_rng(dim).standard_normal((20, dim)).astype(np.float32)
    for encoding, estimator, rotate in CODINGS:
        assert Quantizer.train(vectors, encoding, estimator, rotate, DOT).dim == dim


@every_coding
@every_metric
@pytest.mark.parametrize("part", [1, 33, 64, DIM])
def test_of_a_part_it_is_what_is_trained_on_the_part(vectors, part, metric, coding):
    made = Quantizer.train(vectors, *coding, metric, part)
    alone = Quantizer.train(np.ascontiguousarray(vectors[:, :part]), *coding, metric)
    assert (made.truncate_dim, made.dim, made.words, made.trained) == (part, part, alone.words, 900)
    assert made.resolved("auto").truncate_dim == part and alone.resolved("auto").truncate_dim is None
    for array, other in zip(made.arrays, alone.arrays, strict=True):
        np.testing.assert_array_equal(array, other)
    np.testing.assert_array_equal(made.encode(vectors), alone.encode(np.ascontiguousarray(vectors[:, :part])))
    with ThreadPoolExecutor(2) as pool:
        many = np.tile(vectors, (6, 1))
        np.testing.assert_array_equal(made.encode_all(many, Workers(2, lambda: pool)), made.encode(many))


@pytest.mark.parametrize("encoding", ["one_and_half_bits", "two_bits"])
def test_three_levels_are_trained_on_mean_and_deviation(vectors, encoding):
    made = Quantizer.train(vectors, encoding, "sign", False, DOT)
    kind = {"one_and_half_bits": layout.ONE_AND_HALF_BITS, "two_bits": layout.TWO_BITS}[encoding]
    np.testing.assert_allclose(made.arrays.mean, vectors.mean(0, dtype=np.float64), rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(made.arrays.deviation, vectors.std(0, dtype=np.float64), rtol=1e-6)
    expected = naive.pack_three_levels(vectors[:50], made.arrays.mean, made.arrays.deviation, kind)
    np.testing.assert_array_equal(made.encode(vectors[:50].copy()), expected)


@pytest.mark.parametrize("encoding", ["one_and_half_bits", "two_bits"])
@pytest.mark.parametrize("metric", [COSINE, DOT])
@pytest.mark.parametrize("factor", [1.0, 2.0**-40, 2.0**40])
def test_a_deviation_was_none_if_it_was_small_and_not_if_the_vectors_were_long(factor, metric, encoding):
    """Beside the length of the vectors: under cosine, below float32's epsilon, as Qdrant has it."""
    vectors = np.random.default_rng(0).standard_normal((400, 16))
    vectors[:, 3], vectors[:, 5] = 0.25, 1e-6 * vectors[:, 5]
    vectors[:, 7] = 1e-9 * vectors[:, 7]
    made = Quantizer.train((vectors * factor).astype(np.float32), encoding, "sign", False, metric)
    flat = made.arrays.deviation == 0
    assert flat[7] and not flat[5] and (flat[3] or metric == COSINE) and flat.sum() <= 2
    again = Quantizer.restore(made.coding(), made.parameters, 16, metric)
    np.testing.assert_array_equal(again.arrays.deviation, made.arrays.deviation)


@pytest.mark.parametrize("encoding", ["one_bit", "one_and_half_bits", "two_bits"])
def test_under_cosine_signs_are_those_of_unit_vectors(vectors, encoding):
    """As in Qdrant, which scales vectors on their way in: a query, of unit length, is encoded by the same bounds."""
    of_unit = units(vectors)
    lengths = np.random.default_rng(0).uniform(0.01, 100, (900, 1)).astype(np.float32)
    expected = Quantizer.train(of_unit, encoding, "sign", False, COSINE).encode(of_unit)
    found = Quantizer.train(of_unit * lengths, encoding, "sign", False, COSINE).encode(of_unit * lengths)
    differing = np.unpackbits((found ^ expected).view(np.uint8)).mean()
    assert differing < 1e-4, differing


@every_coding
def test_the_lengths_of_vectors_cost_no_recall_under_cosine(vectors, coding):
    """The same vectors, ten times as long, found by the same queries as well, in every encoding of a query."""
    base, queries = vectors[100:], vectors[:100].copy()
    truth = np.argsort(-units(queries) @ units(base).T, axis=1)[:, :10]
    for name, planes in ENCODINGS.items():
        recalls = []
        for scale in (1 / np.linalg.norm(base, axis=1, keepdims=True), 10.0):
            scaled = (base * scale).astype(np.float32)
            made = Quantizer.train(scaled, *coding, COSINE)
            data = searchable(made.encode(scaled), DIM, metric=COSINE, quantizer=made)
            found, _ = Search(data, None, 800, 10, Plan("scan", False, 10), planes).nearest(queries, ALONE)
            recalls.append((found[:, :, None] == truth[:, None]).any(1).mean())
        assert abs(recalls[0] - recalls[1]) < 0.01, (name, recalls)


@every_corrected
def test_the_mean_is_that_of_unit_vectors_under_cosine(vectors, coding):
    for metric in METRICS:
        kept = units(vectors) if metric == COSINE else vectors
        for n in (1, 16, 900):
            made = Quantizer.train(vectors[:n].copy(), *coding, metric)
            expected = kept[:n].mean(0, dtype=np.float64)
            np.testing.assert_allclose(made.arrays.mean, expected, rtol=1e-4, atol=1e-6)


@every_corrected
@every_metric
def test_the_spread_is_at_least_what_codes_are_off_by(vectors, coding, metric):
    """By its definition, on nearly all vectors; more where errors are larger than chance would make them."""
    made = Quantizer.train(vectors, *coding, metric)
    kept = units(vectors) if metric == COSINE else vectors
    values, _, factor = values_of(made.encode(vectors), made)
    rests = kept.astype(np.float64) - made.arrays.mean
    lengths = np.sqrt((values.astype(np.float64) ** 2).mean(1))
    cosines = (rests**2).sum(1) / (factor * np.linalg.norm(rests, axis=1) * lengths * np.sqrt(DIM))
    across = lengths * np.sqrt(np.clip(1 - cosines**2, 0, 1))
    spread = made.arrays.error_scales
    assert (across <= spread[0] * 1.0001).mean() >= 0.985 and (lengths <= spread[1] * 1.0001).mean() >= 0.985
    assert spread[0] < 3 * across.max() and spread[1] < 3 * lengths.max()


def test_a_zero_vector_among_them_spoils_no_training(vectors):
    """It has no direction to be a part of a mean under cosine; the others have."""
    some = vectors.copy()
    some[[0, 5, 899]] = 0
    for coding in CORRECTED:
        expected = Quantizer.train(vectors, *coding, COSINE)
        made = Quantizer.train(some, *coding, COSINE)
        np.testing.assert_allclose(made.arrays.mean, expected.arrays.mean, atol=0.01)
        assert np.isfinite(made.parameters).all()


@every_coding
@pytest.mark.parametrize("n", [1, 2, 3, 17])
def test_few_vectors_train_a_quantizer_all_the_same(vectors, coding, n):
    for metric in METRICS:
        made = Quantizer.train(vectors[:n].copy(), *coding, metric)
        assert np.isfinite(made.parameters).all() and made.trained == n
        assert made.encode(vectors).shape == (900, made.words)


@every_coding
@every_metric
def test_equal_vectors_and_vectors_of_one_dimension(coding, metric):
    shapes = [np.ones((50, DIM)), np.full((50, 1), 3), np.tile(np.eye(DIM)[:1], (50, 1)), np.zeros((50, DIM))]
    for some in (shape.astype(np.float32) for shape in shapes[: 3 if metric == COSINE else 4]):
        made = Quantizer.train(some, *coding, metric)
        codes = made.encode(some)
        assert np.isfinite(made.parameters).all() and (codes == codes[0]).all()
        data = searchable(codes, some.shape[1], metric=metric, quantizer=made)
        for planes in ENCODINGS.values():
            found = Search(data, None, 50, 5, Plan("scan", False, 5), planes).nearest(some[:2].copy(), ALONE)
            assert found[0].tolist() == [[0, 1, 2, 3, 4]] * 2 and np.isfinite(found[1]).all()


@every_coding
def test_training_is_the_same_at_every_call(vectors, coding):
    for metric in METRICS:
        one, two = (Quantizer.train(vectors, *coding, metric) for _ in range(2))
        np.testing.assert_array_equal(one.parameters, two.parameters)
        np.testing.assert_array_equal(one.encode(vectors), two.encode(vectors))


def test_signs_need_no_training(vectors):
    made, trained = Quantizer.signs(DIM), Quantizer.train(vectors, "one_bit", "sign", False, COSINE)
    assert (made.encoding, made.estimator, made.rotate, made.trained, made.words) == ("one_bit", "sign", False, 0, 2)
    assert len(made.parameters) == 0 == len(trained.parameters)
    np.testing.assert_array_equal(made.encode(vectors), naive.pack_signs(vectors))
    np.testing.assert_array_equal(trained.encode(vectors), made.encode(vectors))


def test_rotation_signs_are_those_of_splitmix():
    """The store keeps none of them: another machine must make the same."""

    def sign(i):
        x = (0x9E3779B97F4A7C15 * (i + 1) + 0x6271_7475) % 2**64
        x = (x ^ x >> 30) * 0xBF58476D1CE4E5B9 % 2**64
        x = (x ^ x >> 27) * 0x94D049BB133111EB % 2**64
        return 1 if x ^ x >> 31 >= 2**63 else -1

    for dim in (1, 7, 384):
        for rounds in (0, 1, 2, 4):
            found = random_signs(dim, rounds)
            assert found.shape == (rounds, dim) and found.dtype == np.float32
            assert found.reshape(-1).tolist() == [sign(i) for i in range(rounds * dim)]
    many = random_signs(4096, 2)
    assert abs(many.mean()) < 0.05 and abs((many[0] * many[1]).mean()) < 0.06


# ---- kept, and restored


def stored(made):
    """What the store gives back: settings that were JSON, parameters in memory that nobody may write to."""
    parameters = made.parameters.copy()
    parameters.flags.writeable = False
    return json.loads(json.dumps(made.coding())), parameters


@every_coding
@every_metric
def test_what_is_restored_encodes_the_same(vectors, coding, metric):
    made = Quantizer.train(vectors, *coding, metric)
    made.query_encoding = "scalar8bits"
    again = Quantizer.restore(*stored(made), DIM, metric)
    assert again.coding() == made.coding()
    assert (again.query_encoding, again.trained, again.metric) == ("scalar8bits", 900, metric)
    np.testing.assert_array_equal(again.encode(vectors), made.encode(vectors))
    for array, other in zip(again.arrays, made.arrays, strict=True):
        np.testing.assert_array_equal(array, other)
    for array in again.arrays[5:-1]:
        assert array.flags.writeable and array.flags.c_contiguous and array.dtype == np.float32


@every_coding
@every_metric
def test_the_part_is_kept_where_there_is_one_and_only_there(vectors, coding, metric):
    whole, part = Quantizer.train(vectors, *coding, metric), Quantizer.train(vectors, *coding, metric, 33)
    assert "truncate_dim" not in whole.coding()
    assert part.coding() == {**whole.coding(), "truncate_dim": 33}
    again = Quantizer.restore(*stored(part), DIM, metric)
    assert again.coding() == part.coding()
    np.testing.assert_array_equal(again.encode(vectors), part.encode(vectors))
    for wrong in (0, -1, DIM + 1, 10**30, True, 33.0, "33", [33]):
        with pytest.raises(CorruptionError):
            Quantizer.restore({**part.coding(), "truncate_dim": wrong}, part.parameters, DIM, metric)
    with pytest.raises(CorruptionError):
        Quantizer.restore(part.coding(), part.parameters, 32, metric)


@every_coding
def test_another_number_of_parameters_is_refused(vectors, coding):
    made = Quantizer.train(vectors, *coding, DOT)
    kept, parameters = stored(made)
    for wrong in (parameters[:-1], np.append(parameters, np.float32(1)), parameters[: len(parameters) // 2 + 1]):
        if len(wrong) != len(parameters):
            with pytest.raises(CorruptionError, match="parameters"):
                Quantizer.restore(kept, wrong, DIM, DOT)
    for dim in (DIM - 1, DIM + 1):
        if len(parameters):
            with pytest.raises(CorruptionError, match="parameters"):
                Quantizer.restore(kept, parameters, dim, DOT)


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
@every_coding
def test_parameters_that_are_not_finite_are_refused(vectors, coding, value):
    kept, parameters = stored(Quantizer.train(vectors, *coding, DOT))
    for at in (0, len(parameters) // 2, -1) if len(parameters) else ():
        bad = parameters.copy()
        bad[at] = value
        with pytest.raises(CorruptionError):
            Quantizer.restore(kept, bad, DIM, DOT)


@pytest.mark.parametrize(
    "change",
    [
        {"encoding": "three_bits"},
        {"encoding": None},
        {"encoding": ["one_bit"]},
        {"estimator": "signs"},
        {"estimator": "rabitq", "encoding": "one_and_half_bits"},
        {"encoding": "four_bits"},
        {"trained": "many"},
        {"trained": None},
    ],
)
def test_a_coding_that_there_is_not_is_refused(change):
    kept, parameters = stored(Quantizer.signs(DIM))
    with pytest.raises(CorruptionError):
        Quantizer.restore({**kept, **change}, parameters, DIM, DOT)


@pytest.mark.parametrize("missing", ["encoding", "estimator", "rotate"])
def test_a_coding_without_all_it_needs_is_refused(missing):
    kept, parameters = stored(Quantizer.signs(DIM))
    del kept[missing]
    with pytest.raises(CorruptionError):
        Quantizer.restore(kept, parameters, DIM, DOT)


def test_settings_say_what_auto_means(vectors):
    made = Quantizer.train(vectors, "two_bits", "rabitq", True, COSINE)
    made.query_encoding = "scalar8bits"
    for asked, meant in (("auto", "scalar8bits"), ("binary", "binary"), ("scalar4bits", "scalar4bits")):
        found = made.resolved(asked)
        assert (found.encoding, found.query_encoding, found.estimator, found.rotate) == (
            *("two_bits", meant, "rabitq"),
            True,
        )


# ---- many at once


@every_coding
@pytest.mark.parametrize("threads", [1, 2, 3])
def test_threads_encode_the_same(coding, threads):
    vectors = clustered(9000, DIM, 1)  # more than two pieces
    made = Quantizer.train(vectors[:500].copy(), *coding, COSINE)
    expected = made.encode(vectors)
    with ThreadPoolExecutor(3) as pool:
        for n in (0, 1, 4095, 4096, 4097, 8192, 9000):
            found = made.encode_all(vectors[:n], Workers(threads, lambda: pool))
            np.testing.assert_array_equal(found, expected[:n])
    assert made.encode_all(vectors[:4096], Workers(3, no_executor)).shape == (4096, made.words)


def test_an_error_in_one_thread_is_raised_when_all_have_ended(vectors, monkeypatch):
    from bqstore.kernels import dispatch

    begun, ended = [], []

    def broken(part, *rest):
        begun.append(len(part))
        try:
            if len(begun) >= 2:
                raise MemoryError
            real(part, *rest)
        finally:
            ended.append(len(part))

    real = dispatch.encode
    monkeypatch.setattr(dispatch, "encode", broken)
    with ThreadPoolExecutor(2) as pool, pytest.raises(MemoryError):
        Quantizer.signs(DIM).encode_all(np.tile(vectors, (20, 1)), Workers(2, lambda: pool))
    assert len(begun) == len(ended) >= 2


@every_corrected
def test_values_and_floats_are_read_from_codes(vectors, coding):
    made = Quantizer.train(vectors, *coding, DOT)
    codes = made.encode(vectors[:20].copy())
    values, add, factor = values_of(codes, made)
    assert values.dtype == add.dtype == factor.dtype == np.float32
    for row, code in enumerate(codes):
        assert values[row].tolist() == naive.values_of(code, made.arrays.bits, made.arrays.width, DIM)
        assert [add[row], factor[row]] == naive.floats_of(code).tolist()
