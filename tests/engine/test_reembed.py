"""`reembed`: another model takes the place of the old one in one commit; nothing is embedded twice or missed."""

import hashlib
import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest

import bqstore
from bqstore import EmbeddingError, InvalidInputError, LockedError, SettingsConflictError, StorageError
from bqstore.engine import graph_builder, graph_upkeep, maintenance
from bqstore.index import HnswGraph
from bqstore.storage import (
    Store,
    platform,
    staging,  # noqa: F401 - for KILLED
)
from tests.conftest import FULL, HANGS, wait_until

ROOT = Path(bqstore.__file__).parents[1]


class Toy:
    """A model: the same text, the same vector. It knows which texts it was asked for, and may refuse after some."""

    def __init__(self, model: str, dim: int, most: int | None = None):
        self.model, self.dim, self.most, self.asked = model, dim, most, []

    def embed(self, texts):
        if self.most is not None and len(self.asked) + len(texts) > self.most:
            raise EmbeddingError("no more today")
        self.asked += texts
        seeds = [int.from_bytes(hashlib.sha256(f"{self.model} {text}".encode()).digest()[:8], "big") for text in texts]
        return np.stack([np.random.default_rng(seed).standard_normal(self.dim) for seed in seeds]).astype(np.float32)

    def embed_query(self, text):
        return self.embed([text])[0]


def fill(col: bqstore.Collection, model: Toy, start: int, stop: int) -> None:
    texts = [f"text {i}" for i in range(start, stop)]
    col.add(model.embed(texts), [f"d{i}" for i in range(start, stop)], texts, [{"i": i} for i in range(start, stop)])


def check(col: bqstore.Collection, model: Toy, numbers) -> None:
    """The documents have the model's vectors, and are found by them."""
    ids = [f"d{i}" for i in numbers]
    found = {record.id: record for record in col.get(ids, with_vectors=True)}
    assert len(col) == len(found) == len(ids)
    clean = Toy(model.model, model.dim)
    for i, vector in zip(numbers, clean.embed([f"text {i}" for i in numbers]), strict=True):
        record = found[f"d{i}"]
        assert (record.text, record.metadata["i"]) == (f"text {i}", i)
        np.testing.assert_array_equal(record.vector, vector)
    assert [hit.id for hit in col.search(clean.embed_query(f"text {numbers[-1]}"), 1)] == [ids[-1]]
    assert col.count({"i": numbers[0]}) == 1
    assert col.info().embedding_model == model.model and col.verify().ok


OLD, NEW = ("old", 16), ("new", 24)


@pytest.mark.parametrize("path", ["memory", "disk"])
@pytest.mark.parametrize("settings", [{}, {"originals": "none"}, {"quantization": {"estimator": "rabitq"}}])
def test_another_model_of_another_dimension_takes_the_place_of_the_old_one(tmp_path, path, settings):
    old, new = Toy(*OLD), Toy(*NEW)
    with bqstore.open(tmp_path / "store" if path == "disk" else None, embedding_model="old", **settings) as col:
        fill(col, old, 0, 60)
        col.delete(["d3"])
        report = col.reembed(new, batch=7)
        assert (report.model, report.dim, report.documents, report.embedded) == ("new", 24, 59, 59)
        assert len(new.asked) == 59 and "text 3" not in new.asked
        kept = [i for i in range(60) if i != 3]
        if "originals" not in settings:
            check(col, new, kept)
        assert [hit.id for hit in col.search(new.embed_query("text 7"), 1)] == ["d7"]
        with pytest.raises(InvalidInputError, match="16 dimensions; this collection holds 24"):
            col.search(old.embed_query("text 7"), 1)
        with pytest.raises(SettingsConflictError):
            col.check_model("old", 16)
    if path == "disk":
        names = {file.name for file in (tmp_path / "store/default").iterdir()}
        assert not names & {"reembed.bin", "reembed.json", "vectors-0.bin"}
        with bqstore.open(tmp_path / "store") as col:
            assert len(col) == 59 and col.info().dim == 24


def test_the_same_dimension_and_a_third_model_after_it(tmp_path):
    with bqstore.open(tmp_path) as col:
        fill(col, Toy("old", 16), 0, 20)
        for name in ("one", "two", "two"):
            new = Toy(name, 16)
            assert col.reembed(new).embedded == 20
            check(col, new, range(20))


def test_what_others_write_meanwhile_is_there_with_the_new_vectors_and_old_answers_until_then(tmp_path):
    old = Toy(*OLD)
    with bqstore.open(tmp_path) as col, bqstore.open(tmp_path, read_only=True) as reader:
        fill(col, old, 0, 40)
        rounds = iter(range(100))

        class Busy(Toy):
            def embed(self, texts):
                step = next(rounds)
                if step < 6:  # outside of the lock
                    fill(col, old, 40 + 5 * step, 45 + 5 * step)
                    col.delete([f"d{step}"])
                    col.update_metadata([f"d{39 - step}"], {"new": step})
                for each in (col, reader):
                    if step < 6:
                        assert [hit.id for hit in each.search(old.embed_query("text 30"), 1)] == ["d30"]
                        assert each.info().dim == 16
                return super().embed(texts)

        new = Busy(*NEW)
        col.reembed(new, batch=10)
        kept = list(range(6, 70))
        check(col, new, kept)
        check(reader, new, kept)
        assert col.get(["d39"])[0].metadata["new"] == 0
        assert len(new.asked) == len(set(new.asked))


@pytest.mark.parametrize("path", ["memory", "disk"])
def test_a_model_that_fails_changes_nothing_and_what_it_made_is_not_made_again(tmp_path, path):
    old, new = Toy(*OLD), Toy(*NEW, most=25)
    with bqstore.open(tmp_path / "store" if path == "disk" else None, embedding_model="old") as col:
        fill(col, old, 0, 60)
        with pytest.raises(EmbeddingError, match="no more today"):
            col.reembed(new, batch=10)
        check(col, old, range(60))
        new.most = None
        report = col.reembed(new, batch=10)
        assert (report.resumed, report.embedded) == ((20, 40) if path == "disk" else (0, 60))
        check(col, new, range(60))


def test_another_model_begins_anew(tmp_path):
    with bqstore.open(tmp_path) as col:
        fill(col, Toy(*OLD), 0, 30)
        with pytest.raises(EmbeddingError):
            col.reembed(Toy("second", 24, most=25), batch=10)
        third = Toy("third", 8)
        assert col.reembed(third, batch=10).resumed == 0
        check(col, third, range(30))


KILLED = """
import os, sys
import bqstore
from tests.engine import test_reembed as t
from bqstore.storage import files, store
from bqstore.engine import graph_builder, graph_upkeep, maintenance
path, count, log = sys.argv[1], int(sys.argv[2]), sys.argv[3]
left = count
def counted(function):
    def call(*arguments, **keywords):
        global left
        left -= 1
        if left == 0:
            os._exit(9)
        return function(*arguments, **keywords)
    return call
class Logged(t.Toy):
    def embed(self, texts):
        with open(log, "a") as file:
            file.write("".join(text + "\\n" for text in texts))
        return super().embed(texts)
for owner, name in [(files.DiskFile, "write"), (files.DiskFile, "sync"), (store.Store, "begin_compaction"),
                    (store.Store, "commit_compaction"), (t.staging.Staging, "remove"),
                    (store.head_table, "write_head")]:
    setattr(owner, name, counted(getattr(owner, name)))
with bqstore.open(path) as col:
    col.reembed(Logged(*t.NEW), batch=5)
"""


@pytest.mark.long
def test_a_call_that_is_killed_again_and_again_ends_and_embeds_nothing_twice(tmp_path):
    with bqstore.open(tmp_path / "store", embedding_model="old") as col:
        fill(col, Toy(*OLD), 0, 40)
    log = tmp_path / "log"
    ends = []
    for count in (2, 6, 9, 17, 21)[: 5 if FULL else 2]:
        command = [sys.executable, "-c", KILLED, str(tmp_path / "store"), str(count), str(log)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode in (0, 9), done.stderr
        ends.append(done.returncode)
        with bqstore.open(tmp_path / "store") as col:
            model = col.info().embedding_model
            check(col, Toy(*(OLD if model == "old" else NEW)), range(40))
    assert 9 in ends
    with bqstore.open(tmp_path / "store") as col:
        if col.info().embedding_model == "old":
            new = Toy(*NEW)
            col.reembed(new, batch=5)
            log.write_text(log.read_text() + "".join(text + "\n" for text in new.asked))
        check(col, Toy(*NEW), range(40))
    texts = log.read_text().splitlines()
    assert set(texts) == {f"text {i}" for i in range(40)}
    assert len(texts) <= 40 + 5 * len(ends), "at most the batch that a kill came into is embedded again"


@pytest.mark.parametrize("path", ["memory", "disk"])
@pytest.mark.parametrize("when", ["meanwhile", "before it goes on", "before it goes on, and compacted"])
def test_a_text_that_was_updated_kept_the_vector_of_the_old_one(tmp_path, path, when):
    """`update` leaves the number of a document, by which vectors that are there already are known."""

    class Busy(Toy):
        def embed(self, texts):
            if when == "meanwhile" and len(self.asked) == 20:
                change()
            return super().embed(texts)

    def change() -> None:
        col.update(["d2", "d29"], texts=["text 102", "text 129"])
        col.update_metadata(["d3"], {"read": True})

    with bqstore.open(tmp_path if path == "disk" else None) as col:
        fill(col, Toy(*OLD), 0, 31)
        col.delete(["d30"])
        if when != "meanwhile":
            with pytest.raises(EmbeddingError):
                col.reembed(Toy(*NEW, most=25), batch=10)
            change()
            if "compacted" in when:
                col.compact()
            assert col.reembed_plan(Toy(*NEW)).done == (19 if path == "disk" else 0)
        new = Busy(*NEW)
        col.reembed(new, batch=10)
        if path == "disk" and when != "meanwhile":
            assert "text 3" not in new.asked, "only its metadata has changed"
        for record in col.get([f"d{i}" for i in range(30)], with_vectors=True):
            np.testing.assert_array_equal(record.vector, Toy(*NEW).embed_query(record.text), record.id)
        assert col.search(Toy(*NEW).embed_query("text 102"), 1)[0].id == "d2"


def test_damaged_staged_vectors_are_embedded_again(tmp_path):
    with bqstore.open(tmp_path) as col:
        fill(col, Toy(*OLD), 0, 30)
        with pytest.raises(EmbeddingError):
            col.reembed(Toy(*NEW, most=25), batch=10)
        file = tmp_path / "default/reembed.bin"
        data = bytearray(file.read_bytes())
        data[64 + 128 * 3 + 50] ^= 1
        file.write_bytes(data)
        new = Toy(*NEW)
        assert col.reembed(new, batch=10).resumed == 19
        check(col, new, range(30))


def test_the_plan_says_what_it_takes_and_sends_nothing(tmp_path):
    class Priced(Toy):
        def estimate(self, texts):
            self.estimated = list(texts)
            return type("Estimate", (), {"cached": 1, "tokens": 99, "price": 0.5})()

    with bqstore.open(tmp_path) as col:
        fill(col, Toy(*OLD), 0, 10)
        col.add(np.ones((2, 16)), ["bare", "empty"], [None, ""])
        before = sorted(file.name for file in (tmp_path / "default").iterdir())
        new = Priced(*NEW)
        plan = col.reembed_plan(new)
        assert (plan.documents, plan.done, plan.characters, plan.without_text) == (12, 0, 60, ("bare", "empty"))
        assert (plan.cached, plan.tokens, plan.price) == (1, 99, 0.5) and len(new.estimated) == 10
        plan = col.reembed_plan(Toy(*NEW))
        assert (plan.characters, plan.price) == (60, None)
        assert new.asked == [] and sorted(file.name for file in (tmp_path / "default").iterdir()) == before


def test_what_cannot_be_embedded_again_is_refused_before_anything_is_sent(tmp_path):
    with bqstore.open(tmp_path) as col:
        fill(col, Toy(*OLD), 0, 5)
        col.add(np.ones((1, 16)), ["bare"])
        new = Toy(*NEW)
        with pytest.raises(InvalidInputError, match="1 documents have no text to embed, such as 'bare'"):
            col.reembed(new)
        assert new.asked == []
        col.delete(["bare"])
        for wrong, words in [("text", "has no 'model'"), (Toy("", 3), "embedder.model is ''")]:
            with pytest.raises(InvalidInputError, match=words):
                col.reembed(wrong)
        with pytest.raises(InvalidInputError, match="batch is 0"):
            col.reembed(new, batch=0)
        for vectors, error in [
            (np.full((5, 24), np.nan), InvalidInputError),
            (np.ones((4, 24)), EmbeddingError),
            (["text"] * 5, InvalidInputError),
        ]:
            new.embed = lambda texts, vectors=vectors: vectors
            with pytest.raises(error):
                col.reembed(new)
        assert len(col) == 5 and col.info().embedding_model is None and col.info().dim == 16 and col.verify().ok


def test_an_empty_collection_takes_the_new_model(tmp_path):
    with bqstore.open(tmp_path, embedding_model="old") as col:
        fill(col, Toy(*OLD), 0, 3)
        col.delete(["d0", "d1", "d2"])
        assert col.reembed(Toy(*NEW)).documents == 0
        fill(col, Toy(*NEW), 0, 4)
        check(col, Toy(*NEW), range(4))


def test_two_at_once_are_refused(tmp_path):
    with bqstore.open(tmp_path) as col:
        fill(col, Toy(*OLD), 0, 5)

        class Nested(Toy):
            def embed(self, texts):
                with bqstore.open(tmp_path) as other, pytest.raises(LockedError):
                    other.reembed(Toy("third", 4))
                return super().embed(texts)

        col.reembed(Nested(*NEW), batch=2)
        check(col, Toy(*NEW), range(5))


def test_vectors_of_the_old_model_that_waited_for_the_commit_were_added_among_the_new_ones(tmp_path, monkeypatch):
    """The old and the new model have the same dimension: nothing but the model tells them apart."""
    with bqstore.open(tmp_path, embedding_model="old") as col:
        fill(col, Toy("old", 16), 0, 5)
        failures = []

        def late():
            try:
                fill(col, Toy("old", 16), 90, 91)
            except SettingsConflictError as error:
                failures.append(str(error))

        real = maintenance.recode

        def slow(*arguments, **settings):
            thread = threading.Thread(target=late)
            thread.start()
            threads.append(thread)
            wait_until(lambda: col._engine.core.group.waiting)  # its vectors are checked, and it waits for the lock
            real(*arguments, **settings)

        threads: list[threading.Thread] = []
        monkeypatch.setattr(maintenance, "recode", slow)
        col.reembed(Toy("new", 16))
        threads[0].join()
        assert failures and "embedded again meanwhile" in failures[0]
        check(col, Toy("new", 16), range(5))


@pytest.mark.parametrize("originals", ["float32", "none"])
def test_writers_waited_until_the_graph_of_the_new_vectors_was_linked(tmp_path, monkeypatch, originals):
    """Of 20,000 it took 30 s, and a writer in another process was refused."""
    for module in (graph_builder, graph_upkeep):
        monkeypatch.setattr(module, "SMALLEST_GRAPH", 100)
    old, new, real, free = Toy(*OLD), Toy("new", 16), HnswGraph.link, []
    with (
        bqstore.open(tmp_path, originals=originals, hnsw={"full_scan_threshold": 0}) as col,
        ThreadPoolExecutor(1) as pool,
    ):
        fill(col, old, 0, 210)

        def link(self, *given):
            with open(tmp_path / "default/LOCK", "r+") as file:  # noqa: PTH123
                free.append(platform.try_lock(file.fileno()))
            searching = pool.submit(lambda: [hit.id for hit in col.search(new.embed_query("text 7"), 1)])
            free.append(searching.result(timeout=HANGS) == ["d7"])
            return real(self, *given)

        monkeypatch.setattr(HnswGraph, "link", link)
        assert col.reembed(new).documents == 210
        assert free and all(free)
        assert col.info().linked == 210 and col.verify().ok
        assert [hit.id for hit in col.search(new.embed_query("text 9"), 1)] == ["d9"]


@pytest.mark.parametrize("again", ["reembed", "add"])
def test_vectors_of_a_commit_that_was_refused_stayed_for_trials_of_the_next(tmp_path, monkeypatch, again):
    """Of another dimension, they ended each link with a ValueError: adds raised it behind their commits."""
    for module in (graph_builder, graph_upkeep):
        monkeypatch.setattr(module, "SMALLEST_GRAPH", 20)
    old = Toy(*OLD)
    with bqstore.open(tmp_path, originals="none", hnsw={"full_scan_threshold": 0}) as col:
        fill(col, old, 0, 60)
        with monkeypatch.context() as patched, pytest.raises(StorageError, match="full"):

            def refuse(*_):
                raise StorageError("the disk is full")

            patched.setattr(Store, "commit_compaction", refuse)
            col.reembed(Toy(*NEW))
        if again == "reembed":
            old = Toy("newest", 32)
            col.reembed(old)
        else:
            col.delete(["d0"])
            col.compact()
        fill(col, old, 60, 90)
        col.flush()
        assert col.info().linked == len(col) and col.verify().ok


def test_texts_that_came_during_the_last_round_were_embedded_under_the_lock(tmp_path):
    """They are few, but a model may take half a minute for them, and others were refused."""
    held = []
    with bqstore.open(tmp_path) as col:
        fill(col, Toy(*OLD), 0, 20)

        class Busy(Toy):
            def embed(self, texts):
                held.append(col._engine.lifecycle.is_changing())
                if len(held) < 4:
                    fill(col, Toy(*OLD), 20 * len(held), 20 * len(held) + 20)
                return super().embed(texts)

        col.reembed(Busy(*NEW), batch=20)
        assert held == [False] * 4
        check(col, Toy(*NEW), range(80))


def test_damaged_originals_are_no_obstacle(tmp_path):
    with bqstore.open(tmp_path) as col:
        fill(col, Toy(*OLD), 0, 10)
    file = tmp_path / "default/vectors-0.bin"
    file.write_bytes(file.read_bytes()[:-8] + b"damaged!")
    with bqstore.open(tmp_path) as col:
        assert not col.verify().ok
        col.reembed(Toy(*NEW))
        check(col, Toy(*NEW), range(10))


@pytest.mark.parametrize("length", [1.0, 1e-9])
def test_short_vectors_of_a_new_model_kept_as_halves_are_marked(tmp_path, length):
    """Their scales are of format 4; vectors as they usually are leave the format as it was."""

    class Short(Toy):
        def embed(self, texts):
            return np.float32(length) * super().embed(texts)

    old, new = Toy(*OLD), Short(*NEW)
    with bqstore.open(tmp_path, embedding_model="old", originals="float16") as col:
        fill(col, old, 0, 30)
        before = col.info().format_version
        col.reembed(new)
        assert col.info().format_version == (4 if length < 1 else before)
        expected = Short(*NEW).embed(["text 7"])[0]
        found = col.get(["d7"], with_vectors=True)[0].vector
        np.testing.assert_allclose(found, expected, rtol=2**-11, atol=1e-4 * length)
