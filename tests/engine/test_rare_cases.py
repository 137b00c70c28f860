"""What seldom happens to an open collection: others come in between, memory runs out, a snapshot lies."""

import gc
import threading
import warnings
from contextlib import nullcontext

import numpy as np
import pytest

import bqstore
from bqstore import CorruptionError, FolderReplacedError, InvalidInputError, RecallEstimate, SettingsConflictError
from bqstore.engine import accept, choose_encoding, graph_builder, graph_upkeep, hybrid, maintenance, publisher
from bqstore.engine.graph_persistence import GraphPersistence
from bqstore.engine.target import NoKeeper
from bqstore.index import HnswGraph
from bqstore.storage import store
from tests.conftest import HANGS, clustered

from . import crafted
from .given import settle_early


@pytest.fixture
def col():
    with bqstore.open() as col:
        col.add(np.eye(4) + 0.1, list("abcd"), ["one", "two", "three", "four"], [{"n": i} for i in range(4)])
        yield col


# ---- filters


def test_an_async_function_is_no_filter(col):
    async def late(record):
        return True

    with pytest.warns(RuntimeWarning, match="never awaited"):
        with pytest.raises(InvalidInputError, match="an async function; expected one that returns a boolean at once"):
            col.ids(late)
        gc.collect()


def test_a_filter_whose_columns_are_overtaken_by_every_commit_is_answered_at_one(col, monkeypatch):
    monkeypatch.setattr(accept, "_PATIENCE", 0)
    assert col.ids({"n": {"$gte": 2}}) == ["c", "d"]
    assert col.update_metadata(["a", "nobody"], {"n": 7}, filter={"n": 0}) == 1
    assert col.update_metadata(["nobody"], {"n": 7}, filter={"n": 1}) == 0
    assert col.ids({"n": 7}) == ["a"]


def test_every_document_has_an_id(col):
    assert col.ids({"_bq_id": {"$ne": "b"}}) == col.ids({"$not": {"_bq_id": {"$in": ["b", "nobody"]}}}) == list("acd")


# ---- several vectors, odd vectors, words


@pytest.mark.parametrize("distance", ["dot", "euclid"])
def test_more_like_several_goes_by_the_mean_of_the_vectors_themselves(distance):
    with bqstore.open(distance=distance) as col:
        vectors = np.array([[1.0, 0], [9, 0], [5, 0.5], [1, 5]])
        col.add(vectors, list("abcd"))
        hits = col.more_like(["a", "b"], k=2)
        wanted = col.search([5.0, 0.0], 4)
        assert [hit.id for hit in hits] == [hit.id for hit in wanted if hit.id in "cd"]
        assert hits[0].score == pytest.approx(next(hit.score for hit in wanted if hit.id == hits[0].id))


def test_beside_a_zero_vector_other_queries_of_a_batch_find_what_they_find_alone(col):
    queries = np.array([[0, 0, 0, 0], [0, 1, 0, 0], [2e-15, 0, 0, 0]], np.float32)
    with bqstore.open(distance="cosine") as cosine:
        cosine.add(np.eye(4) + 0.1, list("abcd"))
        found = [[hit.id for hit in hits] for hits in cosine.search_batch(queries, 2)]
        assert found == [[hit.id for hit in cosine.search(query, 2)] for query in queries]
        assert found[0] == ["a", "b"] and found[1][0] == "b" and found[2][0] == "a"


def test_words_are_pieces_without_a_null_character_and_few_are_remembered(monkeypatch):
    monkeypatch.setattr(hybrid, "_REMEMBERED", 1)
    monkeypatch.setattr(hybrid, "_FEW_TEXTS", 1)
    with bqstore.open(text_index={"tokenize": "trigram"}) as col:
        col.add(np.eye(3), list("abc"), ["foxes run", "a dog ran", "green fish"])
        for _ in range(2):
            assert [hit.id for hit in col.search(text="fox\0es fish", k=3)] in (["a", "c"], ["c", "a"])
            assert [hit.id for hit in col.search(text="dog", k=3)] == ["b"]
            hits = col.search([0, 1, 0], text="nothing of it", k=1, fusion="relative_score")
            assert [hit.id for hit in hits] == ["b"] and list(hits[0].scores) == ["vector"]


# ---- models


def test_a_model_that_another_thread_has_named_meanwhile(tmp_path, monkeypatch):
    with bqstore.open(tmp_path) as col:
        col.add([[1.0, 0.0]])
        engine, name = col._engine, "mine"
        write = type(engine).write

        def late(self, call, *more):
            head = self.store.head
            write(self, lambda: self.store.put_settings({**head.settings, "embedding_model": name}, head.dim))
            return write(self, call, *more)

        monkeypatch.setattr(type(engine), "write", late)
        col.check_model("mine", 2, remember=True)
        assert col.info().embedding_model == "mine"
        name = "theirs"
        with pytest.raises(SettingsConflictError, match=r"'theirs'|'mine'"):
            col.check_model("other", 2, remember=True)


class Meddling:
    """A model in whose first call somebody else changes the collection."""

    model = "new"

    def __init__(self, meddle):
        self.meddle = meddle

    def embed(self, texts):
        meddle, self.meddle = self.meddle, lambda: None
        meddle()
        return np.stack([np.full(3, len(text), np.float32) + np.arange(3) for text in texts])


def test_what_is_deleted_or_comes_without_a_text_while_all_is_embedded_again(col, monkeypatch):
    monkeypatch.setattr(choose_encoding, "TRAINED_ON", 1)
    with pytest.raises(InvalidInputError, match="'e'"):
        col.reembed(Meddling(lambda: col.add(np.ones((1, 4)), ["e"])), batch=2)
    assert col.info().dim == 4
    col.delete(["e"])
    report = col.reembed(Meddling(lambda: col.delete(["c", "d"])), batch=2)
    assert (report.documents, report.embedded, col.info().dim) == (2, 2, 3) and col.verify().ok


# ---- the graph


@pytest.mark.parametrize("error", [MemoryError(), FolderReplacedError("moved")])
def test_what_cannot_be_linked_is_stored_and_found(monkeypatch, error):
    def link(self, *arguments):
        raise error

    settle_early(monkeypatch, 20)
    with bqstore.open() as col:
        col.add(clustered(30, 8), [f"d{i}" for i in range(30)])
        monkeypatch.setattr(graph_builder.GraphBuilder, "link", link)
        vector = clustered(1, 8, 5)
        if isinstance(error, MemoryError):
            with pytest.warns(RuntimeWarning, match="stored, but not in the graph yet: out of memory"):
                col.add(vector, ["new"])
        else:
            with pytest.raises(FolderReplacedError):
                col.add(vector, ["new"])
        assert [hit.id for hit in col.search(vector[0], 1)] == ["new"]


@pytest.mark.parametrize(
    ("owner", "step", "said"),
    [
        (maintenance, "recode", "not chosen anew: out of memory"),
        (graph_upkeep.GraphUpkeep, "followed", "not in the graph yet: out of memory"),
        (store.Store, "put_settings", None),
    ],
)
def test_no_memory_behind_the_commit_was_an_error_of_an_add_that_stands(monkeypatch, owner, step, said):
    def fail(*arguments):
        raise MemoryError

    settle_early(monkeypatch, 20)
    monkeypatch.setattr(
        graph_builder.GraphBuilder, "untold", lambda builder, head: 7 if step == "put_settings" else None
    )
    with bqstore.open() as col:
        col.add(clustered(19, 8), [f"d{i}" for i in range(19)])
        if step == "followed":  # as where another process has added much
            monkeypatch.setattr(graph_builder.GraphBuilder, "lags", lambda builder, state: True)
            monkeypatch.setattr(publisher.Publisher, "keep_up", lambda publisher: True)
        monkeypatch.setattr(owner, step, fail)
        with pytest.warns(RuntimeWarning, match=said) if said else nullcontext():
            assert col.add(clustered(1, 8, 5), ["new"]) == ["new"]
        assert len(col) == 20 and col.search(clustered(1, 8, 5)[0], 1)[0].id == "new"


def test_no_memory_for_the_background_was_a_traceback_of_its_thread(monkeypatch):
    failed = threading.Event()

    def fail(*arguments):
        failed.set()
        raise MemoryError

    settle_early(monkeypatch, 20)
    monkeypatch.setattr(graph_builder, "can_link_later", lambda: True)
    monkeypatch.setattr(graph_upkeep.GraphUpkeep, "_link_batch", fail)
    with bqstore.open() as col:
        col.add(clustered(30, 8))
        assert failed.wait(HANGS)
        col._engine.core.graph.builder.stop()
        monkeypatch.undo()
        monkeypatch.setattr(store.Store, "grow_text_index", fail)
        with pytest.raises(MemoryError):
            col.set_text_index()
        failed.clear()
        col._engine.core.texts.start()
        assert failed.wait(HANGS)
        col._engine.core.texts.stop()
        assert len(col) == 30


def test_of_what_is_closed_or_has_no_graph_nothing_is_linked_or_kept(tmp_path):
    with bqstore.open(tmp_path) as col:
        col.add(np.eye(3))
        graph, engine = col._engine.core.graph, col._engine
        graph.persistence.save(engine.publisher.state)
        assert not list((tmp_path / "default").glob("snap-*"))
    assert graph._link_batch() is False


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """A collection with a snapshot of its graph, and that file."""
    monkeypatch.setattr(graph_builder, "SMALLEST_GRAPH", 64)
    crafted.make(tmp_path)
    (file,) = (tmp_path / "default").glob("snap-*.bin")
    return tmp_path, file


def test_a_snapshot_that_another_process_has_kept_is_not_written_again(kept, monkeypatch):
    path, file = kept
    with bqstore.open(path, threads=1) as col:
        monkeypatch.setattr(GraphPersistence, "is_newer_there", lambda self, n: True)
        before = file.read_bytes()
        file.unlink()
        persistence, state = col._engine.core.graph.persistence, col._engine.acceptor.with_ids()
        persistence.save(state)
        assert not file.exists() and not persistence.is_due(state)
        file.write_bytes(before)


def names(arrays, numbers):
    arrays["columns"] = np.frombuffer(b'"none"', np.uint8).copy()


def ids(arrays, numbers):
    arrays["id_bytes"][-1] ^= 1


def of_old(arrays, numbers):
    """As a version wrote them that did not count what walks missed."""
    del numbers["missed"]


@pytest.mark.parametrize(("change", "words"), [(names, None), (ids, "are not those of the rows"), (of_old, None)])
def test_a_snapshot_with_false_contents_is_read_from_the_rows(kept, change, words):
    path, file = kept
    with bqstore.open(path, read_only=True, threads=1) as col:
        truth = crafted.answers(col)
    file.write_bytes(crafted.with_sections(file.read_bytes(), change))
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        with bqstore.open(path, read_only=True, threads=1) as col:
            assert crafted.answers(col) == truth
    assert words is None or any(words in str(each.message) for each in said)


def test_a_graph_linked_by_estimates_of_one_bit_is_linked_anew(tmp_path, monkeypatch):
    monkeypatch.setattr(graph_builder, "SMALLEST_GRAPH", 64)
    base = clustered(120, 32)
    with bqstore.open_flat(tmp_path, distance="dot", encoding="one_bit", estimator="rabitq", threads=1) as col:
        col.add(base, [f"d{i}" for i in range(120)])
        col.flush()
        wanted = col.search_ids(base[:9], 3)[0].tolist()
    (file,) = (tmp_path / "default").glob("snap-*.bin")
    file.write_bytes(crafted.with_sections(file.read_bytes(), of_old))
    linked = []
    real = HnswGraph.link
    monkeypatch.setattr(HnswGraph, "link", lambda self, *given: (linked.append(1), real(self, *given))[1])
    with pytest.warns(RuntimeWarning, match="older version has linked it by measures that leave nodes out of reach"):
        col = bqstore.open_flat(tmp_path, threads=1)
    with col:
        col.flush()
        assert linked and col.search_ids(base[:9], 3)[0].tolist() == wanted


# ---- what is said


def test_searches_that_find_too_little_are_told_with_one_way_out(monkeypatch):
    few = RecallEstimate(0.5, 0.45, 0.55, 200)
    with bqstore.open() as col:
        col.add(clustered(60, 16))
        keeper = type(col._engine.core.keeper)
        monkeypatch.setattr(keeper, "estimates", lambda self, target: {"walk": few, "filtered": few})
        way = col.info().recall
        assert not way.ok
        assert any("give a larger oversampling to searches with such filters" in each for each in way.problems)
        assert any("requantize(encoding='four_bits')" in each for each in way.problems)
        col.requantize(encoding="four_bits")
        assert any("a larger m and ef_construct make a better graph" in each for each in col.info().recall.problems)
    with bqstore.open(search={"oversampling": 2.0}) as col:
        col.add(clustered(60, 16))
        assert any("to let it choose them" in each for each in col.info().recall.problems)


def test_verify_reports_what_ends_it(tmp_path, monkeypatch):
    with bqstore.open(tmp_path) as col:
        col.add(np.eye(2))

        def fail(self, answer):
            raise CorruptionError("meta.db is damaged")

        monkeypatch.setattr(type(col._engine.publisher), "at_one_commit", fail)
        report = col.verify()
        assert not report.ok and report.problems == ["meta.db is damaged"]


def test_nobody_keeps_a_target_while_a_collection_is_being_opened():
    nobody = NoKeeper()
    nobody.written(0.9, 0)
    nobody.settle(0.9, 0)
    nobody.found(None, None, None, None, None)
    nobody.stop()
    assert nobody.estimates(0.9) == {}


def test_a_sample_of_a_large_collection_is_measured_with_fewer_neighbors(monkeypatch):
    wanted = choose_encoding.possible(choose_encoding.Quantization(encoding="one_bit", estimator="sign"))
    base = clustered(80, 16)
    few = choose_encoding._measured(base, base[:10], wanted, choose_encoding.COSINE, documents=len(base) * 20)
    all_ = choose_encoding._measured(base, base[:10], wanted, choose_encoding.COSINE)
    assert few.trials[0].recall != all_.trials[0].recall
