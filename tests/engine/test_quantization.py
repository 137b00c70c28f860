"""The life of a collection's quantization: what is chosen and when, what each kind of code finds, and that it lasts.

What changes it later is in test_requantize.py, what may be asked for at an opening in test_quantization_opening.py.
"""

import os
import subprocess
import sys
import threading
from dataclasses import astuple
from itertools import product
from pathlib import Path

import numpy as np
import pytest

import bqstore
from bqstore import Quantization
from bqstore.engine import graph_builder
from bqstore.index import HnswGraph
from bqstore.storage.store import Store
from tests.conftest import HANGS, clustered, exact_scores
from tests.engine.given import SCAN, data_of, let_walk

ROOT = Path(bqstore.__file__).parents[1]
DIM, ENOUGH = 24, 2048
BASE, QUERIES = data_of(2600, DIM, queries=40)
SIGNS = Quantization("one_bit", "binary", "sign", False)
# every way that codes can be made, as (encoding, estimator, rotate)
SIGNED = [("one_bit", "sign", False), ("one_and_half_bits", "sign", False), ("two_bits", "sign", False)]
CORRECTED = [(bits, "rabitq", turned) for bits in ("one_bit", "two_bits", "four_bits") for turned in (False, True)]
WAYS = SIGNED + CORRECTED
ORIGINALS = ("float32", "float16", "int8", "none")
DISTANCES = ("cosine", "dot", "euclid")
PLANES = {"one_bit": 1, "one_and_half_bits": 1.5, "two_bits": 2, "four_bits": 4}


def named(value):
    """An id for a parameter that is a way."""
    return "-".join([*value[:2], *["turned"] * bool(value[2])]) if isinstance(value, tuple) else None


def asked(way):
    """A way as keywords."""
    return dict(zip(("encoding", "estimator", "rotate"), way, strict=True))


def way_of(col):
    """How the codes of a collection are made."""
    used = col.info().quantization
    return used.encoding, used.estimator, used.rotate


def points(n, dim, places, shift=0.0, seed=0):
    """float32 (n, dim): every vector is one of a few places, so that codes that tell them apart find everything."""
    rng = np.random.default_rng(seed)
    where = rng.standard_normal((places, dim))
    return (where[rng.integers(0, places, n)] + shift).astype(np.float32)


# what "auto" makes of these: signs are enough; the mean is in their way; two bits are needed; nothing less than four
CHOSEN = {
    ("one_bit", "sign", False): points(2200, 96, 100),
    ("one_bit", "rabitq", False): points(2200, 96, 100, shift=3),
    ("two_bits", "rabitq", None): points(2200, 32, 100, shift=3, seed=2),
    ("four_bits", "rabitq", None): BASE[:2200],
}


def documents(col):
    """Everything a collection holds, as a dictionary; vectors as bytes."""
    ids = [record.id for record in col.scroll()]
    vectors = col.info().originals != "none"
    records = col.get(ids, with_vectors=vectors)
    return {r.id: (r.text, r.metadata, r.vector.tobytes() if vectors else None) for r in records}


def check_codes(col, vectors=None):
    """Every code is what the quantizer in use makes of its vector, bit for bit.

    vectors : by id, where codes were made of something else than what is kept
    """
    state = col._engine.publisher.current()
    if not len(col):
        return
    ids = [record.id for record in col.scroll()]
    if vectors is None:
        made_of = np.array([record.vector for record in col.get(ids, with_vectors=True)])
    else:
        made_of = np.array([vectors[id_] for id_ in ids])
    words = state.data.words[: state.n][state.live]
    np.testing.assert_array_equal(state.data.quantizer.encode(made_of), words)


def check_choice(col):
    """What was measured is plausible, and the reason is for people."""
    info = col.info()
    choice, used = info.choice, info.quantization
    assert (choice.k, choice.oversampling) == (10, 3.0) and choice.vectors >= 3 * choice.queries > 0
    words = used.encoding.replace("_", " ")
    assert words in choice.reason and used.estimator in choice.reason and len(choice.reason.split()) > 5
    for trial in choice.trials:
        assert "auto" not in astuple(trial.quantization) and trial.quantization.rotate is not None
        assert 0 <= trial.raw_recall <= trial.recall <= 1 and trial.nanoseconds > 0 and trial.code_bytes >= 8
    assert len({trial.quantization for trial in choice.trials}) == len(choice.trials)
    sizes = [trial.code_bytes for trial in choice.trials]
    assert sizes == sorted(sizes) or info.dim < 64 or used.truncate_dim is not None  # of few bits, whole words count
    (own,) = [trial for trial in choice.trials if trial.quantization == used]
    assert own.code_bytes == info.code_bytes
    assert own.recall >= max(trial.recall for trial in choice.trials) - 0.01


pytestmark = pytest.mark.one_place


@pytest.fixture(params=["memory", "disk"])
def path(request, tmp_path):
    return None if request.param == "memory" else tmp_path / "store"


@pytest.fixture
def walk(monkeypatch):
    let_walk(monkeypatch)


def named_ids(start, stop):
    return [f"d{i}" for i in range(start, stop)]


def opened(path=None, **settings):
    return bqstore.open_flat(path, full_scan_threshold=0, **{"target_recall": 0, **settings})


# ---- what is chosen, and when


def test_few_vectors_stay_signs(path):
    with opened(path) as col:
        assert (col.info().quantization, col.info().choice) == (SIGNS, None)
        for at in range(0, ENOUGH - 1, 700):
            stop = min(at + 700, ENOUGH - 1)
            col.add(BASE[at:stop], named_ids(at, stop))
        info = col.info()
        assert (info.quantization, info.choice, info.generation, info.format_version) == (SIGNS, None, 0, 1)
        hits = col.search(QUERIES[0], 5, rescore=False, explain=True)
        assert hits.explanation.query_encoding == "binary"
        apart = np.sort(((BASE[: ENOUGH - 1] > 0) != (QUERIES[0] > 0)).sum(1))[:5]
        np.testing.assert_allclose([hit.score for hit in hits], 1 - 2 * apart / DIM, atol=1e-6)
        check_codes(col)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("n", [ENOUGH, 2600])
def test_a_first_add_that_is_large_enough_is_chosen_at_once(path, n):
    with opened(path) as col:
        col.add(BASE[:n], named_ids(0, n))
        info = col.info()
        assert info.generation == 0 and info.linked == n and info.format_version == 2
        assert (info.quantization.encoding, info.quantization.query_encoding) == ("four_bits", "scalar8bits")
        assert len(info.choice.trials) == len(WAYS) and info.choice.queries == 512
        assert info.choice.vectors == n - 512
        check_choice(col)
        check_codes(col)
        col.add(BASE[:5], named_ids(0, 5))
        assert col.info().generation == 0 and col.info().choice == info.choice
        check_codes(col)
        assert col.verify().ok


@pytest.mark.parametrize("expected", CHOSEN, ids=named)
def test_the_cheapest_that_finds_enough_is_chosen(expected):
    with opened(distance="dot" if expected[0] == "two_bits" else "cosine") as col:
        col.add(CHOSEN[expected], named_ids(0, 2200))
        encoding, estimator, rotate = way_of(col)
        assert (encoding, estimator) == expected[:2] and expected[2] in (None, rotate)
        check_choice(col)
        check_codes(col)
        assert col.info().quantization.query_encoding == ("scalar8bits" if encoding == "four_bits" else "scalar4bits")


@pytest.mark.sampled(3)
@pytest.mark.parametrize(
    ("settings", "trials"),
    [
        ({"estimator": "sign"}, SIGNED),
        ({"estimator": "rabitq"}, CORRECTED),
        ({"rotate": True}, [way for way in WAYS if way[2]]),
        ({"rotate": False}, [way for way in WAYS if not way[2]]),
        ({"encoding": "four_bits"}, CORRECTED[4:]),
        ({"query_encoding": "binary"}, WAYS),
        ({"query_encoding": "scalar8bits", "estimator": "sign"}, SIGNED),
    ],
    ids=str,
)
def test_what_is_given_is_not_open_to_choice(settings, trials):
    with opened(**settings) as col:
        col.add(BASE[:2200])
        found = [trial.quantization for trial in col.info().choice.trials]
        assert {(q.encoding, q.estimator, q.rotate) for q in found} == set(trials) and len(found) == len(trials)
        assert way_of(col) in trials
        query = settings.get("query_encoding")
        assert query is None or {q.query_encoding for q in found} == {query} == {col.info().quantization.query_encoding}
        col.add(BASE[2200:])
        assert col.info().generation == 0
        check_codes(col)


def test_growing_past_the_threshold_makes_all_codes_anew_once(path):
    known = {}

    def add(col, start, stop, replaced=0):
        ids = named_ids(start, stop - replaced) + named_ids(0, replaced)
        meta = [{"at": i, "m": i % 7} for i in range(start, stop)]
        col.add(BASE[start:stop], ids, [f"text {i}" for i in range(start, stop)], meta)
        known.update(
            {
                id_: (f"text {i}", {"at": i, "m": i % 7}, BASE[i].tobytes())
                for id_, i in zip(ids, range(start, stop), strict=True)
            }
        )

    with opened(path) as col:
        add(col, 0, 1200)
        add(col, 1200, 1700, replaced=100)
        col.delete(named_ids(200, 300))
        for i in range(200, 300):
            del known[f"d{i}"]
        col.update_metadata(["d400"], {"changed": 1})
        known["d400"] = (known["d400"][0], {**known["d400"][1], "changed": 1}, known["d400"][2])
        add(col, 1700, 2100)  # slots enough, documents not
        info = col.info()
        assert (info.count, info.deleted, info.quantization, info.generation) == (1900, 200, SIGNS, 0)
        assert documents(col) == known
        add(col, 2100, 2100 + ENOUGH - 1900 - 1)
        assert (col.info().quantization, len(col)) == (SIGNS, ENOUGH - 1)
        add(col, 2300, 2301)
        info = col.info()
        assert (info.count, info.deleted, info.generation, info.linked) == (ENOUGH, 0, 1, ENOUGH)
        assert info.quantization.encoding == "four_bits"
        check_choice(col)
        check_codes(col)
        assert documents(col) == known and col.count({"changed": 1}) == 1 and col.verify().ok
        ids, _ = col.search_ids(QUERIES, 10)
        truth, _ = col.search_ids(QUERIES, 10, exact=True)
        assert np.mean(ids == truth) > 0.95
        for at in range(2301, 2600, 100):
            add(col, at, min(at + 100, 2600))
        after = col.info()
        assert (after.generation, after.choice, after.quantization) == (1, info.choice, info.quantization)
        assert documents(col) == known
        check_codes(col)
        if path is not None:
            bins = {file.name for file in (path / "default").glob("*-*.bin")}
            assert {name.split("-")[1][0] for name in bins} == {"1"}


def test_deleting_below_the_threshold_changes_nothing(path):
    with opened(path) as col:
        col.add(BASE[:2100], named_ids(0, 2100))
        before = col.info()
        col.delete(named_ids(0, 2000))
        col.add(BASE[:10], named_ids(0, 10))
        assert (col.info().quantization, col.info().choice) == (before.quantization, before.choice)
        col.compact()
        info = col.info()
        assert (info.count, info.generation, info.choice) == (110, 1, before.choice)
        assert info.quantization == before.quantization
        check_codes(col)
        col.add(BASE[:2000], named_ids(0, 2000))
        assert (col.info().generation, col.info().choice) == (1, before.choice)
        check_codes(col)


def test_compacting_to_nothing_begins_anew(path):
    with opened(path) as col:
        col.add(BASE[:2100], named_ids(0, 2100))
        col.delete(named_ids(0, 2100))
        col.compact()
        assert (col.info().quantization, col.info().choice, len(col)) == (SIGNS, None, 0)
        col.add(BASE[:100])
        assert col.info().quantization == SIGNS
        check_codes(col)


def test_clearing_begins_anew(path):
    with opened(path) as col:
        col.add(BASE[:2100], named_ids(0, 2100))
        assert col.info().choice is not None
        col.clear()
        assert (col.info().quantization, col.info().choice, col.info().format_version) == (SIGNS, None, 1)
        col.add(BASE[:50], named_ids(0, 50))
        assert (col.info().quantization, col.info().choice) == (SIGNS, None)
        check_codes(col)
        col.clear()
        col.add(points(2100, DIM, 100, shift=5), named_ids(0, 2100))
        info = col.info()
        assert (info.quantization.estimator, info.generation) == ("rabitq", 2)
        check_choice(col)
        check_codes(col)
        col.clear()
    if path is not None:
        with opened(path) as col:
            assert (col.info().quantization, col.info().choice) == (SIGNS, None)
            col.add(BASE[:2100])
            assert col.info().quantization.encoding == "four_bits"
            check_codes(col)


def test_without_originals_a_small_first_batch_stays_signs_forever(path):
    with opened(path, originals="none") as col:
        for at in range(0, 2600, 650):
            col.add(BASE[at : at + 650], named_ids(at, at + 650))
        info = col.info()
        assert (info.quantization, info.choice, info.generation, info.count) == (SIGNS, None, 0, 2600)
        hits = col.search(QUERIES[0], 20)
        apart = np.sort(((BASE > 0) != (QUERIES[0] > 0)).sum(1))[:20]
        np.testing.assert_allclose([hit.score for hit in hits], 1 - 2 * apart / DIM, atol=1e-6)
        check_codes(col, dict(zip(named_ids(0, 2600), BASE, strict=True)))
        col.delete(named_ids(0, 100))
        col.compact()
        assert (col.info().quantization, len(col.search(QUERIES[0], 2600))) == (SIGNS, 2500)
        assert col.verify().ok
    if path is not None:
        with opened(path) as col:
            col.add(BASE[:100], named_ids(0, 100))
            assert (col.info().quantization, len(col)) == (SIGNS, 2600)


def test_without_originals_a_large_first_batch_is_chosen(path):
    with opened(path, originals="none") as col:
        col.add(BASE[:2100], named_ids(0, 2100))
        assert col.info().quantization.encoding == "four_bits" and col.info().generation == 0
        check_choice(col)
        col.add(BASE[2100:], named_ids(2100, 2600))
        check_codes(col, dict(zip(named_ids(0, 2600), BASE, strict=True)))
        col.delete(named_ids(0, 600))
        col.compact()
        check_codes(col, dict(zip(named_ids(0, 2600), BASE, strict=True)))
        truth = exact_scores(BASE[600:], QUERIES, "cosine")
        ids, scores = col.search_ids(QUERIES, 10)
        best = np.argsort(-truth, axis=1)[:, :10] + 600
        same = [len({int(id_[1:]) for id_ in row} & set(line)) for row, line in zip(ids, best.tolist(), strict=True)]
        assert np.mean(same) > 8 and np.abs(scores[:, 0] - truth.max(1)).max() < 0.1


@pytest.mark.sampled(2)
@pytest.mark.parametrize("originals", ["float32", "none"])
@pytest.mark.parametrize("settings", [{"encoding": "four_bits"}, {"encoding": "four_bits", "query_encoding": "binary"}])
def test_an_encoding_that_is_given_is_not_signs_however_few_come_first(settings, originals):
    """Whether four bits were turned was to be measured, and as long as it could not be, there was one bit."""
    with opened(originals=originals, **settings) as col:
        col.add(BASE[:100], named_ids(0, 100))
        assert col.info().quantization.encoding == "four_bits"
        col.add(BASE[100:], named_ids(100, 2600))
        assert col.info().quantization.encoding == "four_bits"


def test_an_error_while_choosing_is_a_warning_and_the_next_add_chooses(path, monkeypatch):
    with opened(path) as col:
        col.add(BASE[:2000], named_ids(0, 2000))
        with monkeypatch.context() as patch:

            def fail(*_):
                raise bqstore.StorageError("no space left")

            patch.setattr(Store, "begin_compaction", fail)
            with pytest.warns(RuntimeWarning, match="no space left") as told:
                assert col.add(BASE[2000:2100], named_ids(2000, 2100)) == named_ids(2000, 2100)
            assert told[0].filename == __file__
            assert (col.info().quantization, len(col)) == (SIGNS, 2100)
            check_codes(col)
        col.add(BASE[2100:2101], ["d2100"])
        assert (col.info().quantization.encoding, col.info().generation, len(col)) == ("four_bits", 1, 2101)
        check_codes(col)
        assert col.verify().ok


# ---- it lasts

OTHER_PROCESS = """
import sys, numpy as np, bqstore
from tests.engine.test_quantization import seen
for read_only in (True, False):
    with bqstore.open(sys.argv[1], read_only=read_only) as col:
        print(repr(seen(col)))
"""


def seen(col):
    """What a person sees of a collection's quantization, and what its searches find."""
    out = [repr((col.info().quantization, col.info().choice, col.info().format_version, col.info().generation))]
    for settings in ({}, {"rescore": False}, {"oversampling": 1.5}):
        ids, scores = col.search_ids(QUERIES, 10, **settings)
        out.append((ids.tolist(), scores.tolist()))
    return out


@pytest.mark.sampled(1)
@pytest.mark.parametrize("how", ["at once", "grown", "few", "given"])
def test_an_opening_finds_the_same(tmp_path, how):
    given = {"encoding": "two_bits", "estimator": "rabitq", "rotate": True} if how == "given" else {}
    with opened(tmp_path, **given) as col:
        n = 500 if how == "few" else 2300
        for at in range(0, n, 2300 if how == "at once" else 500):
            stop = min(n, at + (2300 if how == "at once" else 500))
            col.add(BASE[at:stop], named_ids(at, stop))
        before = seen(col)
        assert (col.info().choice is None) == (how in ("few", "given"))
        with bqstore.open(tmp_path, read_only=True) as reader:
            assert seen(reader) == before
    for settings in ({}, {"read_only": True}, {"threads": 1}, {"quantization": {"encoding": "auto"}}):
        with bqstore.open(tmp_path, **settings) as col:
            assert seen(col) == before
    if how in ("few", "at once"):
        return
    run = subprocess.run(
        [sys.executable, "-c", OTHER_PROCESS, str(tmp_path)],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout == (repr(before) + "\n") * 2


def test_a_reader_sees_the_choice_as_it_is_made(tmp_path):
    with opened(tmp_path) as col, opened(tmp_path, read_only=True) as reader:
        assert reader.info().quantization == SIGNS
        for at in range(0, 2600, 400):
            stop = min(at + 400, 2600)
            col.add(BASE[at:stop], named_ids(at, stop))
            assert seen(reader) == seen(col)
            check_codes(reader)
        assert reader.info().quantization.encoding == "four_bits" and reader.info().generation == 1
        col.clear()
        assert reader.info().quantization == SIGNS and reader.info().choice is None
        col.add(BASE[:2100])
        assert seen(reader) == seen(col)


# ---- every kind of code


def kept_by(originals, vectors):
    """How far what is kept of vectors may be off, in a part of their largest value."""
    return {"float32": 0, "float16": 1e-3, "int8": 5e-3}[originals] * np.abs(vectors).max()


def check_searches(col, base, distance, originals, way):
    """All that a search may be asked for, against what a dictionary and exact search say."""
    n, rng, kept = len(base), np.random.default_rng(0), originals != "none"
    queries = QUERIES[:6]
    some = {"m": 3}
    matching = {f"d{i}" for i in range(n) if i % 7 == 3}
    everything = set(named_ids(0, n))
    true = exact_scores(base, queries, distance)
    for k in (1, 10, n, min(n + 100, 10_000)):
        ids, scores = col.search_ids(queries, k)
        assert all(len({id_ for id_ in row if id_}) == min(k, n) for row in ids)
        good = scores[:, : min(k, n)]
        assert np.isfinite(good).all() and (np.diff(good, axis=1) <= 0).all() and np.isnan(scores[:, n:]).all()
        assert k < n or set(ids[0, :n]) == everything
        ids, _ = col.search_ids(queries, k, filter=some)
        assert all(len({id_ for id_ in row if id_}) == min(k, len(matching)) for row in ids)
        assert {id_ for id_ in ids.ravel() if id_} <= matching
    one = col.search_batch(queries, 10, threads=2)
    assert one == [col.search(query, 10) for query in queries]
    assert [[hit.id for hit in hits] for hits in one] == col.search_ids(queries, 10)[0].tolist()
    assert one[0][0].metadata["i"] == int(one[0][0].id[1:]) and one[0][0].text == f"text {one[0][0].id[1:]}"
    threshold = one[0][4].score
    above = col.search(queries[0], 10, score_threshold=threshold)
    assert above == [hit for hit in one[0] if hit.score >= threshold] and 5 <= len(above) <= 10
    plain_ids, plain = col.search_ids(queries, 10, rescore=False)
    assert np.isfinite(plain).all() and (np.diff(plain, axis=1) <= 0).all()
    if way[1] == "rabitq":
        check_estimates(col, true, way)
    if not kept:
        for settings in ({"exact": True}, {"rescore": True}, {"with_vectors": True}, {"ignore_quantization": True}):
            with pytest.raises(bqstore.InvalidInputError, match="originals"):
                col.search(queries[0], **settings)
        assert plain_ids.tolist() == [[hit.id for hit in hits] for hits in one]
        return
    exact_ids, exact = col.search_ids(queries, n, exact=True)
    off = kept_by(originals, base) * (4 * np.abs(queries).max() * DIM if distance == "dot" else 4)
    np.testing.assert_allclose(exact, -np.sort(-true, axis=1), rtol=1e-4, atol=max(off, 1e-4))
    for i, query in enumerate(queries):
        told = dict(zip(exact_ids[i], exact[i], strict=True))
        for settings in ({}, {"oversampling": 1}, {"oversampling": 20}, {"filter": some}, SCAN):
            hits = col.search(query, 15, explain=True, **settings)
            assert [hit.score for hit in hits] == pytest.approx([told[hit.id] for hit in hits], rel=1e-5, abs=1e-5)
            how = hits.explanation
            assert how.candidates <= n
            if "filter" in settings:  # more are read where the last ones brought hits, all where they do to the end
                assert how.way in ("scan", "walk", "exact") and 15 <= how.rescored <= how.accepted
                continue
            assert how.way in ("scan", "walk") and 15 <= how.rescored <= how.candidates
            assert way[1] == "rabitq" or how.rescored == min(how.candidates, how.accepted)
        np.testing.assert_allclose(col.search_ids(query, 10, oversampling=n)[1][0], exact[i, :10], rtol=1e-5, atol=1e-5)
    at = rng.integers(0, n, 3)
    for hit in col.search(base[at[0]], 3, with_vectors=True):
        np.testing.assert_allclose(hit.vector, base[int(hit.id[1:])], rtol=0, atol=kept_by(originals, base))


# of estimates for every vector: least correlation with the true scores, most error in their standard deviations
ESTIMATES = {"one_bit": (0.78, 0.62), "two_bits": (0.92, 0.32), "four_bits": (0.995, 0.07)}


def check_estimates(col, true, way):
    """Without rescoring, scores are estimates of the true ones."""
    n = true.shape[1]
    ids, scores = col.search_ids(QUERIES[: len(true)], n, rescore=False)
    for row, estimates, wanted in zip(ids, scores, true, strict=True):
        found = wanted[[int(id_[1:]) for id_ in row]]
        least, most = ESTIMATES[way[0]]
        assert np.corrcoef(found, estimates)[0, 1] >= least
        assert np.abs(found - estimates).mean() <= most * found.std()
        assert abs((found - estimates).mean()) <= 0.2 * most * found.std()


def build(base, way, originals, distance, path=None):
    """A collection, added to in batches; the first is the largest."""
    col = opened(path, originals=originals, distance=distance, threads=2, **asked(way))
    for at, stop in ((0, len(base) // 2), (len(base) // 2, len(base) - 40), (len(base) - 40, len(base))):
        meta = [{"i": i, "m": i % 7} for i in range(at, stop)]
        col.add(base[at:stop], named_ids(at, stop), [f"text {i}" for i in range(at, stop)], meta)
    return col


@pytest.mark.sampled(5)
@pytest.mark.parametrize("way", WAYS, ids=named)
@pytest.mark.parametrize("distance", DISTANCES)
def test_every_kind_of_code_of_a_few_documents(way, distance, tmp_path):
    for originals in ORIGINALS:
        base = BASE[:300]
        with build(base, way, originals, distance, tmp_path / originals if distance == "dot" else None) as col:
            info = col.info()
            query = "binary" if way[1] == "sign" else "scalar8bits" if way[0] == "four_bits" else "scalar4bits"
            assert info.quantization == Quantization(way[0], query, *way[1:])
            assert (info.choice, info.generation) == (None, 0)
            assert info.code_bytes == 8 * (np.ceil(PLANES[way[0]]) if way[1] == "rabitq" else 1) + 8 * (
                way[1] == "rabitq"
            )
            check_codes(col, dict(zip(named_ids(0, 300), base, strict=True)))
            check_searches(col, base, distance, originals, way)
            col.delete(named_ids(0, 20))
            assert len(col.search(QUERIES[0], 400)) == 280


LARGE = [
    (way, distance, ORIGINALS[(i + j) % 4])
    for (i, way), (j, distance) in product(enumerate(WAYS), enumerate(DISTANCES))
]


@pytest.mark.sampled(5)
@pytest.mark.parametrize(("way", "distance", "originals"), LARGE, ids=named)
def test_every_kind_of_code_of_a_graph(way, distance, originals, walk, monkeypatch):
    monkeypatch.setattr(graph_builder, "SMALLEST_GRAPH", 700)
    base = BASE[:1000]
    with build(base, way, originals, distance) as col:
        assert col.info().linked == 1000 and way_of(col) == way
        assert (col.info().generation, col.info().choice) == (0, None)
        check_codes(col, dict(zip(named_ids(0, 1000), base, strict=True)))
        check_searches(col, base, distance, originals, way)
        assert col.info().way == "walk"
        walked, scanned = (col.search_ids(QUERIES, 10, **how)[0] for how in ({}, SCAN))
        same = [len(set(one) & set(two)) / 10 for one, two in zip(walked, scanned, strict=True)]
        # of signs, ties are many, and which are met is chance
        assert np.mean(same) >= (0.5 if way[1] == "sign" else 0.9)
        assert col.verify().ok


@pytest.mark.sampled(3)
@pytest.mark.parametrize("way", CORRECTED[2:], ids=named)
@pytest.mark.parametrize("how", ["scan", "walk"])
def test_originals_that_cannot_be_hits_are_not_read(way, how, walk):
    with opened(**asked(way)) as col:
        col.add(BASE)
        settings = SCAN if how == "scan" else {"hnsw_ef": 300}
        read, candidates, wrong = 0, 0, 0
        for query in QUERIES:
            hits = col.search(query, 10, oversampling=20, explain=True, **settings)
            assert hits.explanation.way == how and hits.explanation.candidates == 200
            read, candidates = read + hits.explanation.rescored, candidates + 200
            most = col.search(query, 10, exact=True)
            wrong += len({hit.id for hit in most} - {hit.id for hit in hits})
        assert read < (0.5 if way[0] == "four_bits" else 0.95) * candidates and wrong <= 0.02 * 10 * len(QUERIES)


@pytest.mark.sampled(6)
@pytest.mark.parametrize(("encoding", "binary"), [("two_bits", 0.55), ("one_and_half_bits", 0.45)])
@pytest.mark.parametrize("query_encoding", ["binary", "scalar4bits", "scalar8bits"])
@pytest.mark.parametrize("scale", [0.01, 1.0, 30.0])
def test_under_cosine_the_lengths_of_vectors_change_nothing(encoding, binary, query_encoding, scale):
    """Codes were made of the vectors as they came, and of queries at unit length: recall was 1%."""
    base, queries = data_of(700, 64, queries=40)
    lengths = np.linalg.norm(base, axis=1, keepdims=True)
    found = []
    for vectors in (base / lengths, base * scale):
        with opened(encoding=encoding, query_encoding=query_encoding) as col:
            col.add(vectors, named_ids(0, 700))
            ids, _ = col.search_ids(queries, 10)
            truth, _ = col.search_ids(queries, 10, exact=True)
            found.append(np.mean([len(set(a) & set(b)) / 10 for a, b in zip(ids, truth, strict=True)]))
    assert found[0] >= binary and found[1] >= found[0] - 0.05


WRONG = [
    ({"encoding": "four_bits", "estimator": "sign"}, "four_bits.*rabitq"),
    ({"encoding": "one_and_half_bits", "estimator": "rabitq"}, "one_and_half_bits"),
    ({"rotate": True, "estimator": "sign"}, "rotate=True.*rabitq"),
    ({"rotate": True, "encoding": "one_and_half_bits"}, "rotate=True.*rabitq"),
    ({"encoding": "one_bits"}, "'one_bits'.*did you mean 'one_bit'"),
    ({"encoding": "two_bit"}, "did you mean 'two_bits'"),
    ({"encoding": "3"}, "'auto', 'one_bit'"),
    ({"encoding": None}, "encoding is None"),
    ({"encoding": 4}, "encoding is 4"),
    ({"estimator": "rabit"}, "did you mean 'rabitq'"),
    ({"estimator": "signs"}, "did you mean 'sign'"),
    ({"query_encoding": "scalar4bit"}, "did you mean 'scalar4bits'"),
    ({"query_encoding": "scalar"}, "query_encoding is 'scalar'"),
    ({"rotate": 1}, "rotate is 1"),
    ({"rotate": "yes"}, "rotate is 'yes'"),
    ({"encodings": "one_bit"}, "did you mean 'encoding'"),
    ({"rotated": True}, "did you mean 'rotate'"),
]


@pytest.mark.parametrize(("wrong", "told"), WRONG, ids=str)
def test_what_cannot_be_is_refused_before_anything_is_written(tmp_path, wrong, told):
    with pytest.raises(bqstore.InvalidInputError, match=told):
        Quantization(**wrong)
    with pytest.raises(bqstore.InvalidInputError, match=told):
        bqstore.open(tmp_path / "new", quantization=wrong)
    if None not in wrong.values():  # a keyword that is None is left out
        with pytest.raises(bqstore.InvalidInputError, match=told):
            bqstore.open_flat(tmp_path / "new", **wrong)
    assert not (tmp_path / "new").exists()
    with opened() as col:
        col.add(BASE[:100], named_ids(0, 100))
        before = col._engine.store.head
        with pytest.raises(bqstore.InvalidInputError, match=told):
            col.requantize(**wrong)
        assert col._engine.store.head == before and col.info().quantization == SIGNS


# ---- the same input, the same bytes


def bytes_of(path):
    """The records of the codes file, and what the codes were trained to."""
    with bqstore.open(path) as col:
        store = col._engine.store
        parameters = col._engine.publisher.current().data.quantizer.parameters.tobytes()
        (file,) = (path / "default").glob("codes-*.bin")
        start, size = store.codes.header_length, store.codes.layout.record_bytes
        graph = [array.tobytes() for name, array in col._engine.graph.builder.graph.parts()[1].items()]
        return parameters, file.read_bytes()[start : start + size * store.head.n_slots], graph


@pytest.mark.sampled(1)
@pytest.mark.parametrize("how", ["auto", "grown", *CORRECTED[::3], CORRECTED[4], SIGNED[2]], ids=named)
def test_the_same_input_gives_the_same_bytes_on_any_threads(tmp_path, how):
    base, found, results = clustered(2600 if how == "auto" else 2200, 40, seed=1), [], []
    settings = {} if isinstance(how, str) else asked(how)
    for number, threads in enumerate((1, 2)):
        path = tmp_path / str(number)
        with opened(path, threads=threads, **settings) as col:
            for at in range(0, len(base), 600 if how == "grown" else len(base)):
                stop = min(len(base), at + (600 if how == "grown" else len(base)))
                col.add(base[at:stop], named_ids(at, stop))
            ids, scores = col.search_ids(base[::50], 10, rescore=False)
            results.append((ids.tolist(), scores.tolist(), way_of(col)))
            assert col.info().generation == (how == "grown")
        found.append(bytes_of(path))
    assert results[0] == results[1] and found[0] == found[1]


# ---- threads


def run_all(*tasks):
    """Run the tasks at the same time; the first of their errors is raised."""
    errors, gate = [], threading.Barrier(len(tasks))

    def run(task):
        try:
            gate.wait()
            task()
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=run, args=(task,)) for task in tasks]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(HANGS)
    assert not any(thread.is_alive() for thread in threads)
    if errors:
        raise errors[0]


def adder(col, start, stop, step, base=BASE):
    """A task that adds documents in batches, and looks for each."""

    def add():
        for at in range(start, stop, step):
            upto = min(stop, at + step)
            assert col.add(base[at:upto], named_ids(at, upto)) == named_ids(at, upto)
            assert f"d{upto - 1}" in col
            (hit,) = col.search(base[at], 1, oversampling=30)
            assert (hit.id, hit.score) == (f"d{at}", pytest.approx(1, abs=1e-5))

    return add


@pytest.mark.sampled(1)
@pytest.mark.parametrize("step", [200, 37, 650])
def test_adding_from_threads_while_the_first_choice_is_made(path, step):
    """Wherever the threshold falls, every code is of the quantizer in use."""
    with opened(path) as col:
        run_all(*(adder(col, at, at + 650, step) for at in range(0, 2600, 650)))
        assert len(col) == 2600 and col.info().generation == 1 and col.info().deleted == 0
        check_choice(col)
        check_codes(col)
        assert documents(col) == {f"d{i}": (None, {}, BASE[i].tobytes()) for i in range(2600)}
        assert col.verify().ok
    if path is not None:
        with opened(path) as col:
            assert len(col) == 2600 and col.info().linked == 2600
            check_codes(col)


@pytest.mark.sampled(2)
@pytest.mark.parametrize("originals", ["float32", "none"])
@pytest.mark.parametrize("way", [None, ("one_bit", "rabitq", False), ("two_bits", "sign", False)], ids=named)
def test_several_threads_make_the_first_add(originals, way, path):
    """Which comes first is chance; its vectors settle what all others are encoded by."""
    settings = {} if way is None else asked(way)
    with opened(path, originals=originals, **settings) as col:
        run_all(
            lambda: col.add(BASE[:2100], named_ids(0, 2100)),
            lambda: col.add(BASE[2100:2300], named_ids(2100, 2300)),
            lambda: col.add(BASE[2300:], named_ids(2300, 2600)),
        )
        assert len(col) == 2600 and len(col.search(QUERIES[0], 3000)) == 2600
        if originals == "none":
            check_codes(col, dict(zip(named_ids(0, 2600), BASE, strict=True)))
            assert way is not None or way_of(col) in (SIGNED[0], CORRECTED[4], CORRECTED[5])
        else:
            check_codes(col)
            assert way_of(col) == way if way else col.info().quantization.encoding == "four_bits"
        assert col.verify().ok


def test_clearing_and_adding_from_threads(path):
    """What was encoded for a generation that is gone is encoded again."""
    with opened(path, encoding="two_bits", estimator="rabitq") as col:

        def clear():
            for _ in range(12):
                col.clear()

        def add(start):
            for i in range(12):
                ids = named_ids(start + 10 * i, start + 10 * i + 10)
                col.add(BASE[start + 10 * i : start + 10 * i + 10] * (1 + i), ids)

        run_all(clear, lambda: add(0), lambda: add(300), lambda: add(600))
        check_codes(col)
        assert col.verify().ok
        col.add(BASE[:1500])
        check_codes(col)


# ---- vectors of every kind

_PLAIN = clustered(ENOUGH, 32)
_MIXED = np.where(np.arange(ENOUGH) % 2, 1e-14, 1e16)[:, None]
HOSTILE = {
    "equal": np.full((ENOUGH, 32), 0.3, np.float32),
    "zero": np.zeros((ENOUGH, 32), np.float32),
    "mostly zero": np.where(np.arange(ENOUGH)[:, None] % 400, np.float32(0), _PLAIN),
    "one-hot": np.eye(32, dtype=np.float32)[np.random.default_rng(0).integers(0, 32, ENOUGH)],
    "tiny": _PLAIN * np.float32(1e-14),
    "huge": _PLAIN * np.float32(1e17 / np.abs(_PLAIN).max()),
    "tiny and huge": (_PLAIN * _MIXED).astype(np.float32),
    "half of them equal": np.where(np.arange(ENOUGH)[:, None] % 2, _PLAIN[0], _PLAIN),
    "far": _PLAIN + np.float32(100),
    **{f"dim {dim}": clustered(ENOUGH, dim) for dim in (1, 2, 3, 5)},
}


def found_of(base, distance, settings):
    """Recall after rescoring at oversampling 4, any of equal scores as good as another; all scores are finite."""
    queries = base[:: len(base) // 44]
    with opened(distance=distance, **settings) as col:
        col.add(base, named_ids(0, len(base)))
        for rescore in (True, False):
            ids, scores = col.search_ids(queries, 10, rescore=rescore)
            assert np.isfinite(scores).all() and all(len(set(row)) == 10 for row in ids.tolist())
        assert len(col.search(queries[0], len(base), rescore=False)) == len(base)
        truth = col.search_ids(queries, 10, exact=True)[1]
        scores = col.search_ids(queries, 10, oversampling=4)[1]
        assert np.isfinite(truth).all() and np.isfinite(scores).all()
        check_codes(col)
        return float(np.mean(scores >= truth[:, 9:]))


@pytest.mark.sampled(1)
@pytest.mark.parametrize("distance", DISTANCES)
@pytest.mark.parametrize("kind", HOSTILE)
def test_vectors_of_every_kind_are_found_no_worse_than_by_their_signs(kind, distance):
    base = HOSTILE[kind]
    assert found_of(base, distance, {}) >= found_of(base, distance, {"encoding": "one_bit"}) - 0.02
    base = base[:700]  # of which there is no graph
    signs = found_of(base, distance, {"encoding": "one_bit"})
    # a mean that is longer than a vector by 30 digits leaves nothing of it; of two dimensions there are four codes
    # of one bit, and which of equals is met is chance
    hopeless = kind == "tiny and huge" and distance != "cosine"
    for way in (*CORRECTED[:2], CORRECTED[3], CORRECTED[4]):
        recall = found_of(base, distance, asked(way))
        if not hopeless and (base.shape[1] > 5 or way[0] == "four_bits"):
            assert recall >= signs - 0.02, (way, recall, signs)


@pytest.mark.parametrize("kind", ["equal", "tiny", "huge", "far"])
def test_originals_in_fewer_bytes_of_vectors_of_every_kind(kind):
    for originals, distance in product(("int8", "float16", "none"), ("dot", "euclid")):
        if originals == "float16" and kind in ("huge", "tiny"):
            continue
        with opened(originals=originals, distance=distance) as col:
            col.add(HOSTILE[kind][:500])
            ids, scores = col.search_ids(HOSTILE[kind][:20], 10)
            assert np.isfinite(scores).all() and all(len(set(row)) == 10 for row in ids.tolist())
            if originals != "none":
                col.requantize(encoding="two_bits", estimator="rabitq")
                assert np.isfinite(col.search_ids(HOSTILE[kind][:20], 10)[1]).all()
                check_codes(col)


@pytest.mark.sampled(1)
@pytest.mark.parametrize("distance", DISTANCES)
def test_the_largest_dimension(distance):
    base, queries = clustered(60, 16_384), clustered(2, 16_384, seed=1)
    for way in WAYS:
        with opened(distance=distance, **asked(way)) as col:
            col.add(base, named_ids(0, 60))
            (hit, *_) = col.search(base[7], 3, oversampling=20)
            assert hit.id == ("d7" if distance != "dot" else col.search(base[7], 1, exact=True)[0].id)
            ids, scores = col.search_ids(queries, 60, rescore=False)
            assert np.isfinite(scores).all() and len(set(ids[0])) == 60
            if way[1] == "rabitq":
                true = exact_scores(base[[int(id_[1:]) for id_ in ids[0]]], queries[:1], distance)
                assert np.corrcoef(scores[0], true[0])[0, 1] > 0.75
            check_codes(col)


def test_a_graph_of_one_place_is_a_graph():
    """Thousands of equal vectors have equal codes; all the others are found among them."""
    base = clustered(5000, 32)
    base[:2500] = base[0]
    with opened(encoding="one_bit", estimator="rabitq") as col:
        col.add(base, named_ids(0, 5000))
        ids, _ = col.search_ids(base[2500::50], 1, oversampling=10)
        assert ids[:, 0].tolist() == [f"d{i}" for i in range(2500, 5000, 50)]
        assert col.info().linked == 5000 and isinstance(col._engine.graph.builder.graph, HnswGraph)
        assert len(col.search(base[0], 4000)) == 4000
