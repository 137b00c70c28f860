"""`CachedEmbedder`: the cache around any embedding model."""

import sys
from dataclasses import dataclass
from enum import Enum
from types import SimpleNamespace

import numpy as np
import pytest

import bqstore
from bqstore.embeddings import CachedEmbedder
from bqstore.errors import EmbeddingError, InvalidInputError, SettingsConflictError

from .fake_server import vector_of


class Counting:
    """Like LangChain's `Embeddings`."""

    def __init__(self):
        self.asked = []

    def embed_documents(self, texts):
        self.asked += texts
        return [vector_of(text).tolist() for text in texts]

    def embed_query(self, text):
        self.asked.append(text)
        return (-vector_of(text)).tolist()


def test_a_cache_around_anything(tmp_path):
    inner = Counting()
    for _ in range(2):
        embedder = CachedEmbedder(inner, model="own", cache=tmp_path)
        np.testing.assert_array_equal(embedder.embed(["a", "b", "a"]), [vector_of("a"), vector_of("b"), vector_of("a")])
        np.testing.assert_array_equal(embedder.embed_query("a"), -vector_of("a"))
    assert inner.asked == ["a", "b", "a"]
    assert CachedEmbedder(embedder, cache=False).embed([]).shape == (0, 0)
    assert repr(embedder) == "CachedEmbedder(model='own')"
    without = CachedEmbedder(Counting(), model="own", cache=False)
    np.testing.assert_array_equal(without.embed(["z"]), [vector_of("z")])
    assert embedder.as_langchain().embed_documents(["a"]) == [vector_of("a").tolist()]
    with pytest.raises(InvalidInputError, match="no model's name"):
        CachedEmbedder(inner)
    inner.embed_documents = lambda texts: [[1.0, float("nan")]]
    with pytest.raises(EmbeddingError, match="something else than 1 finite vectors"):
        CachedEmbedder(inner, model="own", cache=tmp_path).embed(["c"])


def test_a_cached_embedder_fills_a_collection_and_searches_it(tmp_path):
    class Inner:
        model_name, texts = "own", []

        def embed_documents(self, texts):
            self.texts += texts
            return [vector_of(text).tolist() for text in texts]

        def embed_query(self, text):
            return vector_of(text).tolist()

    texts = [f"text {i}" for i in range(25)]
    embedder = CachedEmbedder(Inner(), cache=tmp_path)
    with bqstore.open() as store:
        assert embedder.add_to(store, iter(texts), texts, batch=10) == 25
        assert embedder.add_to(store, iter(texts), texts, batch=7) == 25 and Inner.texts == texts
        assert store.info().embedding_model == "own" and len(store) == 25
        assert embedder.search(store, "text 7", 1)[0].id == "text 7"
        with pytest.raises(SettingsConflictError, match=r"'own'.*'another'"):
            CachedEmbedder(Inner(), model="another", cache=tmp_path).search(store, "text 7")


class Inner:
    model = "own"

    def __init__(self, **settings):
        self.__dict__.update(settings)

    def embed_documents(self, texts):
        return [vector_of(text, self.dimensions).tolist() for text in texts]

    def embed_query(self, text):
        return vector_of(text, self.dimensions).tolist()


def test_a_cache_tells_dimensions_and_servers_of_one_name_apart(tmp_path):
    for settings in ({"dimensions": 8}, {"dimensions": 4}, {"dimensions": 4, "base_url": "http://localhost:1"}):
        embedder = CachedEmbedder(Inner(**settings), cache=tmp_path)
        np.testing.assert_allclose(embedder.embed(["a"])[0], vector_of("a", settings["dimensions"]))
        assert embedder.dim == settings["dimensions"]
        assert len(embedder._cache.get([embedder._passages.key_of("b")])) == 0
    other = CachedEmbedder(Inner(dimensions=4, base_url="http://localhost:2"), cache=tmp_path)
    assert other._cache.get([other._passages.key_of("a")]) == {}


def test_another_dimension_than_the_cache_holds_is_an_error(tmp_path):
    inner = Counting()
    CachedEmbedder(inner, model="own", cache=tmp_path).embed(["a"])
    inner.embed_documents = lambda texts: [[1.0] * 4 for _ in texts]
    with pytest.raises(EmbeddingError, match="another dimension than the cache holds"):
        CachedEmbedder(inner, model="own", cache=tmp_path).embed(["a", "b"])


@pytest.mark.parametrize("answer", [None, [["x"]], [[1.0], [2.0]]])
def test_an_answer_that_is_no_vectors_is_refused(answer):
    inner = Inner(dimensions=8)
    inner.embed_documents = lambda texts: answer
    with pytest.raises(EmbeddingError, match="something else than 1 finite vectors"):
        CachedEmbedder(inner, cache=False).embed(["a"])


def test_how_many_vectors_came_for_how_many_texts_was_not_told():
    inner = Inner(dimensions=8)
    inner.embed_documents = lambda texts: [[1.0, 2.0]]
    with pytest.raises(EmbeddingError, match="finite vectors of one dimension: it gave 1 vector"):
        CachedEmbedder(inner, cache=False).embed(["a", "b"])


def test_what_cannot_embed_is_refused():
    for embedder in (object(), Inner):
        with pytest.raises(InvalidInputError, match="expected an object with embed_documents"):
            CachedEmbedder(embedder)


def test_a_framework_that_is_missing_is_named(monkeypatch):
    embedder = CachedEmbedder(Inner(dimensions=8), cache=False)
    monkeypatch.setitem(sys.modules, "langchain_bqstore", None)
    with pytest.raises(ImportError, match=r'pip install "bqstore\[langchain\]"'):
        embedder.as_langchain()


@dataclass
class Options:
    normalize: bool = False
    client: object = None


class Pooling(Enum):
    MEAN, LAST = range(2)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"normalize": False}, {"normalize": True}),
        ({"encode_kwargs": {"normalize": False}}, {"encode_kwargs": {"normalize": True}}),
        ({"query_instruction": "a"}, {"query_instruction": "b"}),
        ({"layers": (1, 2)}, {"layers": (2, 3)}),
        ({"options": Options()}, {"options": Options(normalize=True)}),
        ({"pooling": Pooling.MEAN}, {"pooling": Pooling.LAST}),
    ],
)
def test_settings_of_a_model_are_kept_apart(tmp_path, before, after):
    """Old vectors came, in silence."""

    class Model(Counting):
        model = "own"

    asked = []
    for fields in (before, after, {**after, "batch_size": 3, "api_key": "sk-x"}):
        inner = Model()
        inner.__dict__.update(fields)
        CachedEmbedder(inner, cache=tmp_path).embed(["a"])
        asked.append(len(inner.asked))
    assert asked == [1, 1, 0]


def test_settings_in_slots_are_kept_apart(tmp_path):
    class Slots:
        __slots__ = ("model", "normalize", "unset")
        embed = embed_query = Counting.embed_query

        def __init__(self, model, normalize):
            self.model, self.normalize = model, normalize

    keys = {CachedEmbedder(Slots("own", on), cache=tmp_path)._passages.key_of("a") for on in (True, False)}
    assert len(keys) == 2


def test_settings_that_are_named_stand_for_all_others(tmp_path):
    asked = []
    for fields, settings in ((1, {"a": 1}), (2, {"a": 1}), (2, {"a": 2})):
        inner = Counting()
        inner.model, inner.field = "own", fields
        CachedEmbedder(inner, cache=tmp_path, settings=settings).embed(["a"])
        asked.append(len(inner.asked))
    assert asked == [1, 0, 1]
    with pytest.raises(InvalidInputError, match="settings is 3"):
        CachedEmbedder(inner, cache=False, settings=3)


@pytest.mark.parametrize("texts", [{"a": 1}, {"a", "b"}])
def test_what_has_no_order_or_is_a_dictionary_is_refused(texts):
    """The keys were embedded."""
    with pytest.raises(InvalidInputError, match=f"texts is of type {type(texts).__name__}"):
        CachedEmbedder(Inner(dimensions=8), cache=False).embed(texts)


def test_vectors_may_come_one_by_one_and_complex_ones_lose_no_part_in_silence(tmp_path):
    class OneByOne(Counting):
        def embed_documents(self, texts):
            return ([len(text), 1j if text == "i" else 1] for text in texts)

    embedder = CachedEmbedder(OneByOne(), model="m", cache=tmp_path)
    assert embedder.embed(["a", "bc"]).tolist() == [[1, 1], [2, 1]]
    with pytest.raises(EmbeddingError, match="something else than 1 finite vectors"):
        embedder.embed(["i"])
    embedder._passages = embedder._passages._replace(ask=lambda texts: [[1e39]])
    with pytest.raises(EmbeddingError, match="something else than 1 finite vectors"):
        embedder.embed(["too big for float32"])


def test_a_store_of_a_framework_in_place_of_its_collection_is_named(tmp_path):
    embedder = CachedEmbedder(Counting(), model="m", cache=tmp_path)
    with bqstore.open() as collection:
        for given in (SimpleNamespace(collection=collection), "a path"):
            end = "its .collection" if given != "a path" else "bqstore.Collection"
            with pytest.raises(InvalidInputError, match=f"collection is of type .*{end}$"):
                embedder.add_to(given, ["a"])
            with pytest.raises(InvalidInputError, match=f"collection is of type .*{end}$"):
                embedder.search(given, "a")
