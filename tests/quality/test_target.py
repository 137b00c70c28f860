"""The target recall: what is measured, where it is kept, what searches make of it, and the watch over them."""

import itertools
import json
import logging
import os
import signal
import threading
import time
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

import bqstore
from bqstore.config import Quantization
from bqstore.engine import choose_encoding, encoder
from bqstore.engine.graph_builder import GraphBuilder
from bqstore.engine.options import Asked
from bqstore.engine.prepared_search import unfiltered
from bqstore.engine.search import prepared
from bqstore.engine.target import FEWEST_CHECKED, RUNGS, Calibration, Promise, Rung, calibration_of, resolve
from bqstore.quality import keeper as keeping
from bqstore.quality.calibrate import calibrate
from bqstore.quality.keeper import RecallKeeper
from bqstore.storage.lock import WriterLock
from tests.adversarial.generators import topics
from tests.conftest import HANGS, often, wait_until
from tests.engine.given import BITS

N, DIM = 6000, 64
ONE_BIT = {"encoding": "one_bit", "estimator": "rabitq"}


@pytest.fixture(scope="module")
def catalogue():
    return topics(1, 40)(np.random.default_rng(0), N, DIM)


@pytest.fixture(scope="module")
def made(tmp_path_factory, catalogue):
    """A store that was filled and measured."""
    path = tmp_path_factory.mktemp("store")
    with bqstore.open(path, hnsw=BITS, quantization=ONE_BIT) as col:
        fill(col, catalogue[0])
        col.flush()
    return path


def fill(col, vectors, start=0):
    col.add(vectors, [str(start + i) for i in range(len(vectors))])


def explained(col, query, **settings):
    return col.search(query, explain=True, **settings).explanation


def keeper_of(col) -> RecallKeeper:
    keeper = col._engine.core.keeper
    assert isinstance(keeper, RecallKeeper)
    return keeper


def wait(col):
    thread = keeper_of(col)._thread
    if thread is not None:
        thread.join(HANGS)
        assert not thread.is_alive()


# ---- what a calibration says


def ladder(*recalls, documents=1000, extra=0, filtered=0):
    rungs = tuple(Rung(*rung, recall, recall, recall) for rung, recall in zip(RUNGS, recalls, strict=False))
    return Calibration(documents, 100, rungs, extra, filtered)


RISING = [0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.93, 0.97, 0.99]


def test_the_first_rung_that_is_enough_is_taken():
    params, promise = resolve(ladder(*RISING), 0.95, 10, False, 400)
    assert (params.oversampling, params.hnsw_ef) == (6.4, None) and promise == Promise(6.4, 1000, 1.0)
    params, _ = resolve(ladder(*RISING), 0.9, 10, False, 400)
    assert params.oversampling == 5.0  # .90 measured is not surely .90
    params, _ = resolve(ladder(0.99, 1.0), 0.9, 10, False, 400)
    assert (params.oversampling, params.hnsw_ef) == (3.0, None)  # never below the defaults
    params, _ = resolve(ladder(0.99, 1.0), 0.9, 10, True, 400)
    assert (params.oversampling, params.hnsw_ef) == (1.0, 16)  # unless it was asked for
    params, _ = resolve(ladder(0.99, 1.0), 0.9, 100, True, 400)
    assert (params.oversampling, params.hnsw_ef) == (1.0, 160)
    params, _ = resolve(ladder(*RISING), 0.95, 2, False, 400)
    assert params.oversampling == 32.0  # as many candidates as for ten


def test_where_no_rung_is_enough_searches_are_exact_if_that_is_not_too_long():
    assert resolve(ladder(*RISING), 0.995, 10, False, 400)[1] is None
    params, promise = resolve(ladder(*RISING, documents=10**7), 0.995, 10, False, 400)
    assert promise is not None and params.oversampling == RUNGS[-1][0]


def test_candidates_grow_with_the_collection_until_it_is_measured_again():
    """Of topics, 15,000 documents were measured, and at 20,000 recall was .92 for .96."""
    _, promise = resolve(ladder(*RISING), 0.95, 10, False, 400)
    assert promise.oversampling_of(500, False) == 6.4
    assert promise.oversampling_of(1500, False) == pytest.approx(9.6)


def test_extra_rungs_are_added():
    assert resolve(ladder(*RISING, extra=1), 0.95, 10, False, 400)[0].oversampling == 8.0
    _, promise = resolve(ladder(*RISING, filtered=2), 0.95, 10, False, 400)
    assert promise.oversampling_of(1000, True) == pytest.approx(10.0)
    assert resolve(ladder(*RISING, extra=100), 0.95, 10, False, 400)[1] is None


@pytest.mark.parametrize(
    "wrong",
    [
        {"documents": 0},
        {"documents": "many"},
        {"documents": 10**400},
        {"extra": -1},
        {"filtered": None},
        {"written": True},
        {"rungs": []},
        {"rungs": 3},
        {"rungs": [[1.0, 16, 0.9, 0.8]]},
        {"rungs": [[1.0, 16, "high", 0.8, 1.0]]},
        {"rungs": [[7.0, 16, 0.9, 0.8, 1.0]]},
        {"rungs": [[1.0, 16, 10**400, 0.8, 1.0]]},
        {"unheard of": 1},
    ],
)
def test_what_another_release_may_have_stored_is_measured_anew(wrong):
    assert calibration_of({"calibration": {**ladder(*RISING).stored(), **wrong}}) is None
    assert calibration_of({"calibration": [1]}) is None


def test_it_is_stored_and_read_as_it_was():
    calibration = ladder(*RISING, extra=2, filtered=1)
    stored = json.loads(json.dumps(calibration.stored()))
    assert calibration_of({"calibration": stored}) == calibration
    assert calibration_of({}) is None


# ---- in a collection


def test_recall_on_a_catalogue_was_what_three_times_the_candidates_find(made, catalogue):
    vectors, queries = catalogue
    with bqstore.open(made) as col:
        health = col.health()
        assert health.ok and health.documents == N and health.measured.recall >= 0.95
        got = explained(col, queries[0])
        assert got.candidates > 30 and got.candidates == round(10 * col.info().search.oversampling)
        truth = np.argsort(-(queries @ vectors.T), axis=1)[:, :10].astype(str)

        def found(**settings):
            ids, _ = col.search_ids(queries, 10, **settings)
            return np.mean([len(set(a) & set(b)) / 10 for a, b in zip(ids.tolist(), truth.tolist(), strict=True)])

        assert found(oversampling=3.0) < 0.9
        assert found() >= 0.94
        assert found(target_recall=0.99) >= 0.98
        assert explained(col, queries[0], target_recall=0.8).candidates < got.candidates


def test_an_opening_may_have_a_target_of_its_own(made, catalogue):
    query = catalogue[1][0]
    with (
        bqstore.open(made) as col,
        bqstore.open(made, target_recall=0.8) as low,
        bqstore.open(made, target_recall=0) as off,
    ):
        assert explained(low, query).candidates < explained(col, query).candidates
        assert explained(off, query).candidates == 30 and off.health().target == 0
        assert low.health().target == 0.8


@pytest.mark.slow
def test_an_opening_that_promised_nothing_was_measured_and_one_that_did_was_not(tmp_path, catalogue):
    """The stored target decided, whatever the opening said."""
    with bqstore.open(tmp_path, hnsw=BITS, quantization=ONE_BIT, target_recall=0.9):
        pass
    with bqstore.open(tmp_path, target_recall=0) as col:
        fill(col, catalogue[0])
        col.flush()
        assert "calibration" not in col._engine.store.head.settings
    with bqstore.open(tmp_path, "other", hnsw=BITS, quantization=ONE_BIT, target_recall=0) as col:
        fill(col, catalogue[0])
        col.flush()
        assert "calibration" not in col._engine.store.head.settings
    with bqstore.open(tmp_path, "other", target_recall=0.9) as col:
        col.flush()
        assert col.health().measured.recall >= 0.9


def test_what_is_given_goes_before(made, catalogue):
    query = catalogue[1][0]
    with bqstore.open(made) as col:
        assert explained(col, query, oversampling=2).candidates == 20
        with pytest.raises(bqstore.InvalidInputError, match="target_recall is given with oversampling"):
            col.search(query, target_recall=0.9, oversampling=2)
    with bqstore.open(made, search={"oversampling": 2}) as col:
        assert explained(col, query).candidates == 20
        assert explained(col, query, target_recall=0.95).candidates > 20


@pytest.mark.parametrize("value", [-0.1, 1, 1.5, float("nan"), "high", True])
def test_targets_that_cannot_be(made, value):
    with pytest.raises(bqstore.InvalidInputError, match="target_recall"):
        bqstore.open(None, target_recall=value)


@pytest.mark.slow
def test_a_tuned_collection_keeps_what_was_tuned(tmp_path, catalogue):
    with bqstore.open(tmp_path, hnsw=BITS, quantization=ONE_BIT) as col:
        fill(col, catalogue[0])
        params = col.tune(0.9)
        col.flush()
        assert explained(col, catalogue[1][0]).candidates == -(-10 * params.oversampling // 1)


def test_codes_made_anew_are_measured_anew(tmp_path, catalogue):
    with bqstore.open(tmp_path, hnsw=BITS, quantization={"encoding": "one_bit"}) as col:
        fill(col, catalogue[0])
        col.flush()
        before = col.health().measured
        col.requantize(encoding="four_bits")
        col.flush()
        assert col._engine.store.head.settings["calibration"]["documents"] == N
        assert col.health().measured.recall >= before.recall
        assert col.info().search.oversampling == 3.0
        col.clear()
        assert col.health().measured is None


def test_codes_of_many_documents_that_find_too_little_were_kept(catalogue, monkeypatch):
    """Of more than 100,000: they are made anew, too. Their graph is linked after the commit, and measured then."""
    real, chosen = choose_encoding._best, []

    def signs_at_first(choice):
        chosen.append(choice)
        return Quantization("one_bit", "scalar4bits", "sign", False) if len(chosen) == 1 else real(choice)

    monkeypatch.setattr(choose_encoding, "_best", signs_at_first)
    monkeypatch.setattr(encoder, "_LINKED_AT_ONCE", N - 1)
    monkeypatch.setattr(keeping, "_DEAR", 0)  # whatever searches need
    monkeypatch.setattr(GraphBuilder, "graph_of", lambda *given: pytest.fail("linked while others wait"))
    with bqstore.open(hnsw=BITS) as col:
        fill(col, catalogue[0])
        col.flush()
        data, settings = col._engine.core.publisher.state.data, col._engine.store.head.settings
        assert len(chosen) == 2 and col.info().quantization.estimator == "rabitq"
        assert settings["calibration"]["documents"] == N and data.linked == N and col.health().ok
        assert col.search_ids(catalogue[0][:20], 1)[0][:, 0].tolist() == [str(i) for i in range(20)]


def test_a_flush_waited_for_as_long_as_others_added(made, monkeypatch):
    """Where codes were chosen again: it waits until what was there then is linked."""
    with bqstore.open(made) as col:
        monkeypatch.setattr(GraphBuilder, "at_work", property(lambda self: True))
        waiting = threading.Thread(target=keeper_of(col)._until_linked, daemon=True)
        waiting.start()
        waiting.join(HANGS)
        hung = waiting.is_alive()
        monkeypatch.undo()
        assert not hung


def test_a_kill_before_codes_were_chosen_again_kept_the_old_ones_until_the_collection_had_doubled(made, monkeypatch):
    stored = []
    with bqstore.open(made) as col:
        keeper, core = keeper_of(col), col._engine.core
        monkeypatch.setattr(
            keeper, "_try_other_codes", lambda *given: stored.append(core.store.head.settings.get("calibration"))
        )
        col.requantize(encoding="one_bit", estimator="sign")
        col.flush()
        assert stored == [None] and core.store.head.settings["calibration"]["documents"] == N
        assert core.unstored is None


def test_after_ctrl_c_in_a_flush_the_next_ones_returned_at_once(tmp_path, catalogue, monkeypatch):
    """Up to Python 3.12 a thread whose join is interrupted counts as dead."""
    begun, go_on = threading.Event(), threading.Event()

    def slow(*given):
        begun.set()
        assert go_on.wait(HANGS)
        return calibrate(*given)

    monkeypatch.setattr(keeping, "calibrate", slow)
    with bqstore.open(tmp_path, hnsw=BITS, quantization=ONE_BIT) as col:
        fill(col, catalogue[0])
        assert begun.wait(HANGS)
        threading.Timer(0.2, os.kill, (os.getpid(), signal.SIGINT)).start()
        with pytest.raises(KeyboardInterrupt):
            col.flush()
        assert keeper_of(col)._is_at_work
        threading.Timer(0.2, go_on.set).start()
        col.flush()
        assert col._engine.store.head.settings["calibration"]["documents"] == N


@pytest.mark.parametrize(("documents", "again"), [(300_000, 1), (3_000_000, 0)])
def test_codes_are_made_anew_unasked_where_that_takes_seconds(made, monkeypatch, documents, again):
    asked = []
    with bqstore.open(made) as col:
        core, keeper = col._engine.core, keeper_of(col)
        monkeypatch.setattr(core.encoder, "choose_again", lambda: asked.append(1))
        keeper._try_other_codes(ladder(0.3, documents=documents), 0.95)
    assert len(asked) == again


def test_a_reader_measures_for_itself_what_nobody_has(tmp_path, catalogue, monkeypatch):
    with bqstore.open(tmp_path, hnsw=BITS, quantization=ONE_BIT, target_recall=0) as col:
        fill(col, catalogue[0])
        col.flush()
        assert col.health().measured is None
        settings = {**col._engine.store.head.settings, "target_recall": 0.95}
        col._engine.write(lambda: col._engine.store.put_settings(settings, DIM))
        col._engine.core.keeper.stop()
    with bqstore.open(tmp_path, read_only=True) as col:
        col.search(catalogue[1][0])
        keeper_of(col).settle(0.95, 0)
        assert explained(col, catalogue[1][0]).candidates > 30 and col.health().measured.recall >= 0.95
        assert "calibration" not in col._engine.store.head.settings


@pytest.mark.slow
def test_what_a_reader_had_measured_stayed_when_codes_were_made_anew(tmp_path, catalogue):
    with bqstore.open(tmp_path, hnsw=BITS, quantization=ONE_BIT, target_recall=0) as col:
        fill(col, catalogue[0])
        col.flush()
        with bqstore.open(tmp_path, read_only=True, target_recall=0.95) as reader:
            keeper_of(reader).settle(0.95, 0)
            assert explained(reader, catalogue[1][0]).candidates > 30
            col.requantize(encoding="four_bits")
            assert explained(reader, catalogue[1][0]).candidates == 30 and reader.health().measured is None
            reader._engine.graph.settle()
            keeper_of(reader).settle(0.95, 0)
            assert reader.health().measured.recall >= 0.95


@pytest.mark.slow
def test_a_collection_that_was_replaced_was_not_measured_again(tmp_path, catalogue):
    """As many documents as before, all of another kind."""
    vectors, queries = catalogue
    with bqstore.open(tmp_path, hnsw=BITS, quantization=ONE_BIT) as col:
        fill(col, np.random.default_rng(0).standard_normal((N, DIM)).astype(np.float32))
        col.flush()
        before = keeper_of(col).calibration
        fill(col, vectors)
        col.flush()
        assert len(col) == N and keeper_of(col).calibration.rungs != before.rungs
        ids, _ = col.search_ids(queries, 10)
        truth = np.argsort(-(queries @ vectors.T), axis=1)[:, :10].astype(str)
        assert np.mean([len(set(a) & set(b)) / 10 for a, b in zip(ids.tolist(), truth.tolist(), strict=True)]) >= 0.94


def test_another_process_takes_over_what_was_measured(made, catalogue):
    """Settings are followed as every commit is: here by a second opening that reads alone."""
    with bqstore.open(made) as col, bqstore.open(made, read_only=True) as reader:
        assert explained(reader, catalogue[1][0]).candidates == explained(col, catalogue[1][0]).candidates > 30


def test_a_high_target_was_measured_no_further_than_a_low_one(tmp_path, catalogue):
    """It then looked as if no setting reached it, and searches were exact."""
    with bqstore.open(tmp_path, hnsw=BITS, quantization=ONE_BIT, target_recall=0.998) as col:
        fill(col, catalogue[0])
        col.flush()
        assert max(rung.recall for rung in keeper_of(col).calibration.rungs) >= 0.9984
        assert col.health().ok and explained(col, catalogue[1][0]).way != "exact"


def test_one_process_measures_for_all(tmp_path, catalogue, monkeypatch):
    """Sixteen workers would each measure the same collection when it has doubled."""
    measured = []
    monkeypatch.setattr(keeping, "calibrate", lambda *arguments: measured.append(1) or calibrate(*arguments))
    with bqstore.open(tmp_path, hnsw=BITS, quantization=ONE_BIT) as col:
        col.add(catalogue[0][:10])
        other = WriterLock(tmp_path / "default" / "MEASURE")
        with other.open() as file:
            other.wait(file, 0)
            fill(col, catalogue[0])
            wait(col)
            assert not measured and col.health().measured is None
        col.flush()
        assert measured == [1] and col.health().measured is not None


def test_closing_does_not_wait_for_a_measurement(tmp_path, catalogue, monkeypatch):
    begun = threading.Event()

    def forever(state, check, target):
        begun.set()
        while True:
            check()
            time.sleep(0.001)

    monkeypatch.setattr(keeping, "calibrate", forever)
    with bqstore.open(tmp_path, hnsw=BITS, quantization=ONE_BIT) as col:
        fill(col, catalogue[0])
        assert begun.wait(HANGS)
        assert str(col.health()) == "unknown: the target recall is 0.95; not measured yet: flush() waits until it is"
        keeper_of(col)._left = 1  # a search that is due to be checked meanwhile is not
        assert len(col.search(catalogue[1][0])) == 10 and keeper_of(col)._left > 1
    with bqstore.open(tmp_path) as col:
        assert len(col) == N and col.verify().ok and col.health().measured is None


def test_signs_of_queries_were_promised_what_more_bits_of_them_find(tmp_path, catalogue):
    """The stored encoding of queries was not that of the measurement: .84 were found, .96 said to be."""
    vectors, queries = catalogue
    with bqstore.open(tmp_path, hnsw=BITS, quantization={**ONE_BIT, "query_encoding": "binary"}) as col:
        fill(col, vectors)
        col.flush()
        ids, _ = col.search_ids(queries, 10)
        truth = np.argsort(-(queries @ vectors.T), axis=1)[:, :10].astype(str)
        assert np.mean([len(set(a) & set(b)) / 10 for a, b in zip(ids.tolist(), truth.tolist(), strict=True)]) >= 0.94
    with bqstore.open(tmp_path, quantization={"query_encoding": "scalar8bits"}) as col:  # a setting that was given
        assert explained(col, queries[0]).candidates == 30


def test_two_thousand_long_vectors_were_never_measured():
    """Too few for a graph, and too large for exact search: .69 were found, and nothing was said."""
    vectors, queries = topics(1, 20)(np.random.default_rng(0), 1500, 1792)
    with bqstore.open(None) as col:
        fill(col, vectors)
        col.flush()
        assert col.info().way == "scan" and col.health().measured.recall >= 0.95
        ids, _ = col.search_ids(queries, 10)
        truth = np.argsort(-(queries @ vectors.T), axis=1)[:, :10].astype(str)
        assert np.mean([len(set(a) & set(b)) / 10 for a, b in zip(ids.tolist(), truth.tolist(), strict=True)]) >= 0.94


def test_of_exact_searches_what_codes_had_found_was_said_to_be_measured():
    """Two halves of very different density: .53 was read as what searches find, and they find all."""
    found, problem = bqstore.RecallEstimate(0.528, 0.465, 0.59, 256), "no setting of these codes reaches it"
    exact = str(bqstore.Health(False, 0.95, found, 50_000, {}, (problem,), "exact"))
    assert exact == (
        "unhealthy: the target recall is 0.95; searches are exact, as by codes they found 0.528 [0.465, 0.590]\n"
        "no setting of these codes reaches it"
    )
    shrunk = bqstore.Health(True, 0.95, bqstore.RecallEstimate(0.99, 0.98, 1.0, 256), 50_000, {}, (), "exact")
    assert str(shrunk) == "healthy: the target recall is 0.95; searches are exact"
    walked = str(bqstore.Health(False, 0.95, found, 50_000, {}, (problem,), "walk"))
    assert "measured 0.528 [0.465, 0.590]" in walked and "exact" not in walked


def test_without_originals_searches_were_said_to_be_exact():
    with bqstore.open(None, hnsw=BITS, originals="none") as col:
        fill(col, np.eye(8, dtype=np.float32))
        health = col.health()
        assert not health.ok and health.measured is None and "no originals are kept" in health.problems[0]
        assert "exact" not in str(health)
    with bqstore.open(None, originals="none", target_recall=0) as col:
        assert col.health().ok


@pytest.mark.parametrize("target", ["high", None, True, -1, 1.5, [0.9]])
def test_a_stored_target_that_cannot_be_raised_a_foreign_error(tmp_path, target):
    with bqstore.open(tmp_path) as col:
        col.add([[1.0, 0.0]])
        settings = {**col._engine.store.head.settings, "target_recall": target}
        with pytest.raises(bqstore.CorruptionError, match="settings"):
            col._engine.write(lambda: col._engine.store.put_settings(settings, 2))
    with pytest.raises(bqstore.CorruptionError, match="settings"):
        bqstore.open(tmp_path)


# ---- the watch


def test_closing_waited_until_a_checked_search_had_read_all_originals(tmp_path, catalogue, monkeypatch):
    begun, release = threading.Event(), threading.Event()
    whole = keeping.exact_search

    def piece_by_piece(*args):
        args = list(args)
        go_on = args[5]

        def check():
            begun.set()
            release.wait(HANGS)
            go_on()
            raise AssertionError("it goes on")

        args[5] = check
        return whole(*args)

    monkeypatch.setattr(keeping, "exact_search", piece_by_piece)
    col = bqstore.open(tmp_path, hnsw=BITS, quantization=ONE_BIT)
    fill(col, catalogue[0])
    col.flush()
    keeper = keeper_of(col)
    keeper._left, keeper._next_check = 1, 0.0
    col.search(catalogue[1][0])
    assert begun.wait(HANGS)
    closing = threading.Thread(target=col.close)
    closing.start()
    wait_until(keeper._stop.is_set)
    release.set()
    closing.join(HANGS)
    assert not closing.is_alive() and not keeper._is_at_work and col._engine.closed


def test_a_handler_that_searches_while_a_thread_starts_made_one_that_nobody_waited_for(made, catalogue, monkeypatch):
    started = []

    class Starting(threading.Thread):
        def start(self):
            started.append(self)
            if len(started) == 1:
                keeper._left = 1
                col.search(catalogue[1][0])  # as a handler would
            super().start()

    with bqstore.open(made) as col:
        keeper = keeper_of(col)
        monkeypatch.setattr(keeping.threading, "Thread", Starting)
        keeper._left, keeper._next_check = 1, 0.0
        col.search(catalogue[1][0])
        assert len(started) == 1
        wait(col)


def test_nothing_was_watched_after_a_close_that_did_not_come_to_pass(made, catalogue):
    with bqstore.open(made) as col:
        keeper_of(col).stop()  # as when a Ctrl-C comes while the graph is saved, or another thread opens it meanwhile
        searched(col, catalogue[1], 1)
        assert col.health().searches


def searched(col, queries, times, **settings):
    """Search, and check each of the searches."""
    keeper = keeper_of(col)
    for i in range(times):
        keeper._left, keeper._next_check = 1, 0.0
        col.search(queries[i % len(queries)], **settings)
        wait(col)


def test_searches_that_find_too_little_are_noticed_and_widened(tmp_path, catalogue, caplog):
    """Queries unlike the documents: what was measured on those said that all was well."""
    with bqstore.open(tmp_path, hnsw=BITS, quantization=ONE_BIT) as col:
        fill(col, catalogue[0])
        col.flush()
        core, queries = col._engine.core, catalogue[1]
        good = keeper_of(col).calibration
        wrong = replace(good, rungs=tuple(rung._replace(recall=0.99) for rung in good.rungs))
        keeper_of(col)._keep(wrong, core.publisher.state)
        assert explained(col, queries[0]).candidates == 30
        with caplog.at_level(logging.WARNING, "bqstore"):
            searched(col, queries, 31)
        assert "less than the target recall of 0.95" in caplog.text and len(caplog.records) == 1
        assert keeper_of(col).calibration.extra == 1
        assert explained(col, queries[0]).candidates == 40  # one setting more than the defaults, not than was enough
        searched(col, queries, 35)
        assert explained(col, queries[0]).candidates == 50 and len(caplog.records) == 1
        keeper_of(col)._keep(good, core.publisher.state)
        searched(col, queries, 10)
        (kind, seen), *_ = col.health().searches.items()
        assert kind in ("scan", "walk") and seen.recall > 0.9


def test_searches_under_a_filter_are_watched_apart(tmp_path, catalogue):
    with bqstore.open(tmp_path, hnsw=BITS, quantization=ONE_BIT) as col:
        col.add(catalogue[0], metadatas=[{"even": i % 2 == 0} for i in range(N)])
        col.flush()
        keeper = keeper_of(col)
        keeper._left, keeper._next_check = 1, 0.0
        col.search(catalogue[1][0], filter={"even": True})
        wait(col)
        assert set(col.health().searches) == {"filtered"}
        assert 0 < col.health().searches["filtered"].recall <= 1


@pytest.mark.slow
def test_searches_with_settings_of_their_own_raised_an_alarm(tmp_path, catalogue, caplog):
    """They were promised nothing: what they found made the searches of others wider."""
    with bqstore.open(tmp_path, hnsw=BITS, quantization=ONE_BIT) as col:
        fill(col, catalogue[0])
        col.flush()
        searched(col, catalogue[1], 31, oversampling=1.0)
        searched(col, catalogue[1], 31, target_recall=0.7)
        assert not caplog.records and keeper_of(col).calibration.extra == 0
        assert col.health().searches == {} and list(keeper_of(col).estimates(0.7))
        col.tune(0.7)
        searched(col, catalogue[1], 31)
        assert not caplog.records and col.health().searches == {}


def test_exact_searches_are_not_checked(made, catalogue):
    with bqstore.open(made) as col:
        keeper = keeper_of(col)
        keeper._left, keeper._next_check = 1, 0.0
        col.search(catalogue[1][0], exact=True)
        wait(col)
        assert col.health().searches == {}


def test_the_watch_takes_a_hundredth_of_the_time(made, catalogue, monkeypatch):
    with bqstore.open(made) as col:
        keeper = keeper_of(col)
        keeper._left, keeper._next_check = 1, 0.0
        seconds = itertools.count(1000)  # one goes by from a look at the clock to the next
        monkeypatch.setattr(keeping, "time", SimpleNamespace(monotonic=lambda: next(seconds)))
        col.search(catalogue[1][0])
        wait(col)
        assert keeper._next_check - next(seconds) == 99  # a hundred after the check, which took one
        assert keeper._left > 1


def test_a_batch_was_watched_by_its_first_query_alone(made, catalogue, monkeypatch):
    """And counted as one search: eight of it are answered again, and their mean counts as one."""
    asked, exact_search = [], keeping.exact_search
    monkeypatch.setattr(keeping, "exact_search", lambda *given: asked.append(given[1]) or exact_search(*given))
    with bqstore.open(made) as col:
        keeper = keeper_of(col)
        keeper._left, keeper._next_check = 100, 0.0
        queries = np.concatenate([np.zeros((1, DIM), np.float32), catalogue[1][:120]])
        col.search_ids(queries[:50], 10)
        wait(col)
        assert keeper._left == 50 and not asked
        col.search_batch(queries[:51], 10)
        wait(col)
        (some,) = asked
        places = [np.flatnonzero((queries == query).all(1))[0] for query in some]
        assert len(set(places)) == 8 and max(places) > 8 and 0 not in places
        (found,) = col.health().searches.values()
        assert found.queries == 1 and 0.5 < found.recall <= 1


def test_the_estimate_by_a_sample_is_right_on_average(made, catalogue, monkeypatch):
    """Of ten hits two are missing: one of them is seen in a fourth of all samples of a fourth."""
    monkeypatch.setattr(keeping, "_MOST_READ", N * (DIM + 8) * 4 // 4)
    with bqstore.open(made) as col:
        keeper, core, queries = keeper_of(col), col._engine.core, catalogue[1][:8]
        keeper._random = np.random.default_rng(1)
        state = core.publisher.current()
        search = prepared(col._engine, state, None, col._engine.options(*Asked(10)))[1]
        exact = col._engine.options(*Asked(12, exact=True))
        best, scores = (
            found[:, [0, 1, 3, 4, 5, 6, 8, 9, 10, 11]] for found in unfiltered(state, exact).nearest(queries)
        )
        assert (np.diff(scores) < 0).all()
        monkeypatch.setattr(keeper, "_judge", lambda *given: None)
        for _ in range(200):
            keeper._check(state, search, queries, best, scores)
        ((key, seen),) = keeper._seen.items()
        assert abs(np.mean(seen) - 0.8) < 0.05 and np.std(seen) > 0.02
        assert keeper.estimates(0.95)[key[0]].low < 0.8 < keeper.estimates(0.95)[key[0]].high
        seen.clear()
        keeper._seen[key].extend([1.0] * 10)
        assert keeper.estimates(0.95)[key[0]].low == pytest.approx(1 - 3 / (0.25 * 10) / 10)


def test_a_small_collection_whose_opening_has_codes_searched_was_never_measured(tmp_path, catalogue):
    """What is stored says that it is searched exactly."""
    with bqstore.open(tmp_path, quantization=ONE_BIT) as col:
        fill(col, catalogue[0][:3000])
        col.flush()
        assert keeper_of(col).calibration is None
    with bqstore.open(tmp_path, hnsw=BITS) as col:
        col.flush()
        known = keeper_of(col).calibration
        assert known is not None and known.documents == 3000
    with bqstore.open(tmp_path, hnsw=BITS) as col:
        assert col.health().measured is not None and col.info().way != "exact"


def few_hard(random, recall, size):
    """Searches of which a tenth find little, the others all."""
    return np.where(random.random(size) < 0.1, random.binomial(10, 10 * recall - 9, size) / 10, 1.0)


def few_in_vain(random, recall, size):
    """Searches of which few find nothing, the others all."""
    return (random.random(size) < recall).astype(float)


def all_alike(random, recall, size):
    return random.binomial(10, recall, size) / 10


@pytest.mark.sampled(1)
@pytest.mark.parametrize("kind", [all_alike, few_hard, few_in_vain])
def test_healthy_searches_raise_no_alarm(kind):
    """A thousand collections whose searches find exactly what was promised, in a thousand checked searches each."""
    random, alarms = np.random.default_rng(0), 0
    for _ in range(often(1000)):
        found = kind(random, 0.95, 1000)
        for m in range(FEWEST_CHECKED, 1000, 10):
            alarms += keeping._falls_short(found[max(0, m - keeping._KEPT) : m].tolist(), 0.95)
    assert alarms == 0


def test_poor_searches_raise_one_soon():
    found = np.random.default_rng(0).binomial(10, 0.88, 200) / 10
    assert keeping._falls_short(found.tolist(), 0.95)


@pytest.mark.parametrize("checked", [1, 10, 30, 100, 400])
@pytest.mark.parametrize("kind", [all_alike, few_hard, few_in_vain])
def test_an_interval_was_too_short_where_few_searches_find_nothing(kind, checked):
    """It holds the true recall as often as it says; of 30 checked searches it was .25 to .81 for .99."""
    random, rounds = np.random.default_rng(1), often(2000)
    for recall in (0.92, 0.95, 0.99, 0.999):
        made = [keeping._estimate(found.tolist()) for found in kind(random, recall, (rounds, checked))]
        holds = np.mean([each.low <= recall <= each.high + 1e-9 for each in made])
        assert holds > 0.95 - 0.05 - 3 * np.sqrt(0.05 / rounds), recall


@pytest.mark.parametrize(
    ("kind", "known", "step"),
    [
        ("scan", None, "measured"),
        ("scan", ladder(*RISING, documents=10), "measured"),
        ("filtered", ladder(*RISING, documents=10**6), "filtered"),
        ("filtered", ladder(*RISING, documents=10**6, filtered=len(RUNGS) - 1), None),
        ("scan", ladder(0.3, documents=10**6), None),
        ("scan", ladder(*RISING, documents=10**6), "extra"),
    ],
)
def test_what_follows_from_searches_that_find_too_little(monkeypatch, kind, known, step):
    done = []
    with bqstore.open() as col:
        col.add(np.random.default_rng(0).standard_normal((40, 8)))
        keeper = keeper_of(col)
        keeper._seen[kind, 0.95] = keeping.deque([0.5])
        monkeypatch.setattr(keeping, "_falls_short", lambda *given: True)
        monkeypatch.setattr(RecallKeeper, "calibration", property(lambda self: known))
        monkeypatch.setattr(keeper, "_measure_now", lambda *given: done.append("measured"))
        monkeypatch.setattr(keeper, "_measure", lambda *given: None)
        monkeypatch.setattr(
            keeper, "_keep", lambda new, state: done.append("extra" if new.extra > known.extra else "filtered")
        )
        keeper._judge(kind, 0.95, 0)
        assert done == ([] if step is None else [step]) and not keeper._seen[kind, 0.95]


def test_a_query_without_a_direction_is_not_checked_and_the_main_thread_stays_as_quick(monkeypatch):
    with bqstore.open() as col:
        col.add(np.random.default_rng(0).standard_normal((40, 8)))
        keeper, options = keeper_of(col), SimpleNamespace(target=0.95, hnsw=SimpleNamespace(full_scan_threshold=0))
        keeper._left = 1
        monkeypatch.setattr(keeper, "_is_due", lambda exactly: False)
        monkeypatch.setattr(keeping, "_can_be_checked", lambda search: True)
        monkeypatch.setattr(keeper, "_start", lambda job: pytest.fail("there is nothing to check"))
        keeper.found(None, SimpleNamespace(options=options), np.zeros((2, 8), np.float32), None, None)
    monkeypatch.setattr(keeping.os, "setpriority", lambda *given: pytest.fail("of the whole process"), raising=False)
    keeping._be_nice()
