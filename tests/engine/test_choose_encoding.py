"""Which quantization is chosen: what may be, what is measured of it, and that it is remembered as it was."""

import itertools
import json
from dataclasses import asdict, replace

import numpy as np
import pytest

from bqstore.config import AUTO, ENCODINGS, ESTIMATORS, QUERY_ENCODINGS, Quantization
from bqstore.engine import choose_encoding
from bqstore.engine.choose_encoding import LEAST, Chosen, _best, choice_of, choose, first, is_due, is_open, possible
from bqstore.errors import InvalidInputError
from bqstore.index import METRICS, Quantizer
from bqstore.results.info import Choice, Trial
from tests.conftest import clustered

ANY = Quantization()
DISTANCES = tuple(METRICS)
every_distance = pytest.mark.parametrize("distance", DISTANCES)
# all that there are, fewer bits first, and of as many the simplest first
ALL = (
    *(("one_bit", "sign", False), ("one_bit", "rabitq", False), ("one_bit", "rabitq", True)),
    ("one_and_half_bits", "sign", False),
    *(("two_bits", "sign", False), ("two_bits", "rabitq", False), ("two_bits", "rabitq", True)),
    *(("four_bits", "rabitq", False), ("four_bits", "rabitq", True)),
)


def settings_that_there_are():
    """Every Quantization that is not refused."""
    out = []
    choices = ((AUTO, *ENCODINGS), (AUTO, *QUERY_ENCODINGS), (AUTO, *ESTIMATORS), (None, False, True))
    for each in itertools.product(*choices):
        try:
            out.append(Quantization(*each))
        except InvalidInputError:
            continue
    return out


WANTED = settings_that_there_are()


def settings_of(wanted, **more):
    """What the head row has of a collection that was opened so, in part."""
    return {"quantization": asdict(wanted), "search": {"oversampling": 3.0, "rescore": True, "hnsw_ef": None}, **more}


# ---- possible


@pytest.mark.parametrize("wanted", WANTED, ids=lambda wanted: "-".join(str(value) for value in asdict(wanted).values()))
def test_what_settings_leave_open_is_possible(wanted):
    """As `Quantization` says: an encoding that is given is Qdrant's, unless what is only RaBitQ's is asked for."""
    expected = [way for way in ALL if wanted.encoding in (AUTO, way[0]) and wanted.estimator in (AUTO, way[1])]
    only_rabitq = wanted.encoding in (AUTO, "four_bits") or wanted.rotate
    if wanted.estimator == AUTO and not only_rabitq:
        expected = [way for way in expected if way[1] == "sign"]
    if wanted.rotate is not None:
        expected = [way for way in expected if way[2] == wanted.rotate]
    elif AUTO not in (wanted.encoding, wanted.estimator):
        expected = [way for way in expected if not way[2]]
    found = possible(wanted)
    assert [(way.encoding, way.estimator, way.rotate) for way in found] == expected != []
    for way in found:
        best = "scalar8bits" if way.encoding == "four_bits" else "scalar4bits"
        assert way.query_encoding == (best if wanted.query_encoding == AUTO else wanted.query_encoding)
    assert possible(found[0]) == found[:1]  # with all given, one


def test_nothing_given_leaves_all_open():
    assert [(way.encoding, way.estimator, way.rotate) for way in possible(ANY)] == list(ALL)


# ---- choosing


def low_rank(n, dim=512, rank=48, seed=1):
    """Vectors of many dimensions and few degrees of freedom: each bit says something of all."""
    mixing = np.random.default_rng(0).standard_normal((rank, dim))
    return (clustered(n, rank, seed, 50) @ mixing).astype(np.float32)


def trial(choice, encoding, estimator="sign", rotate=False):
    wanted = (encoding, estimator, rotate)
    return next(
        each
        for each in choice.trials
        if (each.quantization.encoding, each.quantization.estimator, each.quantization.rotate) == wanted
    )


def is_plausible(chosen, n, dim):
    """What every choice by measuring says."""
    choice = chosen.choice
    assert (choice.k, choice.oversampling) == (10, 3.0)
    assert choice.queries <= 512 and choice.vectors <= 4096 and choice.vectors + choice.queries <= n
    ways = possible(ANY)
    assert [each.quantization for each in choice.trials] == ways[: len(choice.trials)]
    of = [each.quantization.encoding for each in choice.trials]
    enough = {each.quantization.encoding for each in choice.trials if each.recall >= 0.99}
    if len(of) < len(ways):  # all ways of the first encoding that is enough, and no larger one
        assert enough == {of[-1]} and ways[len(of)].encoding != of[-1]
    for each in choice.trials:
        assert 0 <= each.raw_recall <= each.recall <= 1 and each.nanoseconds > 0
        bits = {"one_bit": 1, "one_and_half_bits": 1.5, "two_bits": 2, "four_bits": 4}[each.quantization.encoding]
        extra = 8 if each.quantization.estimator == "rabitq" else 0
        assert bits * dim / 8 + extra <= each.code_bytes <= bits * dim / 8 + extra + 8 * bits
    quantizer = chosen.quantizer
    found = trial(choice, quantizer.encoding, quantizer.estimator, quantizer.rotate)
    best = max(each.recall for each in choice.trials)
    assert found.recall >= best - 0.01 - 1e-9
    fewer = ENCODINGS[: ENCODINGS.index(quantizer.encoding)]
    assert all(each.recall < best - 0.01 for each in choice.trials if each.quantization.encoding in fewer)
    assert choice.reason.startswith(f"{quantizer.encoding.replace('_', ' ')} ({quantizer.estimator}")
    assert choice.reason.endswith(
        ": the smallest code within 1% of the best recall; among equals the one best without rescoring"
    )
    assert quantizer.query_encoding == found.quantization.query_encoding


@pytest.mark.parametrize(
    "vectors",
    [
        pytest.param(low_rank(3000), id="one bit", marks=pytest.mark.slow),
        pytest.param(clustered(3000, 32, 1, 50), id="more bits"),
    ],
)
def test_what_larger_codes_find_changes_no_choice(monkeypatch, vectors):
    """Larger codes are not measured where a smaller one finds .99."""
    soon = choose(vectors, ANY, METRICS["cosine"])
    monkeypatch.setattr(choose_encoding, "_is_enough", lambda trials: False)
    late = choose(vectors, ANY, METRICS["cosine"])
    assert len(late.choice.trials) == len(possible(ANY)) >= len(soon.choice.trials)
    assert soon.quantizer.coding() == late.quantizer.coding()


@pytest.mark.sampled(2)
@every_distance
def test_one_bit_is_chosen_where_it_finds_as_much(distance):
    vectors = low_rank(3000)
    chosen = choose(vectors, ANY, METRICS[distance])
    is_plausible(chosen, 3000, 512)
    assert chosen.quantizer.encoding == "one_bit"
    assert chosen.quantizer.trained == 3000 and chosen.quantizer.metric == METRICS[distance]


@pytest.mark.sampled(2)
@every_distance
@pytest.mark.parametrize("dim", [8, 32])
def test_more_bits_are_chosen_where_one_is_not_enough(distance, dim):
    chosen = choose(clustered(3000, dim, 1, 50), ANY, METRICS[distance])
    is_plausible(chosen, 3000, dim)
    assert chosen.quantizer.encoding in ("two_bits", "four_bits")
    assert trial(chosen.choice, "one_bit").recall < 0.9


@pytest.mark.sampled(2)
@every_distance
def test_estimates_are_chosen_where_signs_say_nothing(distance):
    """All values are positive: every sign is the same."""
    chosen = choose(low_rank(3000, 128, 24) + np.float32(100), ANY, METRICS[distance])
    is_plausible(chosen, 3000, 128)
    assert chosen.quantizer.estimator == "rabitq"
    assert trial(chosen.choice, "one_bit").recall < 0.2
    assert trial(chosen.choice, chosen.quantizer.encoding, "rabitq").recall > 0.9


def test_rotation_is_chosen_where_it_helps_and_only_there():
    """One value that is far larger than all others, in which vectors differ little: it is most of every residual."""
    rng = np.random.default_rng(0)
    vectors = low_rank(3000, 256, 40)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    plain = choose(vectors, Quantization("one_bit", estimator="rabitq"), METRICS["cosine"])
    assert plain.choice is None and not plain.quantizer.rotate
    several = choose(vectors, Quantization("four_bits"), METRICS["dot"]).choice
    assert [each.quantization.rotate for each in several.trials] == [False, True]
    vectors[:, :3] += rng.standard_normal((3000, 3)).astype(np.float32)
    chosen = choose(vectors, Quantization("four_bits"), METRICS["dot"])
    still, turned = chosen.choice.trials
    assert chosen.quantizer.rotate and turned.raw_recall >= still.raw_recall + 0.02


@pytest.mark.parametrize(
    ("gain", "k", "rotated"), [(0.013, 10, False), (0.019, 10, False), (0.03, 10, True), (0.05, 1, False)]
)
def test_a_rotation_was_chosen_that_lost_on_the_other_vectors(gain, k, rotated):
    """Of 19 samples of real sets two had it win by .01, and one lost .007: that is the error of 512 queries."""
    made = [
        Trial(Quantization("one_bit", "scalar4bits", "rabitq", turned, None), 100, 0.995, 0.88 + gain * turned, 1.0)
        for turned in (False, True)
    ]
    assert _best(Choice("", 4096, 512, k, 3.0, tuple(made))).rotate == rotated


@pytest.mark.sampled(4)
@every_distance
@pytest.mark.parametrize("kind", ["one", "few", "zeros", "one dimension", "half zeros"])
def test_vectors_that_are_the_same_are_quantized_too(distance, kind):
    """Any of equal vectors is as good as another: recall is whole, and the fewest bits do."""
    if kind.endswith("zeros") and distance == "cosine":
        pytest.skip("a collection refuses vectors of no length under cosine")
    vectors = {
        "one": lambda: np.ones((3000, 16)),
        "few": lambda: np.repeat(clustered(10, 32, 1), 300, axis=0),
        "zeros": lambda: np.zeros((3000, 16)),
        "one dimension": lambda: np.repeat([[1.0], [2.0], [-1.0]], 1000, axis=0),
        "half zeros": lambda: np.where(np.arange(3000)[:, None] % 2, clustered(3000, 16, 1), 0),
    }[kind]()
    chosen = choose(np.ascontiguousarray(vectors, np.float32), ANY, METRICS[distance])
    is_plausible(chosen, 3000, vectors.shape[1])
    assert np.isfinite(chosen.quantizer.parameters).all()
    if kind in ("one", "few", "zeros"):
        assert chosen.quantizer.encoding == "one_bit"
        assert min(each.recall for each in chosen.choice.trials if each.quantization.estimator == "rabitq") == 1


@pytest.mark.sampled(2)
@pytest.mark.parametrize("scale", [1e-12, 1e12])
@pytest.mark.parametrize("distance", ["dot", "euclid"])
def test_the_size_of_numbers_changes_no_choice(distance, scale):
    """But for three levels a value, which have a smallest deviation."""
    vectors = clustered(3000, 32, 1, 50)
    expected, found = (choose((vectors * np.float32(s)), ANY, METRICS[distance]) for s in (1, scale))
    assert expected.quantizer.coding() == found.quantizer.coding()
    for one, other in zip(expected.choice.trials, found.choice.trials, strict=True):
        if one.quantization.estimator == "rabitq":
            assert abs(one.recall - other.recall) < 0.01 and abs(one.raw_recall - other.raw_recall) < 0.02


def without_times(choice):
    return replace(choice, trials=tuple(replace(each, nanoseconds=0.0) for each in choice.trials))


@pytest.mark.sampled(1)
@every_distance
def test_the_same_vectors_make_the_same_choice(distance):
    vectors = clustered(2500, 48, 2, 50)
    one, two = (choose(vectors.copy(), ANY, METRICS[distance]) for _ in range(2))
    assert without_times(one.choice) == without_times(two.choice)
    assert one.quantizer.coding() == two.quantizer.coding()
    np.testing.assert_array_equal(one.quantizer.parameters, two.quantizer.parameters)


def test_the_order_of_vectors_matters_little():
    vectors = low_rank(3000, 128, 24)
    shuffled = np.random.default_rng(5).permutation(vectors)
    one, two = (choose(each, ANY, METRICS["cosine"]) for each in (vectors, shuffled))
    for a, b in zip(one.choice.trials, two.choice.trials, strict=True):
        assert abs(a.recall - b.recall) < 0.03


def test_no_more_than_a_sample_is_measured_and_trained_on(monkeypatch):
    monkeypatch.setattr(choose_encoding, "TRAINED_ON", 3000)
    vectors = clustered(6000, 16, 1)
    chosen = choose(vectors, ANY, METRICS["cosine"])
    assert (chosen.choice.vectors, chosen.choice.queries) == (4096, 512)
    assert chosen.quantizer.trained == 3000


def test_what_is_measured_is_what_a_search_finds(monkeypatch):
    """The recall of a trial, made again by hand from the same sample."""
    seen = []
    real = choose_encoding._measured
    monkeypatch.setattr(choose_encoding, "_measured", lambda *args: seen.append(args) or real(*args))
    for distance in DISTANCES:
        choice = choose(clustered(2500, 48, 3, 50), ANY, METRICS[distance]).choice
        base, queries, several, metric, _ = seen.pop()
        assert metric == METRICS[distance] and (len(base), len(queries)) == (choice.vectors, choice.queries)
        assert not {row.tobytes() for row in base} & {row.tobytes() for row in queries}
        scores = queries.astype(np.float64) @ base.T.astype(np.float64)
        if distance == "euclid":
            scores -= 0.5 * (base.astype(np.float64) ** 2).sum(1)
        truth = np.argsort(-scores, axis=1)[:, :10]
        for way, told in zip(several[: len(choice.trials)], choice.trials, strict=True):
            if way.estimator == "rabitq" and way.encoding == "four_bits" and not way.rotate:
                quantizer = Quantizer.train(base, way.encoding, way.estimator, way.rotate, metric)
                from bqstore.index.quantizer import values_of

                values, add, factor = values_of(quantizer.encode(base), quantizer)
                rests = queries - quantizer.arrays.mean
                estimates = add + factor * (rests @ values.T)  # of the query as it is
                best = np.argsort(-estimates, axis=1)[:, :10]
                raw = np.mean([len(set(a) & set(b)) / 10 for a, b in zip(best.tolist(), truth.tolist(), strict=True)])
                assert told.raw_recall == pytest.approx(raw, abs=0.02)


# ---- when


@pytest.mark.parametrize("n", [1, 5, 100, LEAST - 1])
def test_few_vectors_are_not_measured(n):
    """They are quantized by the simplest way: signs, which need no training, or the first of what is asked for."""
    vectors = clustered(n, 24, 1)
    assert first(vectors, ANY, METRICS["cosine"]) is None
    assert first(vectors, Quantization("one_bit"), METRICS["cosine"]) is None
    for wanted in (Quantization("two_bits"), Quantization("four_bits"), Quantization(estimator="rabitq")):
        chosen = first(vectors, wanted, METRICS["cosine"])
        way = possible(wanted)[0]
        found = chosen.quantizer
        assert chosen.choice is None
        assert (found.encoding, found.estimator, found.rotate) == (way.encoding, way.estimator, way.rotate)


def test_enough_vectors_are_measured_at_once():
    chosen = first(clustered(LEAST, 24, 1), ANY, METRICS["dot"])
    assert chosen.choice is not None and chosen.choice.vectors + chosen.choice.queries == LEAST
    assert first(clustered(LEAST, 24, 1), Quantization("one_bit"), METRICS["dot"]) is None


@pytest.mark.sampled(20)
@pytest.mark.parametrize("wanted", WANTED, ids=lambda wanted: "-".join(str(value) for value in asdict(wanted).values()))
def test_what_was_settled_is_not_due_again(wanted):
    """Neither what was chosen, nor what was asked for, once there were vectors enough to train on."""
    chosen = choose(clustered(LEAST, 16, 1), wanted, METRICS["dot"])
    settings = chosen.settings(settings_of(wanted), wanted)
    assert (chosen.choice is None) == (len(possible(wanted)) == 1)
    for count in (0, 1, LEAST, 10**6):
        assert not is_due(wanted, settings, count)
    assert not is_open(settings)


def test_a_choice_is_due_when_there_are_vectors_enough():
    settings = settings_of(ANY)
    assert [is_due(ANY, settings, count) for count in (0, 1, LEAST - 1, LEAST, 10**6)] == [False] * 3 + [True] * 2
    assert is_open(settings)


def test_a_training_on_few_is_due_again_when_there_are_more():
    wanted = Quantization("two_bits", estimator="rabitq")
    chosen = first(clustered(50, 16, 1), wanted, METRICS["dot"])
    settings = chosen.settings(settings_of(wanted), wanted)
    counts = (50, choose_encoding.ENOUGH - 1, choose_encoding.ENOUGH, 10**6)
    assert [is_due(wanted, settings, count) for count in counts] == [False, False, True, True]
    again = first(clustered(choose_encoding.ENOUGH, 16, 1), wanted, METRICS["dot"])
    assert not is_due(wanted, again.settings(settings, wanted), 10**6)


# ---- remembered


@pytest.mark.sampled(2)
@every_distance
def test_a_choice_comes_back_from_json_as_it_was(distance):
    chosen = choose(clustered(2500, 24, 1, 50), ANY, METRICS[distance])
    settings = chosen.settings(settings_of(ANY, distance=distance, choice="of old"), ANY)
    again = json.loads(json.dumps(settings))
    assert choice_of(again) == chosen.choice
    assert isinstance(choice_of(again), Choice) and all(isinstance(each, Trial) for each in choice_of(again).trials)
    assert again["distance"] == distance and Quantization(**again["quantization"]) == ANY
    restored = Quantizer.restore(again["coding"], chosen.quantizer.parameters, 24, METRICS[distance])
    assert restored.coding() == chosen.quantizer.coding()
    for value in asdict(chosen.choice.trials[0]).values():
        assert type(value) in (int, float, dict)


def test_without_a_choice_an_old_one_is_forgotten():
    wanted = Quantization("two_bits")
    chosen = first(clustered(50, 16, 1), wanted, METRICS["dot"])
    settings = chosen.settings(settings_of(ANY, choice={"reason": "old"}), wanted)
    assert choice_of(settings) is None and "choice" not in settings
    assert choice_of({}) is None
    assert settings["coding"] == chosen.quantizer.coding() and Quantization(**settings["quantization"]) == wanted


def test_what_was_tuned_for_other_codes_is_forgotten():
    """And what was not tuned stays as it was given."""
    quantizer = Quantizer.signs(16)
    before, tuned = {"oversampling": 2.0}, {"oversampling": 7.0}
    for given, expected in (
        (settings_of(ANY) | {"search": tuned, "untuned": before}, before),
        (settings_of(ANY) | {"search": tuned}, tuned),
    ):
        settings = Chosen(quantizer, None).settings(given, ANY)
        assert settings["search"] == expected and "untuned" not in settings


@pytest.mark.parametrize("wanted", WANTED, ids=lambda wanted: "-".join(str(value) for value in asdict(wanted).values()))
def test_codes_of_another_quantization_than_is_wanted_are_due_at_once(wanted):
    """A collection that was opened with other settings than its codes are of: from the first vector on."""
    fitting = any((way.encoding, way.estimator) == ("one_bit", "sign") for way in possible(wanted))
    settings = settings_of(wanted)  # of signs that nobody chose
    assert not is_due(wanted, settings, 0)
    assert is_due(wanted, settings, 1) == (not fitting)
    assert is_due(wanted, settings, 10**6) == (not fitting or len(possible(wanted)) > 1)
