"""Searching a `BQVectorStore`: every way in, the settings of a call, filters, scores, relevances, retrievers."""

import asyncio
import math
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from langchain_core.documents import Document

import bqstore
from langchain_bqstore import BQVectorStore

from .langchain_texts import Spelled

N, DIM = 400, 48


def spelled(vector: np.ndarray) -> str:
    return " ".join(map(repr, np.asarray(vector, np.float32).tolist()))


@pytest.fixture(scope="module")
def vectors() -> np.ndarray:
    return np.random.default_rng(7).standard_normal((N, DIM)).astype(np.float32)


@pytest.fixture(scope="module")
def query() -> str:
    return spelled(np.random.default_rng(8).standard_normal(DIM))


@pytest.fixture(scope="module")
def store(vectors: np.ndarray, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BQVectorStore]:
    """400 documents on disk, searched through their bits unless a call says otherwise."""
    path: Path = tmp_path_factory.mktemp("langchain")
    with BQVectorStore(Spelled(), path=path, full_scan_threshold=0) as store:
        metadatas = [{"n": i, "third": i % 3, "tags": ["even" if i % 2 == 0 else "odd"]} for i in range(N)]
        store.add_texts([spelled(v) for v in vectors], metadatas, ids=[f"d{i}" for i in range(N)])
        yield store


def ids(documents: list[Document]) -> list[str | None]:
    return [document.id for document in documents]


def exact(vectors: np.ndarray, query: str, k: int = 4) -> list[str]:
    q = np.array(query.split(), np.float32)
    cosines = vectors @ q / np.linalg.norm(vectors, axis=1)
    return [f"d{i}" for i in np.argsort(-cosines)[:k]]


# ---- the ways in


async def test_every_way_in_finds_the_same(store: BQVectorStore, query: str) -> None:
    vector = Spelled().embed_query(query)
    pairs = store.similarity_search_with_score(query, 6, oversampling=4)
    assert len(pairs) == 6 and [s for _, s in pairs] == sorted((s for _, s in pairs), reverse=True)
    assert all(type(score) is float for _, score in pairs)
    documents = [document for document, _ in pairs]
    assert documents[0].page_content and documents[0].metadata["n"] >= 0
    assert store.similarity_search_with_score_by_vector(vector, 6, oversampling=4) == pairs
    assert store.similarity_search(query, 6, oversampling=4) == documents
    assert store.similarity_search_by_vector(vector, 6, oversampling=4) == documents
    assert store.search(query, "similarity", k=6, oversampling=4) == documents
    assert await store.asimilarity_search_with_score(query, 6, oversampling=4) == pairs
    assert await store.asimilarity_search_with_score_by_vector(vector, 6, oversampling=4) == pairs
    assert await store.asimilarity_search(query, 6, oversampling=4) == documents
    assert await store.asimilarity_search_by_vector(vector, 6, oversampling=4) == documents
    assert await store.asearch(query, "similarity", k=6, oversampling=4) == documents
    relevant = store.similarity_search_with_relevance_scores(query, 6, oversampling=4)
    assert relevant == [(document, max(score, 0.0)) for document, score in pairs]
    assert await store.asimilarity_search_with_relevance_scores(query, 6, oversampling=4) == relevant


def test_the_default_k_is_langchains(store: BQVectorStore, query: str) -> None:
    assert len(store.similarity_search(query)) == 4
    assert len(store.similarity_search_with_relevance_scores(query)) == 4


def test_a_numpy_vector_is_a_vector(store: BQVectorStore, vectors: np.ndarray) -> None:
    assert ids(store.similarity_search_by_vector(vectors[7], k=1)) == ["d7"]  # type: ignore[arg-type]


# ---- the settings of a call


def test_the_settings_of_a_call_have_their_effect(store: BQVectorStore, vectors: np.ndarray, query: str) -> None:
    best = exact(vectors, query, 10)
    found = {
        name: ids(store.similarity_search(query, 10, **settings))
        for name, settings in {
            "bits": {"rescore": False},
            "once": {"oversampling": 1},
            "all": {"oversampling": N / 10},
            "exact": {"exact": True},
            "ignored": {"ignore_quantization": True},
        }.items()
    }
    assert found["all"] == found["exact"] == found["ignored"] == best
    assert found["bits"] != best and found["once"] != best
    assert set(found["once"]) == set(found["bits"])  # the same ten, in the order of their originals
    assert found["once"] == [id_ for id_ in exact(vectors, query, N) if id_ in found["bits"]]


def test_settings_of_the_store_are_defaults_of_its_calls(store: BQVectorStore, vectors: np.ndarray, query: str) -> None:
    with BQVectorStore(Spelled(), full_scan_threshold=0, rescore=False) as bits:
        bits.collection.add(vectors, ids=[f"d{i}" for i in range(N)])
        assert ids(bits.similarity_search(query, 10)) == ids(store.similarity_search(query, 10, rescore=False))
        assert ids(bits.similarity_search(query, 10, rescore=True, oversampling=N)) == exact(vectors, query, 10)


@pytest.mark.parametrize(
    ("params", "keywords"),
    [
        ({"exact": True}, {"exact": True}),
        ({"hnsw_ef": 64, "exact": False}, {"hnsw_ef": 64}),
        ({"quantization": {"rescore": False}}, {"rescore": False}),
        ({"quantization": {"rescore": True, "oversampling": 1.0, "ignore": False}}, {"oversampling": 1.0}),
        ({"quantization": {"ignore": True}}, {"ignore_quantization": True}),
    ],
)
def test_search_params_are_those_of_qdrant(
    store: BQVectorStore, query: str, params: dict[str, Any], keywords: dict[str, Any]
) -> None:
    wanted = store.similarity_search(query, 10, **keywords)
    assert store.similarity_search(query, 10, search_params=params) == wanted
    assert store.as_retriever(search_kwargs={"k": 10, "search_params": params}).invoke(query) == wanted


def test_a_keyword_comes_before_search_params(store: BQVectorStore, vectors: np.ndarray, query: str) -> None:
    params = {"quantization": {"oversampling": 1.0}}
    assert ids(store.similarity_search(query, 10, search_params=params, oversampling=N)) == exact(vectors, query, 10)


def test_score_threshold_in_plain_search(store: BQVectorStore, query: str) -> None:
    pairs = store.similarity_search_with_score(query, 10)
    threshold = pairs[4][1]
    assert store.similarity_search_with_score(query, 10, score_threshold=threshold) == pairs[:5]
    assert store.similarity_search(query, 10, score_threshold=threshold) == [d for d, _ in pairs[:5]]
    assert store.similarity_search(query, 10, score_threshold=2.0) == []
    with pytest.raises(bqstore.InvalidInputError, match="score_threshold is 'high'"):
        store.similarity_search(query, score_threshold="high")


# ---- retrievers


async def test_a_retriever_takes_the_settings(store: BQVectorStore, vectors: np.ndarray, query: str) -> None:
    rough = store.as_retriever(search_kwargs={"k": 10, "rescore": False})
    assert rough.invoke(query) == store.similarity_search(query, 10, rescore=False)
    assert await rough.ainvoke(query) == rough.invoke(query)
    assert ids(rough.invoke(query, rescore=True, oversampling=N)) == exact(vectors, query, 10)
    filtered = store.as_retriever(search_kwargs={"k": 5, "filter": {"third": 1}, "exact": True})
    assert filtered.invoke(query) == store.similarity_search(query, 5, filter={"third": 1}, exact=True)
    assert [len(found) for found in filtered.batch([query] * 3)] == [5, 5, 5]
    assert "BQVectorStore" in filtered.tags


async def test_a_retriever_with_a_score_threshold(store: BQVectorStore, query: str) -> None:
    pairs = store.similarity_search_with_relevance_scores(query, 10)
    threshold = pairs[2][1]
    retriever = store.as_retriever(
        search_type="similarity_score_threshold", search_kwargs={"k": 10, "score_threshold": threshold}
    )
    assert retriever.invoke(query) == [d for d, _ in pairs[:3]]
    assert await retriever.ainvoke(query) == [d for d, _ in pairs[:3]]
    with pytest.raises(ValueError, match="score_threshold"):
        store.as_retriever(search_type="similarity_score_threshold")


def test_a_retriever_adds() -> None:
    with BQVectorStore(Spelled()) as store:
        assert store.as_retriever().add_documents([Document("1 0", id="a")]) == ["a"]
        assert ids(store.similarity_search("1 0")) == ["a"]


# ---- filters


def test_filters_enter_the_search(store: BQVectorStore, vectors: np.ndarray, query: str) -> None:
    order = [int(id_[1:]) for id_ in exact(vectors, query, N)]
    for given, accepts in (
        ({"third": 2}, lambda i: i % 3 == 2),
        ({"n": {"$in": [3, 5, 399]}}, lambda i: i in (3, 5, 399)),
        ({"n": [3, 5, 399]}, lambda i: i in (3, 5, 399)),
        ({"tags": "odd", "third": 0}, lambda i: i % 2 == 1 and i % 3 == 0),
        ({"missing": 1}, lambda i: False),
        ({}, lambda i: True),
    ):
        wanted = [f"d{i}" for i in order if accepts(i)][:10]
        assert ids(store.similarity_search(query, 10, filter=given, oversampling=N)) == wanted
        assert len(store.similarity_search(query, 10, filter=given)) == len(wanted)


# ---- scores


@pytest.mark.parametrize(
    ("distance", "scores", "relevances"),
    [
        ("cosine", [1.0, 1 / math.sqrt(2), 0.0, -1.0], [1.0, 1 / math.sqrt(2), 0.0, 0.0]),
        ("dot", [1.0, 0.5, 0.0, -1.0], [1.0, 0.5, 0.0, 0.0]),
        ("euclid", [-math.sqrt(0.5), -1.0, -math.sqrt(2), -2.0], [1 / (1 + math.sqrt(0.5)), 0.5, None, 1 / 3]),
    ],
)
def test_scores_and_relevances(distance: str, scores: list[float], relevances: list[float | None]) -> None:
    with BQVectorStore(Spelled(), distance=distance) as store:
        first = "1 0" if distance == "dot" else "2 0"  # whose relevances need vectors of unit length
        store.add_texts([first, "0.5 0.5", "0 1", "-1 0"], ids=["a", "b", "c", "d"])
        found = {d.id: s for d, s in store.similarity_search_with_score("1 0", 4)}
        relevant = {d.id: r for d, r in store.similarity_search_with_relevance_scores("1 0", 4)}
    assert list(found) == list(relevant)
    assert all(0 <= relevance <= 1 for relevance in relevant.values())
    if distance == "euclid":
        assert found == pytest.approx({"a": -1.0, "b": scores[0], "c": scores[2], "d": scores[3]})
        assert relevant["a"] == pytest.approx(0.5) and relevant["b"] == pytest.approx(relevances[0])
        assert relevant["d"] == pytest.approx(1 / 3)
    else:
        assert list(found.values()) == pytest.approx(scores)
        assert list(relevant.values()) == pytest.approx(relevances)


def test_relevance_stays_within_one_where_float32_does_not() -> None:
    vectors = np.random.default_rng(1).standard_normal((200, 33)).astype(np.float32)
    with BQVectorStore(Spelled()) as store:
        store.add_texts([spelled(v) for v in vectors])
        for vector in vectors:  # a score outside 0 and 1 would be a warning, and here an error
            ((_, relevance),) = store.similarity_search_with_relevance_scores(spelled(vector), 1)
            assert 0.999 < relevance <= 1.0


async def test_relevance_can_be_overridden() -> None:
    with BQVectorStore(Spelled(), distance="dot", relevance_score_fn=lambda score: score / 10) as store:
        store.add_texts(["4 0", "9 0"])
        pairs = store.similarity_search_with_relevance_scores("1 0", 2)
        assert [relevance for _, relevance in pairs] == [0.9, 0.4]
        assert store.similarity_search_with_relevance_scores("1 0", 2, score_threshold=0.5) == pairs[:1]
        assert await store.asimilarity_search_with_relevance_scores("1 0", 2, score_threshold=0.5) == pairs[:1]


# ---- mistakes


@pytest.mark.parametrize(
    ("keyword", "meant"),
    [("oversample", "oversampling"), ("ef", "hnsw_ef"), ("top_k", "k"), ("score_treshold", "score_threshold")],
)
async def test_an_unknown_keyword_names_the_nearest(store: BQVectorStore, query: str, keyword: str, meant: str) -> None:
    vector = Spelled().embed_query(query)
    unknown: dict[str, Any] = {keyword: 2}
    for search, given in (
        (store.similarity_search, query),
        (store.similarity_search_with_score, query),
        (store.similarity_search_with_relevance_scores, query),
        (store.similarity_search_by_vector, vector),
        (store.similarity_search_with_score_by_vector, vector),
        (store.as_retriever(search_kwargs=unknown).invoke, query),
    ):
        with pytest.raises(bqstore.UnknownKeywordError, match=f"no keyword '{keyword}'; did you mean '{meant}'"):
            search(given, **({} if "invoke" in search.__name__ else unknown))  # type: ignore[operator]
    for asearch in (store.asimilarity_search, store.asimilarity_search_with_score):
        with pytest.raises(bqstore.UnknownKeywordError, match=meant):
            await asearch(query, **unknown)


def test_mistakes_of_a_call(store: BQVectorStore, query: str) -> None:
    for arguments, message in (
        ({"k": 0}, "k is 0"),
        ({"k": 10_001}, "k is 10001"),
        ({"oversampling": 0.5}, "oversampling is 0.5"),
        ({"filter": {"n": {"$near": 1}}}, r"\$near"),
        ({"search_params": {"ef": 3}}, "did you mean 'hnsw_ef'"),
        ({"search_params": {"quantization": {"oversample": 3}}}, "did you mean 'oversampling'"),
        ({"search_params": 3}, "Qdrant's shape"),
        ({"with_vectors": True}, "a Document carries no vector"),
    ):
        with pytest.raises(bqstore.InvalidInputError, match=message):
            store.similarity_search(query, **arguments)
    with pytest.raises(bqstore.InvalidInputError, match="2 dimensions; this collection holds 48"):
        store.similarity_search("1 0")


# ---- async


async def test_the_event_loop_is_not_blocked(monkeypatch: pytest.MonkeyPatch) -> None:
    embedding = Spelled()
    store = BQVectorStore(embedding)
    used: set[int] = set()
    for name in ("add", "search", "get", "delete"):
        original = getattr(bqstore.Collection, name)

        def noted(self: Any, *args: Any, original: Any = original, **kwargs: Any) -> Any:
            used.add(threading.get_ident())
            return original(self, *args, **kwargs)

        monkeypatch.setattr(bqstore.Collection, name, noted)
    await store.aadd_texts(["1 0"], [{"n": 1}], ids=["a"])
    await store.aadd_documents([Document("0 1", id="b"), Document("1 1")], batch_size=1)
    await store.asimilarity_search("1 0")
    await store.asimilarity_search_with_score("1 0")
    await store.asimilarity_search_with_relevance_scores("1 0")
    await store.asimilarity_search_by_vector([1.0, 0.0])
    await store.asimilarity_search_with_score_by_vector([1.0, 0.0])
    assert ids(await store.aget_by_ids(["b", "a"])) == ["b", "a"]
    assert await store.adelete(["b"], filter={"n": 1}) is True
    assert await store.adelete(filter={"n": 1}) is True
    assert len(store.collection) == 2
    assert used and threading.get_ident() not in used
    assert embedding.threads == {threading.get_ident()}  # awaited, not sent to a thread
    assert {call for call, _ in embedding.calls} == {"adocuments", "aquery"}


async def test_from_texts_async(tmp_path: Path) -> None:
    embedding = Spelled()
    store = await BQVectorStore.afrom_texts(["1 0"], embedding, [{"n": 1}], ids=["a"], path=tmp_path, distance="dot")
    assert store.collection.info().distance == "dot"
    with await BQVectorStore.afrom_documents([Document("0 1", id="c")], embedding, path=tmp_path):
        assert len(store.collection) == 2  # both are open
    store.delete(["c"])
    store.close()
    with pytest.raises(bqstore.InvalidInputError):
        await BQVectorStore.afrom_texts(["1 0 0"], embedding, path=tmp_path)
    with await BQVectorStore.afrom_documents([Document("0 1", id="b"), Document("1 1")], embedding, path=tmp_path) as s:
        assert len(s.collection) == 3
    assert {call for call, _ in embedding.calls} == {"adocuments"}


async def test_many_searches_at_once(store: BQVectorStore, vectors: np.ndarray) -> None:
    found = await asyncio.gather(*(store.asimilarity_search(spelled(v), 1) for v in vectors[:50]))
    assert [ids(documents) for documents in found] == [[f"d{i}"] for i in range(50)]
