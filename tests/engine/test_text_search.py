"""Searches for words, alone and with vectors, against a dictionary and BM25 as it is written in books."""

import math
import pickle
import re
import signal
import sqlite3
import subprocess
import sys
import time
import unicodedata

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import bqstore
from bqstore import (
    FormatVersionError,
    InvalidInputError,
    LockedError,
    NotReadyError,
    SettingsConflictError,
    StorageError,
)
from bqstore.engine import hybrid
from bqstore.engine.query_words import words_of
from bqstore.storage import text_index
from tests.conftest import often, wait_until
from tests.engine.other_process import ROOT, other_process

DIM = 4
VOCABULARY = ["the", "a", "fox", "Café", "cafe", "dog's", "naïve", "x-ray", "zebra", "1984"]


# ---- the slow twin


def tokens(text):
    plain = "".join(c for c in unicodedata.normalize("NFD", text) if not unicodedata.combining(c)).lower()
    return re.findall(r"[a-z0-9]+", plain)


def bm25(texts, query, few=1000):
    """(name, score) of what has a word of the query: the highest score first, then in order of the dictionary."""
    docs = {name: tokens(text) for name, text in texts.items() if text is not None}
    words = list({word.casefold(): word for word in re.findall(r"\w+", query)}.values())
    having = {word: [name for name, doc in docs.items() if tokens(word)[0] in doc] for word in words}
    common = {word for word in words if len(docs) > few and len(having[word]) > len(docs) // 2}
    mean = sum(map(len, docs.values())) / max(1, len(docs))
    scores = {}
    for word in words:
        n = len(having[word])
        weight = math.log((len(docs) - n + 0.5) / (n + 0.5))
        for name in having[word]:
            times, length = docs[name].count(tokens(word)[0]), len(docs[name])
            part = times * 2.2 / (times + 1.2 * (0.25 + 0.75 * length / mean))
            scores[name] = scores.get(name, 0.0)
            if word not in common:
                scores[name] += (weight if weight > 0 else 1e-6) * part
    order = list(docs)
    return sorted(scores.items(), key=lambda pair: (-round(pair[1], 12), order.index(pair[0])))


def check(col, truth, query, k=10, few=1000):
    """``truth``: id to (text, metadata), in the order of insertion."""
    for filter, may in ((None, lambda m: True), ({"n": 1}, lambda m: m.get("n") == 1)):
        wanted = [(i, s) for i, s in bm25({i: t for i, (t, _) in truth.items()}, query, few) if may(truth[i][1])][:k]
        hits = col.search(text=query, k=k, filter=filter)
        assert [hit.id for hit in hits] == [name for name, _ in wanted]
        assert [hit.score for hit in hits] == pytest.approx([score for _, score in wanted])
        assert all(hit.scores == {"text": hit.score} and hit.text == truth[hit.id][0] for hit in hits)
        ids, _ = col.search_ids(texts=query, k=k, filter=filter)
        assert [name for name in ids[0] if name is not None] == [hit.id for hit in hits]
        both = col.search(np.eye(DIM)[0], text=query, k=k, filter=filter)
        assert len(both) == min(k, sum(may(m) for _, m in truth.values()))
        assert k < len(truth) or {hit.id for hit in hits} <= {hit.id for hit in both}


text = st.none() | st.lists(st.sampled_from(VOCABULARY), max_size=6).map(" ".join)
name = st.sampled_from([f"d{i}" for i in range(8)])
step = st.one_of(
    st.tuples(st.just("add"), st.lists(st.tuples(name, text), min_size=1, max_size=4)),
    st.tuples(st.just("text"), name, text.filter(lambda t: t is not None)),
    st.tuples(st.just("metadata"), name),
    st.tuples(st.just("delete"), name),
    st.tuples(st.sampled_from(["clear", "compact", "reopen", "again", "backup"])),
)


def act(col, truth, done, path):
    """Do one step, in the collection and in the dictionary."""
    kind, *rest = done
    if kind == "add":
        col.add(
            np.ones((len(rest[0]), DIM)), [i for i, _ in rest[0]], [t for _, t in rest[0]], [{"n": 1}] * len(rest[0])
        )
        for i, t in rest[0]:
            truth.pop(i, None)
            truth[i] = (t, {"n": 1})
    elif kind == "text":
        if col.update([rest[0]], texts=[rest[1]]):
            truth[rest[0]] = (rest[1], truth[rest[0]][1])
    elif kind == "metadata":
        if col.update_metadata(rest, {"n": 2}):
            truth[rest[0]] = (truth[rest[0]][0], {"n": 2})
    elif kind == "delete":
        assert col.delete(rest) == (truth.pop(rest[0], None) is not None)
    elif kind == "clear":
        col.clear()
        truth.clear()
    elif kind == "compact":
        col.compact()
    elif kind == "again":
        col.set_text_index()
    elif kind == "backup":
        col.backup(path / "copy", incremental=True)
        with bqstore.open(path / "copy", read_only=True) as copy:
            assert copy.verify().ok
            check(copy, truth, "fox cafe", few=hybrid._FEW_TEXTS)
    elif kind == "reopen":
        col.close()
        return bqstore.open(path / "store")
    return col


@settings(max_examples=often(25), deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(steps=st.lists(step, max_size=12), query=st.lists(st.sampled_from(VOCABULARY), max_size=3), few=st.booleans())
def test_words_are_found_as_in_a_dictionary(tmp_path_factory, monkeypatch, steps, query, few):
    if not few:  # common and heavy words in a collection that is small
        for name, value in {"_FEW_TEXTS": 2, "_HEAVY": 4, "_CANDIDATES": 2}.items():
            monkeypatch.setattr(hybrid, name, value)
    path = tmp_path_factory.mktemp("words")
    col, truth = bqstore.open(path / "store", text_index=True, dim=DIM), {}
    for done in steps:
        col = act(col, truth, done, path)
        check(col, truth, " ".join(query).replace("-", " ").replace("'", " "), few=hybrid._FEW_TEXTS)
    assert col.verify().ok
    col.close()


# ---- both sides


@pytest.fixture
def col():
    with bqstore.open(text_index=True) as col:
        texts = ["red fox", "red dog", "blue dog", None, "green fish fish"]
        col.add(np.eye(5), list("abcde"), texts, [{"n": i} for i in range(5)])
        yield col


def test_ranks_are_fused_as_the_paper_has_it(col):
    hits = col.search(np.arange(5, 0, -1), text="dog fish", k=5, alpha=0.25, fusion="rrf")
    ranks = {"vector": dict(zip("abcde", range(1, 6), strict=True)), "text": {"e": 1, "b": 2, "c": 3}}
    wanted = {i: 0.25 / (60 + ranks["vector"][i]) for i in "abcde"}
    for i, rank in ranks["text"].items():
        wanted[i] += 0.75 / (60 + rank)
    assert [hit.id for hit in hits] == sorted(wanted, key=lambda i: -wanted[i])
    assert [hit.score for hit in hits] == pytest.approx(sorted(wanted.values(), reverse=True))
    assert [sorted(hit.scores) for hit in hits] == [["text", "vector"]] * 3 + [["vector"]] * 2
    assert hits[0].scores["text"] == col.search(text="dog fish")[0].score


def test_scores_are_fused_relative_to_those_of_their_side(col):
    hits = col.search(np.eye(5)[0], text="dog fish", k=5, fusion="relative_score", alpha=0.4)
    texts = {hit.id: hit.score for hit in col.search(text="dog fish")}
    low, high = min(texts.values()), max(texts.values())
    wanted = {i: 0.4 * (i == "a") + 0.6 * (texts.get(i, low) - low) / (high - low) for i in "abcde"}
    assert {hit.id: hit.score for hit in hits} == pytest.approx(wanted)
    assert [hit.id for hit in hits] == ["e", "a", "b", "c", "d"]  # equal ones as they were added
    assert [h.id for h in col.search(np.eye(5)[0], text="dog", k=1, alpha=1)] == ["a"]


def test_where_words_alone_weigh_the_last_of_them_is_before_what_words_have_not_found():
    with bqstore.open(text_index=True) as col:
        texts = ["nothing"] * 5 + ["pump pump", "a pump and much more"]
        col.add(np.eye(7), list("abcdefg"), texts)
        words = [hit.id for hit in col.search(text="pump")]
        assert words == ["f", "g"]
        for fusion in hybrid.FUSIONS:
            hits = col.search(np.eye(7)[0], text="pump", k=7, alpha=0, fusion=fusion)
            assert [hit.id for hit in hits] == [*words, *"abcde"], fusion


def test_threads_that_count_many_words_keep_what_others_read(monkeypatch):
    monkeypatch.setattr(hybrid, "_REMEMBERED", 1)
    monkeypatch.setattr(hybrid, "_FEW_TEXTS", 1)
    with bqstore.open(text_index=True) as col:
        col.add(np.eye(4), list("abcd"), ["one", "two", "three", "four"])
        col.search(text="one two")
        known = col._engine.publisher.state.prepared["words"]
        assert len(known) == 3
        col.search(text="three")
        assert set(known) == {None, "one", "two"}  # a search that began before goes on with them


def test_ids_filters_thresholds_and_batches_are_those_of_a_search(col):
    queries, texts = np.eye(5)[:2], ["fish", "red"]
    lists = col.search_batch(queries, texts=texts, k=3)
    ids, scores = col.search_ids(queries, texts=texts, k=3)
    for i in range(2):
        one = col.search(queries[i], text=texts[i], k=3)
        assert lists[i] == one and [hit.id for hit in one] == ids[i].tolist()
        assert scores[i].tolist() == pytest.approx([hit.score for hit in one])
    assert [hit.id for hit in col.search(text="red", filter={"n": {"$gt": 0}})] == ["b"]
    assert [hit.id for hit in col.search(text="red dog", filter=lambda record: record.id != "b")] == ["a", "c"]
    assert [hit.id for hit in col.search([1, 0, 0, 0, 0], text="red", filter=lambda r: r.id > "b", k=9)] == [
        "c",
        "d",
        "e",
    ]
    least = col.search(text="dog fish")[1].score
    assert len(col.search(text="dog fish", score_threshold=least)) == 3 - (col.search(text="dog fish")[2].score < least)
    assert col.search(text="fish", with_vectors=True)[0].vector.tolist() == np.eye(5)[4].tolist()
    assert col.search(text="") == [] and col.search(text="...") == [] and len(col.search(np.eye(5)[0], text="")) == 5


def test_explain_names_the_words(col, monkeypatch):
    how = col.search(text="Fish, dog", explain=True).explanation
    assert (how.way, how.mode, how.words, how.common, how.candidates) == ("text", "text", ("Fish", "dog"), (), 3)
    how = col.search(np.eye(5)[0], text="fish", explain=True, filter={"n": {"$lt": 2}}).explanation
    assert (how.way, how.mode, how.words, how.selectivity) == ("exact", "hybrid", ("fish",), 0.4)
    monkeypatch.setattr(hybrid, "_FEW_TEXTS", 0)
    col.add(np.ones((3, 5)), texts=["red"] * 3)
    hits = col.search(text="red fish", explain=True, k=4)
    assert (hits.explanation.words, hits.explanation.common) == (("fish",), ("red",))
    assert [hit.id for hit in hits][:3] == ["e", "a", "b"] and [hit.score for hit in hits][1:] == [0, 0, 0]


def test_heavy_words_rank_what_rarer_words_find_and_no_more_where_that_suffices(monkeypatch):
    rng = np.random.default_rng(0)
    for name, value in {"_FEW_TEXTS": 10, "_HEAVY": 20, "_CANDIDATES": 40}.items():
        monkeypatch.setattr(hybrid, name, value)
    monkeypatch.setattr(text_index, "_IN_SQL", 100)
    asked = []
    real = hybrid._Finder._of_light
    monkeypatch.setattr(hybrid._Finder, "_of_light", lambda *given: asked.append(real(*given)) or asked[-1])
    shares = {"all": 0.9, "half": 0.45, "third": 0.3, "some": 0.04, "few": 0.02, **dict.fromkeys("uvwx", 0.08)}
    counts = [[(rng.random() < share) * rng.integers(1, 4) for share in shares.values()] for _ in range(500)]
    texts = [" ".join(w for w, n in zip(shares, each, strict=True) for _ in range(n)) for each in counts]
    truth = {str(i): (text, {"n": i % 2}) for i, text in enumerate(texts)}
    with bqstore.open(text_index=True) as col:
        col.add(np.ones((500, DIM)), list(truth), texts, [m for _, m in truth.values()])
        for query in ("half third few", "all u some few", "few some", "u v w x some", "all", "half few nothing"):
            for k in (1, 8, 60):
                check(col, truth, query, k, few=10)
        assert {enough for _, enough in asked} == {True, False}
        monkeypatch.setattr(hybrid, "_RANKING", 2)  # of a long text the rarest words rank
        assert col.search(text="u third some all few half", k=60) == col.search(text="some few all", k=60)
        assert col.search(text="u third some few nothing", explain=True).explanation.words == ("some", "few")
        hits = col.search(np.ones(DIM), text="all", k=5)  # which tells nothing
        assert [(hit.id, list(hit.scores)) for hit in hits] == [(str(i), ["vector"]) for i in range(5)]


def test_beside_a_vector_odd_rare_words_hid_what_has_the_subject_of_the_question(monkeypatch):
    """Only what had one of the words of few texts was looked for: recall fell below that of either side alone."""
    monkeypatch.setattr(hybrid, "_FEW_TEXTS", 10)
    monkeypatch.setattr(text_index, "_IN_SQL", 10)
    texts = ["boundary layer flow" if i % 20 == 0 else "obeyed" if i == 7 else "else" for i in range(200)]
    with bqstore.open(text_index=True) as col:
        col.add(np.eye(200), [str(i) for i in range(200)], texts)
        for given in ({}, {"filter": {"n": {"$exists": False}}}):
            question = {"text": "which boundary layer flow is obeyed", "k": 11, **given}
            words, both = col.search(**question), col.search(np.eye(200)[1], fusion="rrf", alpha=0.01, **question)
            assert [(hit.id, hit.score) for hit in words] == [(hit.id, hit.scores["text"]) for hit in both]
            assert sum(hit.text == "boundary layer flow" for hit in both) == 10


def test_what_cannot_be_searched_is_an_error_by_name(col):
    for wrong, words in (
        ({"mode": "text"}, "expected text="),
        ({"text": "x", "mode": "hybrid"}, "and a vector"),
        ({"text": 3}, "expected a string"),
        ({"text": "\ud800"}, "text holds a lone surrogate"),
        ({"text": "x", "mode": "both"}, "mode is 'both'"),
        ({"text": "x", "alpha": 1.5}, "alpha is 1.5"),
        ({"text": "x", "fusion": "sum"}, "fusion is 'sum'"),
        ({"text": "x", "allow_damaged": True}, "allow_damaged"),
        ({"text": 'a "', "syntax": "fts5"}, "no expression of FTS5"),
        ({"text": "nope : a", "syntax": "fts5"}, "no such column"),
        ({"text": "*reads", "syntax": "fts5"}, r"begins with \*"),
    ):
        with pytest.raises(InvalidInputError, match=words):
            col.search(**wrong)
    for name, value in (("fusion", "rrf"), ("alpha", 0.5), ("syntax", "words")):  # the defaults, too, if given
        for mode in ({}, {"mode": "vector"}, {"filter": {"n": 1}}, {"mode": "vector", "text": "fox"}):
            with pytest.raises(
                InvalidInputError, match=f"{name} is .* the mode of this search is 'vector'; {name} is for"
            ):
                col.search(np.eye(5)[0], **mode, **{name: value})
        with pytest.raises(InvalidInputError, match="texts="):
            col.search_ids(np.eye(5)[:1], **{name: value})
    for name, value in (("fusion", "rrf"), ("alpha", 0.5)):
        with pytest.raises(InvalidInputError, match=f"of this search is 'text'; {name} is for mode='hybrid', which"):
            col.search(text="fox", **{name: value})
    with pytest.raises(InvalidInputError, match="texts has 1, vectors 2"):
        col.search_batch(np.eye(5)[:2], texts=["x"])
    assert [hit.id for hit in col.search(text="red NOT dog", syntax="fts5")] == ["a"]
    assert [hit.id for hit in col.search(np.eye(5)[3], text="fox", mode="vector", k=1)] == ["d"]
    with bqstore.open() as plain, pytest.raises(InvalidInputError, match="no text index"):
        plain.search(text="x")


@settings(max_examples=often(60), deadline=None)
@given(st.text(max_size=40), st.sampled_from(["unicode61", "porter", "trigram"]))
def test_no_text_is_an_expression(text, tokenize):
    with bqstore.open(text_index={"tokenize": tokenize}) as col:
        col.add(np.eye(2), texts=[text, "another"])
        assert len(col.search(text=text)) <= 2
        if any(c.isalnum() for c in text) and tokenize == "unicode61" and text.isascii():
            assert text in [hit.text for hit in col.search(text=text)]


def test_settings_of_bm25_are_told_that_they_are_fixed():
    for name in ("k1", "b"):
        with pytest.raises(bqstore.UnknownKeywordError, match="which SQLite's FTS5 lets nobody change"):
            bqstore.open(text_index={"tokenize": "porter", name: 0.5})


def test_tokenizers_find_what_they_are_for():
    texts = ["running horses", "机器学习方法", "def getUserName(self)", "naïve"]
    for tokenize, query, wanted in (
        ("porter", "run", [0]),
        ("porter", "naive", [3]),
        ("unicode61", "run", []),
        ("trigram", "学习方", [1]),
        ("trigram", "username", [2]),
        ("trigram", "ab", []),
    ):
        with bqstore.open(text_index={"tokenize": tokenize}) as col:
            col.add(np.eye(4), [str(i) for i in range(4)], texts)
            assert [hit.id for hit in col.search(text=query)] == [str(i) for i in wanted], (tokenize, query)
    assert words_of("Ein Haus, ein\u0301 haus! x_y", "unicode61") == ["Ein", "Haus", "ein\u0301", "x", "y"]
    assert len(words_of(" ".join(map(str, range(1000))), "unicode61")) == 256


# ---- switched on later, and changed


def test_an_index_that_is_switched_on_later_is_built_while_others_write(tmp_path, monkeypatch):
    monkeypatch.setattr(text_index, "_PORTION", 3)
    with bqstore.open(tmp_path) as col:
        col.add(np.ones((20, DIM)), [f"d{i}" for i in range(20)], [f"word{i} all" for i in range(20)])
        monkeypatch.setattr(bqstore.engine.text_upkeep.TextUpkeep, "start", lambda self: None)
        with bqstore.open(tmp_path, text_index=True) as later:
            store = later._engine.store
            for _ in range(2):
                later._engine.write(store.grow_text_index)  # up to d5
            assert col.info().text_index == {"tokenize": "unicode61", "built": 0.3}
            with pytest.raises(NotReadyError, match="30%"):
                col.search(text="word1")
            assert [hit.id for hit in later.search(np.ones(DIM), k=1)] == ["d0"]
            col.delete(["d1", "d15"])
            col.update(["d2", "d16", "d17"], texts=["new2 all", "new16 all", "new17 all"])
            col.add(np.ones((3, DIM)), ["d3", "d18", "d20"], ["new3 all", "new18 all", "new20 all"])
            assert col.verify().ok
            col.backup(tmp_path / "half")
        with bqstore.open(tmp_path) as again:
            again.flush()
            assert len(again.search(text="all", k=30)) == 19 and again.verify().ok
            for word, wanted in (
                ("word1", []),
                ("new2", ["d2"]),
                ("word16", []),
                ("new18", ["d18"]),
                ("word19", ["d19"]),
            ):
                assert [hit.id for hit in again.search(text=word)] == wanted
            again.backup(tmp_path / "half", incremental=True)
        with bqstore.open(tmp_path / "half") as copy:
            assert len(copy.search(text="all", k=30)) == 19 and copy.verify().ok


def test_it_is_built_in_the_background(tmp_path):
    with bqstore.open(tmp_path) as col:
        col.add(np.ones((50, DIM)), texts=["some words"] * 50)
    with bqstore.open(tmp_path, text_index={"tokenize": "porter"}) as col:
        wait_until(lambda: not col._engine.core.texts.is_due())
        assert len(col.search(text="word", k=50)) == 50


def test_a_backup_with_an_index_is_brought_up_to_date_word_by_word(tmp_path):
    with bqstore.open(tmp_path / "store", text_index=True) as col:
        col.add(np.ones((4, DIM)), list("abcd"), ["one all", "two all", "three all", "four all"])
        col.backup(tmp_path / "copy")
        col.delete(["a"])
        col.update(["b"], texts=["new all"])
        col.update_metadata(["c"], {"x": 1})
        col.add(np.ones((1, DIM)), ["e"], ["five all"])
        col.backup(tmp_path / "copy", incremental=True)
    with bqstore.open(tmp_path / "copy") as copy:
        for word, wanted in [("one", []), ("two", []), ("new", ["b"]), ("three", ["c"]), ("five", ["e"])]:
            assert [hit.id for hit in copy.search(text=word)] == wanted
        assert len(copy.search(text="all", k=9)) == 4 and copy.verify().ok


def test_a_cleared_collection_has_an_empty_index(tmp_path):
    with bqstore.open(tmp_path, text_index={"tokenize": "porter"}) as col:
        col.add(np.ones((2, DIM)), ["a", "b"], ["horses", "dogs"])
        col.clear()
        assert col.search(text="horse") == [] and col.verify().ok
        col.add(np.ones((1, DIM)), ["c"], ["horses"])
        assert [hit.id for hit in col.search(text="horse")] == ["c"] and col.verify().ok
        assert col._engine.write(col._engine.store.grow_text_index) is False  # nothing is missing


def test_an_sqlite_without_the_tokenizer_is_told_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setitem(text_index.TOKENIZERS, "trigram", "no_tokenizer_of_this_sqlite")
    with bqstore.open(tmp_path) as col:
        col.add(np.ones((1, DIM)), ["a"], ["horses"])
        with pytest.raises(StorageError, match=r"needs an SQLite that has FTS5 and this tokenizer"):
            col.set_text_index({"tokenize": "trigram"})
        assert col.info().text_index is None and col.verify().ok


def test_building_waits_for_who_keeps_the_lock_and_ends_where_the_disk_refuses(tmp_path, monkeypatch):
    with bqstore.open(tmp_path) as col:
        col.add(np.ones((3, DIM)), list("abc"), ["some words"] * 3)
    monkeypatch.setattr(bqstore.engine.text_upkeep.TextUpkeep, "start", lambda self: None)
    with bqstore.open(tmp_path, text_index=True) as col:
        texts, store = col._engine.core.texts, col._engine.store
        errors = [LockedError("somebody writes"), StorageError("the disk is full")]

        def refused(self):
            raise errors.pop(0)

        with monkeypatch.context() as patch:
            patch.setattr(type(store), "grow_text_index", refused)
            texts._work()  # as its thread does
        assert errors == [] and texts.is_due()
        texts._work()
        assert not texts.is_due() and len(col.search(text="words", k=9)) == 3


def test_an_index_is_changed_and_dropped_by_one_call_and_opening_says_so(tmp_path):
    with bqstore.open(tmp_path, text_index=True) as col:
        col.add(np.eye(2), ["a", "b"], ["horses", "dogs"])
        for asked in (False, {"tokenize": "porter"}):
            with pytest.raises(SettingsConflictError, match="set_text_index"):
                bqstore.open(tmp_path, text_index=asked)
        bqstore.open(tmp_path, text_index=True).close()
        assert col.info().text_index == {"tokenize": "unicode61"}
        assert col.search(text="horse") == [] and col.info().format_version == 5
        col.set_text_index({"tokenize": "porter"})
        assert [hit.id for hit in col.search(text="horse")] == ["a"]
        assert [hit.id for hit in pickle.loads(pickle.dumps(col)).search(text="horse")] == ["a"]
        assert [hit.id for hit in bqstore.load(tmp_path).search(text="horse")] == ["a"]
        col.set_text_index(False)
        assert col.info().format_version == 1 and col.info().text_index is None and col.verify().ok
    with sqlite3.connect(tmp_path / "default/meta.db") as db:
        assert db.execute("PRAGMA user_version").fetchone() == (1,)
    for wrong in ("porter", {"tokenize": "english"}, {"tokeniser": "porter"}, 1):
        with pytest.raises(InvalidInputError):
            bqstore.open(text_index=wrong)


def test_an_older_release_refuses_it_by_name(tmp_path, monkeypatch):
    bqstore.open(tmp_path, text_index=True).close()
    monkeypatch.setattr(text_index, "TABLES_VERSION", 1)  # what it knows
    with pytest.raises(FormatVersionError, match=r"meta\.db is in format 2; .* up to 1: upgrade"):
        bqstore.open(tmp_path)
    with bqstore.open(tmp_path / "live") as col:
        head = col._engine.store.head
        settings = {**head.settings, "text_index": {"tokenize": "unicode61"}}
        assert type(head)(**{**vars(head), "settings": settings}).format_version == 5


def test_repair_keeps_the_index(tmp_path):
    for originals in ("float32", "none"):
        path = tmp_path / originals
        with bqstore.open(path, text_index={"tokenize": "porter"}, originals=originals) as col:
            col.add(np.eye(2), ["a", "b"], ["horses", "dogs"])
        bqstore.repair(path, path / "new")
        with bqstore.open(path / "new") as col:
            assert [hit.id for hit in col.search(text="dog")] == ["b"] and col.verify().ok


def test_deleted_words_are_nowhere_after_a_compaction(tmp_path):
    with bqstore.open(tmp_path, text_index=True) as col:
        for i in range(20):
            col.add(np.eye(2), [f"{i}", f"{i}b"], [f"secret{i}word", "other"])
        col.delete([str(i) for i in range(20)])
        col.compact()
    assert not [file for file in tmp_path.rglob("*") if file.is_file() and b"secret" in file.read_bytes()]


def test_verify_says_when_index_and_rows_differ(tmp_path):
    for i, (damage, words) in enumerate(
        (
            ("DELETE FROM words_docsize WHERE id = 1", "lacks 1 texts"),
            ("INSERT INTO words (words, rowid, text) VALUES ('delete', 1, 'dogs')", "lacks 1 texts"),
            ("UPDATE rows SET text = 'cats' WHERE rid = 1", "does not hold the words"),
            ("UPDATE words_data SET block = x'00' WHERE id > 10", "cannot be read"),
        )
    ):
        with bqstore.open(tmp_path / str(i), text_index=True) as col:
            col.add(np.eye(2), ["a", "b"], ["horses", "dogs"])
        db = sqlite3.connect(tmp_path / str(i) / "default/meta.db")
        db.execute(damage)
        db.commit()
        db.close()
        with bqstore.open(tmp_path / str(i)) as col:
            assert [line for line in col.verify().problems if words in line], (damage, col.verify())
            if "UPDATE rows" not in damage:
                col.set_text_index()
                assert col.verify().ok and [hit.id for hit in col.search(text="dogs")] == ["b"]


# ---- many processes


@pytest.mark.long
def test_processes_see_the_words_of_each_other(tmp_path):
    with bqstore.open(tmp_path, text_index=True) as col, other_process(tmp_path) as other:
        for i in range(10):
            col.add(np.eye(2)[:1], [f"mine{i}"], [f"one word{i}"])
            assert other(f"[h.id for h in col.search(text='word{i}')]") == [f"mine{i}"]
            other(f"col.add(np.eye(2)[:1], ['its{i}'], ['two word{i}'])")
            assert [hit.id for hit in col.search(text=f"word{i}")] == [f"mine{i}", f"its{i}"]
            other(f"col.update(['mine{i}'], texts=['gone'])")
            assert [hit.id for hit in col.search(text=f"word{i}")] == [f"its{i}"]
        with bqstore.open(tmp_path, read_only=True) as reader:
            assert len(reader.search(text="two", k=20)) == 10
        other("col.set_text_index({'tokenize': 'porter'})")
        assert len(col.search(text="words word0", k=20)) == 1 and col.verify().ok and other("col.verify().ok")


KILLED = """
import sys, itertools, numpy as np, bqstore
with bqstore.open(sys.argv[1], text_index=True) as col:
    for i in itertools.count(len(col)):
        col.add(np.ones((3, 4)), [f"{i} {j}" for j in range(3)], [f"all number{i} part{j}" for j in range(3)])
        col.update([f"{i} 0"], texts=[f"all changed{i}"])
        col.delete([f"{i} 1"])
        print(i, flush=True)
"""


@pytest.mark.long
def test_words_and_rows_are_one_commit_whenever_a_process_is_killed(tmp_path):
    for delay in (0.2, 0.05, 0.35, 0.5, 0.1)[: often(5)]:
        with subprocess.Popen(
            [sys.executable, "-c", KILLED, str(tmp_path)], stdout=subprocess.PIPE, cwd=ROOT
        ) as process:
            first = process.stdout.readline()
            time.sleep(delay)
            process.send_signal(signal.SIGKILL)
            done = [int(line) for line in [first, *process.stdout] if line.endswith(b"\n")]
        with bqstore.open(tmp_path) as col:
            assert col.verify().ok
            assert len(col.search(text="all", k=10_000)) == len(col)
            assert all(col.search(text=f"changed{i}")[0].id == f"{i} 0" for i in done)
            assert not [hit for i in done for hit in col.search(text=f"number{i}") if hit.id == f"{i} 0"]


def test_an_index_that_has_become_empty_was_said_to_be_damaged():
    with bqstore.open(text_index=True) as col:
        col.add(np.ones((1, DIM)), ["a"], ["fox"])
        col.add(np.ones((1, DIM)), ["a"], [None])
        assert col.verify().ok and not col.search(text="fox")
        col.add(np.ones((1, DIM)), ["a"], [""])
        assert col.verify().ok
        col.delete(["a"])
        assert col.verify().ok


def test_of_words_of_many_texts_some_are_scored_from_all_over_the_collection(monkeypatch):
    rng = np.random.default_rng(0)
    for name, value in {"_FEW_TEXTS": 10, "_HEAVY": 20, "_SCORED": 100, "_CANDIDATES": 4}.items():
        monkeypatch.setattr(hybrid, name, value)
    monkeypatch.setattr(text_index, "_IN_SQL", 40)
    shares = {"half": 0.45, "third": 0.3, "few": 0.02, **dict.fromkeys("uvwx", 0.08)}
    counts = [[(rng.random() < share) * rng.integers(1, 4) for share in shares.values()] for _ in range(1000)]
    texts = [" ".join(w for w, n in zip(shares, each, strict=True) for _ in range(n)) for each in counts]
    truth = {str(i): (text, {"n": i % 30}) for i, text in enumerate(texts)}
    asked = []
    real = text_index.ranked

    def ranked(connection, expression, limit=-1, among=None, every=1):
        found = [each for portion in real(connection, expression, limit, among, every) for each in portion]
        asked.append((among, every))
        yield found

    with bqstore.open(text_index=True) as col:
        col.add(np.ones((1000, DIM)), list(truth), texts, [m for _, m in truth.values()])
        col.delete([str(i) for i in range(0, 1000, 7)])
        for i in range(0, 1000, 7):
            del truth[str(i)]
        for query in ("half third", "half", "half third few", "third u"):
            rarer = "few" in query
            exact = bm25({name: text for name, (text, _) in truth.items()}, query, few=10)
            scores = dict(exact)
            monkeypatch.setattr(text_index, "ranked", ranked)
            for k in (1, 8, 40):
                asked.clear()
                hits = col.search(text=query, k=k)
                assert len(hits) == k == len({hit.id for hit in hits})
                assert all(math.isclose(hit.score, scores[hit.id], abs_tol=1e-9) for hit in hits)
                assert [hit.score for hit in hits] == sorted((hit.score for hit in hits), reverse=True)
                spread = {int(hit.id) // 250 for hit in hits}
                assert len(spread) == 4 or k < 40
                if k == 40:
                    assert sum(every > 1 for _, every in asked) == 1
                    assert all(every > 1 or among for among, every in asked) or rarer  # nothing else is scored
                if rarer and k == 1:  # what has the rare word is scored, too
                    assert hits[0].id == exact[0][0]
            monkeypatch.setattr(text_index, "ranked", real)
            check(col, truth, query, 10**4 - 1, few=10)  # all there are
            for n in range(3):  # of few that may be found, all are looked at
                kept = {name: each for name, each in truth.items() if each[1]["n"] == n}
                found = col.search(text=query, k=500, filter={"n": n})
                wanted = [name for name, _ in exact if name in kept]
                assert [hit.id for hit in found] == wanted


def test_a_text_has_one_score_by_whichever_way_it_is_found(monkeypatch):
    """All ways sum BM25 in one order, the light words first: else rounding would order equal texts."""
    rng = np.random.default_rng(1)
    for name, value in {"_FEW_TEXTS": 10, "_HEAVY": 20, "_CANDIDATES": 20, "_SCORED": 100}.items():
        monkeypatch.setattr(hybrid, name, value)
    shares = {"half": 0.45, "few": 0.02, "third": 0.3, "rarely": 0.03, "quarter": 0.25}
    texts = [
        " ".join(w for w, share in shares.items() for _ in range((rng.random() < share) * rng.integers(1, 3)))
        for _ in range(600)
    ]
    query, ways, real = " ".join(shares), [], text_index.ranked
    with bqstore.open(text_index=True) as col:
        col.add(np.ones((600, DIM)), texts=texts, metadatas=[{"n": i % 2} for i in range(600)])

        def ranked(connection, expression, limit=-1, among=None, every=1):
            ways.append(" AND " in expression)
            return real(connection, expression, limit, among, every)

        monkeypatch.setattr(text_index, "ranked", ranked)
        some = {hit.id: hit.score for hit in col.search(text=query, k=40)}
        assert any(ways) and any(not each for each in ways)
        for given in ({"k": 600}, {"k": 600, "filter": {"n": {"$gte": 0}}}):  # all are scored, as there are too few
            whole = {hit.id: hit.score for hit in col.search(text=query, **given)}
            assert len(whole) < 600 and all(whole[id_] == score for id_, score in some.items())
