"""LlamaIndex: the query modes that look for words."""

import pytest
from llama_index.core import MockEmbedding, VectorStoreIndex
from llama_index.core.schema import TextNode
from llama_index.core.vector_stores.types import MetadataFilter, MetadataFilters, VectorStoreQuery, VectorStoreQueryMode
from llama_index_instrumentation import get_dispatcher
from llama_index_instrumentation.event_handlers import BaseEventHandler

import bqstore
from llama_index.vector_stores.bqstore import BQVectorStore, SearchEvent

TEXTS = ["the red fox", "a dog", "error E1042 of the pump", "a red dog"]
HYBRID, TEXT, SPARSE = (VectorStoreQueryMode[name] for name in ("HYBRID", "TEXT_SEARCH", "SPARSE"))


@pytest.fixture
def store():
    with BQVectorStore(text_index=True) as store:
        vectors = [[1.0, 0.0], [0.8, 0.6], [0.0, 1.0], [0.6, 0.8]]
        given = zip("abcd", TEXTS, vectors, range(4), strict=True)
        store.add([TextNode(id_=i, text=t, embedding=v, metadata={"n": n}) for i, t, v, n in given])
        yield store


def test_words_alone_need_no_embedding(store):
    for mode in (TEXT, SPARSE):
        result = store.query(VectorStoreQuery(query_str="red pump", mode=mode, similarity_top_k=9))
        assert set(result.ids) == {"a", "c", "d"} and result.ids[0] == "c" and len(result.similarities) == 3
        assert result.nodes[0].get_content() == TEXTS[2]
        assert (
            len(store.query(VectorStoreQuery(query_str="red", mode=mode, similarity_top_k=9, sparse_top_k=1)).ids) == 1
        )
    only = MetadataFilters(filters=[MetadataFilter(key="n", value=3)])
    assert store.query(VectorStoreQuery(query_str="red", mode=TEXT, similarity_top_k=9, filters=only)).ids == ["d"]
    asked = VectorStoreQuery(query_str="red NOT dog", mode=TEXT, similarity_top_k=9)
    assert store.query(asked, syntax="fts5").ids == ["a"]


def test_hybrid_is_the_search_of_the_collection(store):
    for alpha, top in ((None, None), (0.2, None), (0.9, 2)):
        asked = {"query_str": "dog", "query_embedding": [1.0, 0.0], "alpha": alpha, "hybrid_top_k": top}
        result = store.query(VectorStoreQuery(mode=HYBRID, similarity_top_k=3, **asked), fusion="relative_score")
        given = {} if alpha is None else {"alpha": alpha}
        hits = store.client.search([1.0, 0.0], top or 3, text="dog", fusion="relative_score", **given)
        assert result.ids == [hit.id for hit in hits] and result.similarities == [hit.score for hit in hits]


async def test_retrievers_of_an_index_ask_so(store):
    index = VectorStoreIndex.from_vector_store(store, embed_model=MockEmbedding(embed_dim=2))
    retriever = index.as_retriever(vector_store_query_mode="text_search", similarity_top_k=2)
    assert [found.node_id for found in retriever.retrieve("E1042")] == ["c"]
    retriever = index.as_retriever(vector_store_query_mode="hybrid", similarity_top_k=2, alpha=0.0)
    assert (retriever.retrieve("E1042"))[0].node_id == "c"
    assert (await retriever.aretrieve("E1042"))[0].node_id == "c"


def test_what_is_missing_is_named(store):
    with pytest.raises(bqstore.InvalidInputError, match="needs query_str"):
        store.query(VectorStoreQuery(query_embedding=[1.0, 0.0], mode=HYBRID))
    with pytest.raises(bqstore.InvalidInputError, match="needs an embedding"):
        store.query(VectorStoreQuery(query_str="red", mode=HYBRID))
    with BQVectorStore() as plain, pytest.raises(bqstore.InvalidInputError, match="no text index"):
        plain.query(VectorStoreQuery(query_str="red", mode=TEXT))


ZEROS = [0.0, 0.0]
ONLY_B = MetadataFilters(filters=[MetadataFilter(key="n", value=1)])


def test_what_is_for_words_is_never_ignored_in_modes_without_them(store):
    asked = {"query_str": "dog", "query_embedding": [1.0, 0.0], "similarity_top_k": 2}
    for mode in (VectorStoreQueryMode.DEFAULT, VectorStoreQueryMode.MMR):
        with pytest.raises(bqstore.UnknownKeywordError, match="'alpha' is for the query mode 'hybrid'"):
            store.query(VectorStoreQuery(mode=mode, alpha=0.3, **asked))
        with pytest.raises(bqstore.UnknownKeywordError, match="'fusion' is for the query mode 'hybrid'"):
            store.query(VectorStoreQuery(mode=mode, **asked), fusion="rrf")
        with pytest.raises(bqstore.UnknownKeywordError, match="'syntax' is for the query mode 'text_search'"):
            store.query(VectorStoreQuery(mode=mode, **asked), syntax="fts5")
    for mode in (TEXT, SPARSE):
        with pytest.raises(bqstore.UnknownKeywordError, match=f"this query's mode is '{mode.value}'"):
            store.query(VectorStoreQuery(mode=mode, alpha=0.3, **asked))
    with pytest.raises(bqstore.UnknownKeywordError, match="'mmr_threshold' is for the query mode 'mmr'"):
        store.query(VectorStoreQuery(mode=HYBRID, **asked), mmr_threshold=0.5)


def test_hybrid_with_a_vector_of_zeros_goes_by_the_words(store):
    for extra in ({}, {"alpha": 0.9}):
        found = store.query(
            VectorStoreQuery(query_str="red", query_embedding=ZEROS, mode=HYBRID, similarity_top_k=9, **extra),
            fusion="relative_score",
        )
        words = store.query(VectorStoreQuery(query_str="red", mode=TEXT, similarity_top_k=9))
        assert found.ids == words.ids != [] and found.similarities == words.similarities


def test_an_empty_text_is_no_error_where_a_vector_or_filters_say_what_is_meant(store):
    for mode in (HYBRID, TEXT, SPARSE):
        asked = {"query_str": " ", "query_embedding": ZEROS, "mode": mode, "similarity_top_k": 2}
        found = store.query(VectorStoreQuery(filters=ONLY_B, **asked), syntax="words")
        assert (found.ids, found.similarities) == (["b"], None)
        assert store.query(VectorStoreQuery(**asked)).ids == ["a", "b"]
    found = store.query(VectorStoreQuery(query_str="", query_embedding=[0.0, 1.0], mode=HYBRID, similarity_top_k=1))
    assert found.ids == ["c"] and len(found.similarities) == 1


def test_a_function_reranks_what_is_found_and_is_given_the_text() -> None:
    store, seen = BQVectorStore(), []

    def rerank(text: str, hits: list[bqstore.Hit]) -> list[int]:
        seen.append((text, len(hits)))
        return [int(hit.id) for hit in hits]

    store.add([TextNode(id_=str(i), text=f"text {i}", embedding=[1.0, i]) for i in range(3)])
    asked = VectorStoreQuery(query_str="which?", query_embedding=[1.0, 0.0], similarity_top_k=2)
    found = store.query(asked, rerank=rerank)
    assert found.ids == ["2", "1"] and found.similarities == [2.0, 1.0] and seen == [("which?", 3)]
    asked = VectorStoreQuery(query_embedding=[1.0, 0.0], similarity_top_k=1)
    assert store.query(asked, rerank=rerank, fetch_k=2).ids == ["1"] and seen[1:] == [(None, 2)]


def test_handlers_of_events_are_told_of_searches_for_words_too(store):
    events = []

    class Handler(BaseEventHandler):
        def handle(self, event, **kwargs):
            events.append(event)

    handler, handlers = Handler(), get_dispatcher().event_handlers
    handlers.append(handler)
    try:
        store.query(VectorStoreQuery(query_str="red", mode=TEXT, similarity_top_k=9))
        store.query(VectorStoreQuery(query_str="red", query_embedding=[1.0, 0.0], mode=HYBRID, similarity_top_k=1))
        store.query(VectorStoreQuery(query_embedding=ZEROS, filters=ONLY_B))  # nothing is searched
    finally:
        handlers.remove(handler)
    told = [event for event in events if isinstance(event, SearchEvent)]
    assert [(each.similarity_top_k, each.found, each.explanation.mode) for each in told] == [
        (9, 2, "text"),
        (1, 1, "hybrid"),
    ]
