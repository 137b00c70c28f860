"""LangChain: searches for words, alone and with vectors."""

import re

import pytest
from langchain_core.embeddings import DeterministicFakeEmbedding
from langchain_core.vectorstores import VectorStore

import bqstore
from langchain_bqstore import BQRetriever, BQVectorStore

from .langchain_texts import Spelled

TEXTS = ["the red fox", "a dog", "error E1042 of the pump", "a red dog"]


class Counting(DeterministicFakeEmbedding):
    asked: int = 0

    def embed_query(self, text):
        self.asked += 1
        return super().embed_query(text)


@pytest.fixture
def store():
    with BQVectorStore(Counting(size=8), text_index=True) as store:
        store.add_texts(TEXTS, [{"n": i} for i in range(4)], ids=list("abcd"))
        yield store


def ids(found):
    return [document.id for document in found]


async def test_all_searches_take_a_mode_and_text_alone_embeds_nothing(store):
    vector = store.embeddings.embed_query("E1042")
    hybrid = [hit.id for hit in store.collection.search(vector, 3, text="E1042")]
    asked = store.embeddings.asked
    assert ids(store.similarity_search("E1042", mode="text")) == ["c"]
    assert ids(await store.asimilarity_search("E1042", mode="text")) == ["c"]
    assert ids(store.search("red", "text", filter={"n": {"$gt": 0}})) == ["d"]
    assert ids(await store.asearch("E1042", "text")) == ["c"]
    assert ids(store.as_retriever(search_type="text", k=1).invoke("red pump")) == ["c"]
    assert ids(await store.as_retriever(mode="text").ainvoke("E1042")) == ["c"]
    assert [score > 0 for _, score in store.similarity_search_with_score("E1042", mode="text")] == [True]
    assert store.explain("the E1042", mode="text").words == ("the", "E1042")
    assert store.embeddings.asked == asked
    assert ids(store.similarity_search("E1042", 3, mode="hybrid")) == hybrid
    assert ids(await store.asimilarity_search("E1042", 3, mode="hybrid")) == hybrid
    assert ids(store.search("E1042", "hybrid", k=3)) == hybrid
    assert ids(store.as_retriever(search_type="hybrid", k=3).invoke("E1042")) == hybrid
    found = await store.as_retriever(search_type="hybrid", search_kwargs={"k": 1, "alpha": 0.1}).ainvoke("E1042")
    assert ids(found) == ["c"]
    assert ids(store.similarity_search_by_vector(vector, 3, text="E1042")) == hybrid
    assert ids(store.similarity_search("E1042", 4)) == [hit.id for hit in store.collection.search(vector, 4)]
    assert isinstance(store, VectorStore) and ids(store.search("red fox", "mmr", k=1)) != []


async def test_what_makes_no_sense_is_an_error_by_name(store):
    for wrong in ({"mode": "both"}, {"mode": "hybrid", "alpha": 2}, {"mode": "text", "fusion": "sum"}):
        with pytest.raises(bqstore.InvalidInputError, match="expected"):
            store.similarity_search("red", **wrong)
    with pytest.raises(bqstore.InvalidInputError, match="no relevances"):
        store.similarity_search_with_relevance_scores("red", mode="hybrid")
    with pytest.raises(bqstore.InvalidInputError, match="no relevances"):
        await store.asimilarity_search_with_relevance_scores("red", mode="text")
    with BQVectorStore(Counting(size=8)) as plain, pytest.raises(bqstore.InvalidInputError, match="no text index"):
        plain.similarity_search("red", mode="text")
    with pytest.raises(bqstore.UnknownKeywordError, match="text_index=True"):
        BQVectorStore(Counting(size=8), retrieval_mode="hybrid")


async def test_what_is_for_words_is_never_ignored_where_nothing_looks_for_words(store):
    vector = store.embeddings.embed_query("red")
    for name, value in (("alpha", 0.3), ("fusion", "rrf"), ("syntax", "words")):
        for search in (
            lambda given: store.similarity_search("red", **given),
            lambda given: store.similarity_search_with_score("red", **given),
            lambda given: store.similarity_search_with_relevance_scores("red", **given),
            lambda given: store.similarity_search_by_vector(vector, **given),
            lambda given: store.as_retriever(**given).invoke("red"),
        ):
            with pytest.raises(bqstore.InvalidInputError, match=f"'vector'; {name} is for mode='"):
                search({name: value})
        with pytest.raises(bqstore.UnknownKeywordError, match=f"no keyword '{name}'"):
            store.max_marginal_relevance_search("red", **{name: value})
    for given in ({"text": "red"}, {"text": "red", "mode": "hybrid"}):
        with pytest.raises(bqstore.InvalidInputError, match="mode='hybrid' has scores and no relevances"):
            store.similarity_search_with_relevance_scores("red", **given)
        with pytest.raises(bqstore.InvalidInputError, match="mode='hybrid' has scores and no relevances"):
            store.similarity_search_by_vector_with_relevance_scores(vector, **given)


def test_every_search_type_that_an_error_lists_is_taken_everywhere(store):
    with pytest.raises(bqstore.InvalidInputError, match="'bm25'; expected one of") as refused:
        store.as_retriever(search_type="bm25")
    with pytest.raises(bqstore.InvalidInputError, match=re.escape(str(refused.value))):
        store.search("red", "bm25")
    with pytest.raises(ValueError, match=re.escape(str(refused.value))):  # pydantic's, from a constructor
        BQRetriever(vectorstore=store, search_type="bm25")
    listed = re.findall("'([a-z_]+)'", str(refused.value).partition("expected")[2])
    assert set(listed) == set(BQRetriever.allowed_search_types) > {"hybrid", "text", "mmr"}
    for name in listed:
        given = {"score_threshold": 0.0} if name == "similarity_score_threshold" else {}
        wanted = ids(store.search("red dog", name, k=2, **given))
        assert ids(store.as_retriever(search_type=name, k=2, **given).invoke("red dog")) == wanted != []
        own = BQRetriever(vectorstore=store, search_type=name, search_kwargs={"k": 2, **given}, score_key="score")
        assert ids(own.invoke("red dog")) == wanted


def test_a_function_reranks_what_is_found_and_is_given_the_text() -> None:
    store, seen = BQVectorStore(Spelled()), []

    def rerank(text: str, hits: list[bqstore.Hit]) -> list[int]:
        seen.append((text, len(hits)))
        return [int(hit.id) for hit in hits]

    store.add_texts(["1 0", "0 1", "1 1"], ids=["1", "2", "3"])
    assert [d.id for d in store.similarity_search("1 0", k=2, rerank=rerank)] == ["3", "2"]
    retriever = store.as_retriever(search_kwargs={"k": 1, "rerank": rerank, "fetch_k": 2})
    assert [d.id for d in retriever.invoke("1 0")] == ["3"]
    assert store.similarity_search_by_vector([1.0, 0.0], k=1, rerank=rerank)[0].id == "3"
    for call in (  # a score of 5 would be a relevance of 1
        lambda: store.similarity_search_with_relevance_scores("1 0", k=1, rerank=rerank),
        lambda: store.as_retriever(
            search_type="similarity_score_threshold", search_kwargs={"score_threshold": 0.5, "rerank": rerank}
        ).invoke("1 0"),
    ):
        with pytest.raises(bqstore.InvalidInputError, match="rerank= gives scores and no relevances"):
            call()
    assert seen == [("1 0", 3), ("1 0", 2), (None, 3)]
