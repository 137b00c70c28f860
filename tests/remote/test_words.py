"""Searches for words on a server, alone and with vectors: what they match, and how they fuse, is as locally."""

import math

import numpy as np
import pytest
from langchain_core.embeddings import DeterministicFakeEmbedding
from llama_index.core.schema import TextNode
from llama_index.core.vector_stores.types import VectorStoreQuery, VectorStoreQueryMode
from qdrant_client import QdrantClient

import bqstore
import langchain_bqstore
from llama_index.vector_stores.bqstore import BQVectorStore

from .shim import running

TEXTS = [
    "the quick brown fox", "a lazy dog", "error E1042 of the pump", "Café au lait", None, "the dog, running",
    "日本語のテスト", "", "dogs run and run", "pump pump pump", "E1042", "the the the lazy fox",
]  # fmt: skip
IDS = [f"{i}" for i in range(len(TEXTS))]
QUERIES = ["dog", "E1042 pump", "cafe", "the", 'fox dog -lazy OR "x', "nowhere", "", "日本語のテスト", "running"]


def vectors(n=12, seed=0):
    return np.random.default_rng(seed).standard_normal((n, 4), dtype=np.float32)


def filled(col):
    col.add(vectors(), IDS, TEXTS, [{"n": i} for i in range(len(TEXTS))])
    return col


@pytest.fixture
def pair(client, name, request):
    """One shard there: of several, each reckons by itself how rare a word is, and of 12 documents some have few."""
    settings = {"text_index": True, **getattr(request, "param", {})}
    with bqstore.open(**settings) as local, bqstore.open(client, name, shard_number=1, **settings) as remote:
        yield filled(local), filled(remote)


TOKENIZERS = [{"text_index": {"tokenize": each}} for each in ("unicode61", "porter", "trigram")]


@pytest.mark.parametrize("pair", TOKENIZERS, indirect=True, ids=str)
def test_words_match_the_same_documents(pair):
    local, remote = pair
    for text in QUERIES:
        for filter in (None, {"n": {"$lt": 6}}):
            found = [col.search(k=20, text=text, filter=filter) for col in pair]
            assert {hit.id for hit in found[0]} == {hit.id for hit in found[1]}, text
            assert all(hit.scores == {"text": hit.score} for hit in found[1])
            assert {hit.id: (hit.text, hit.metadata) for hit in found[0]} == {
                hit.id: (hit.text, hit.metadata) for hit in found[1]
            }
    assert remote.info().text_index == local.info().text_index
    assert remote.search(k=2, text="pump")[0].id == "9"  # three times


@pytest.mark.parametrize("pair", [{"distance": each} for each in ("cosine", "euclid")], indirect=True, ids=str)
def test_both_sides_are_fused_by_the_same_rule(pair):
    """What is found of each side is the same, so ranks and relative scores are; BM25 itself differs a little."""
    remote = pair[1]
    query = vectors(1, seed=3)[0]
    for given in ({"alpha": 1.0}, {"alpha": 1.0, "fusion": "rrf"}, {"fusion": "rrf", "alpha": 0.7}, {}):
        for text in ("cafe", "quick", "nowhere"):  # one document at most has the word
            found = [col.search(query, 20, text=text, exact=True, **given) for col in pair]
            assert [hit.id for hit in found[0]] == [hit.id for hit in found[1]]
            for a, b in zip(*found, strict=True):
                assert math.isclose(a.score, b.score, abs_tol=1e-5) and set(a.scores) == set(b.scores)
                assert math.isclose(a.scores["vector"], b.scores["vector"], abs_tol=1e-5)
    hit = remote.search(query, 1, text="E1042 pump", alpha=0.0, with_vectors=True)[0]
    assert hit.text == "error E1042 of the pump" and hit.vector.shape == (4,) and hit.score == 1.0
    assert [h.id for h in remote.search(query, 20, text="dog", filter={"n": {"$lt": 2}}, score_threshold=0.4)]
    how = remote.search(query, 3, text="the pump", explain=True).explanation
    assert (how.mode, how.words) == ("hybrid", ("the", "pump"))
    assert remote.search(k=3, text="pump", explain=True).explanation.way == "text"


def test_several_at_once(pair):
    _, remote = pair
    some, texts = vectors(3, seed=3), ["dog", "", "pump"]
    for given in ({}, {"fusion": "rrf"}, {"fusion": "dbsf"}):
        lists = remote.search_batch(some, 5, texts=texts, **given)
        assert [[hit.id for hit in each] for each in lists] == [
            [hit.id for hit in remote.search(query, 5, text=text, **given)]
            for query, text in zip(some, texts, strict=True)
        ]
        ids, scores = remote.search_ids(some, 5, texts=texts, **given)
        assert ids.tolist() == [[hit.id for hit in each] for each in lists] and not np.isnan(scores).any()
    assert [len(each) for each in remote.search_batch(texts=texts)] == [2, 0, 2]
    assert remote.search_ids(texts=["E1042"], k=3)[0].tolist()[0][2] is None
    with pytest.raises(bqstore.InvalidInputError, match="texts has 1, vectors 3"):
        remote.search_batch(some, texts=["dog"])
    longest = remote.search(some[0], 1, text="dog", rerank=lambda text, hits: [len(h.text or "") for h in hits])[0]
    assert longest.id == "2"


def test_the_server_fuses_by_distributions(pair):
    remote = pair[1]
    query = vectors(1, seed=3)[0]
    hits = remote.search(query, 20, text="E1042 pump", fusion="dbsf")
    assert {hit.id for hit in hits} == set(IDS) and hits[0].id in ("2", "9", "10")
    some = remote.search(query, 2, text="E1042 pump", fusion="dbsf", filter={"n": {"$gte": 6}}, with_vectors=True)
    assert len(some) == 2 and all(int(hit.id) >= 6 and hit.vector is not None for hit in some)
    with pytest.raises(bqstore.InvalidInputError, match=r"alpha=0\.5 is for the fusions"):
        remote.search(query, text="dog", fusion="dbsf", alpha=0.5)


def test_words_follow_the_texts(pair):
    """Texts that are changed, taken away or come again; documents that are over or deleted."""
    for col in pair:
        col.update(["1", "3"], texts=["a lazy cat", ""])
        col.update(["0"], texts=["a dog"], vectors=vectors(1))
        col.update_metadata(["10"], {"n": 100})
        col.add(vectors(2), ["9", "new"], ["no more", "pump"])
        col.delete(["2"])
    for text in ("dog", "cat", "cafe", "E1042", "pump", "fox"):
        found = [sorted(hit.id for hit in col.search(k=20, text=text)) for col in pair]
        assert found[0] == found[1], text


def test_the_index_is_of_the_collection(client, name):
    with bqstore.open(client, name, text_index={"tokenize": "porter"}, dim=4) as col:
        assert col.search(k=3, text="dog") == []
        filled(col)
    with bqstore.open(client, name) as col:
        assert {hit.id for hit in col.search(k=9, text="dog")} == {"1", "5", "8"}
        with pytest.raises(bqstore.InvalidInputError, match=r"syntax='fts5' has no counterpart"):
            col.search(text="dog", syntax="fts5")
        col.clear()
        col.add(np.eye(3), texts=["dogs", None, "run"])
        assert [hit.text for hit in col.search(text="dog")] == ["dogs"]
    for other in (True, False):
        with pytest.raises(bqstore.SettingsConflictError, match="contradicts what this collection was made with"):
            bqstore.open(client, name, text_index=other)


def test_an_explained_search_of_words_before_the_first_document_has_its_explanation(client, name):
    with bqstore.open(client, name, text_index=True) as col:
        for given, mode in (([], "text"), ([np.ones(4)], "hybrid")):
            hits = col.search(*given, k=3, text="dog", explain=True)
            assert hits == [] and (hits.explanation.mode, hits.explanation.words) == (mode, ("dog",))


def test_without_an_index_words_are_refused_by_name(col):
    filled(col)
    for given in ({"text": "dog"}, {"mode": "text"}, {"text": "dog", "alpha": 0.3}):
        with pytest.raises(bqstore.InvalidInputError):
            col.search(vectors(1)[0], **given)
    with pytest.raises(bqstore.InvalidInputError, match=r"text='dog' is for searches for words, .* by text_index=True"):
        col.search(text="dog")
    assert len(col.search(vectors(1)[0], 2, text="dog", rerank=lambda text, hits: [len(text)] * len(hits))) == 2


def test_copies_keep_the_index(client, name, tmp_path):
    with bqstore.open(tmp_path / "store", text_index={"tokenize": "porter"}) as col:
        filled(col)
    assert bqstore.copy(tmp_path / "store", "default", name, to=client).ok
    assert bqstore.copy(client, name, "back", to=tmp_path / "back").ok
    with bqstore.open(client, name) as far, bqstore.open(tmp_path / "back", "back") as back:
        assert far.info().text_index == back.info().text_index == {"tokenize": "porter"}
        assert {hit.id for hit in far.search(k=9, text="dog")} == {hit.id for hit in back.search(k=9, text="dog")}


def test_a_copy_that_was_made_without_an_index_was_refused_the_next_time(client, name, tmp_path):
    with bqstore.open(tmp_path / "store", text_index=True) as col:
        filled(col)
    with bqstore.open(client, name) as col:
        col.add(vectors(1), IDS[:1], TEXTS[:1])
    assert bqstore.copy(tmp_path / "store", "default", name, to=client).ok
    assert bqstore.open(client, name).info().text_index is None
    with pytest.raises(bqstore.SettingsConflictError, match="text_index"):
        bqstore.copy(tmp_path / "store", "default", name, to=client, to_settings={"text_index": True})


def test_the_adapters_search_for_words_there():
    with running() as (_, address):
        embedding = DeterministicFakeEmbedding(size=8)
        with langchain_bqstore.BQVectorStore(embedding, path=f"{address}/lc", text_index=True) as store:
            store.add_texts(["the pump shows E1042", "the fan is loud"])
            assert store.similarity_search("E1042?", k=1, mode="hybrid", alpha=0.1)[0].page_content.endswith("E1042")
            assert len(store.as_retriever(search_type="text").invoke("loud fan")) == 1
        with BQVectorStore(f"{address}/li", text_index=True) as other:
            other.add([TextNode(text=text, embedding=[1.0, float(i)]) for i, text in enumerate(["a fan", "a pump"])])
            for mode in (VectorStoreQueryMode.TEXT_SEARCH, VectorStoreQueryMode.HYBRID):
                asked = VectorStoreQuery([0.5, 1.0], 1, query_str="pump", mode=mode)
                assert other.query(asked).nodes[0].get_content() == "a pump"


def test_the_mean_length_of_texts_is_settled_once():
    """By it lengths are compared: of two programs with two means, one's documents would come first."""
    client = QdrantClient(":memory:")
    with bqstore.open(client, text_index=True, dim=4) as first, bqstore.open(client) as second:
        first.add(vectors(1), ["a"], ["one two three four"])
        second.add(vectors(1), ["b"], ["one"])
        assert first._place.known.mean_words == second._place.known.mean_words == 4.0
