"""What users of LlamaIndex give the store that once passed in silence, or was refused."""

import pickle
from typing import Any

import pytest
from llama_index.core import MockEmbedding
from llama_index.core.schema import TextNode
from llama_index.core.vector_stores import FilterOperator, MetadataFilter, MetadataFilters, VectorStoreQuery

import bqstore
from llama_index.vector_stores.bqstore import BQVectorStore


def node(id_: str, **metadata: Any) -> TextNode:
    return TextNode(id_=id_, text=id_, metadata=metadata, embedding=[1.0, float(ord(id_))])


def test_the_name_of_an_embed_model_is_stored(tmp_path: Any) -> None:
    with BQVectorStore(tmp_path, embedding_model=MockEmbedding(embed_dim=2, model_name="one")) as store:
        assert store.collection.info().embedding_model == store.to_dict()["embedding_model"] == "one"
    with pytest.raises(bqstore.SettingsConflictError, match=r"'two' contradicts .*'one'"):
        BQVectorStore(tmp_path, embedding_model=MockEmbedding(embed_dim=2, model_name="two"))
    with pytest.raises(bqstore.InvalidInputError, match="embedding_model is"):
        BQVectorStore(embedding_model=3)


async def test_filters_without_an_embedding_find_the_first_that_match() -> None:
    with BQVectorStore() as store:
        store.add([node("a", n=0), node("b", n=1), node("c", n=1)])
        filters = MetadataFilters(filters=[MetadataFilter(key="n", value=1)])
        for found in (
            store.query(VectorStoreQuery(filters=filters, similarity_top_k=1)),
            await store.aquery(VectorStoreQuery(filters=filters, similarity_top_k=1)),
        ):
            assert (found.ids, found.similarities, [n.get_content() for n in found.nodes]) == (["b"], [0.0], ["b"])
        assert store.query(VectorStoreQuery(similarity_top_k=5, node_ids=["c", "a"])).ids == ["a", "c"]
        with pytest.raises(bqstore.InvalidInputError, match="no embedding and no filters"):
            store.query(VectorStoreQuery(similarity_top_k=1))


def test_zero_and_one_among_many_values_do_not_count_twice() -> None:
    with BQVectorStore() as store:
        store.add([node("a", n=9998), node("b", n=True)])
        values = list(range(9999))
        filters = MetadataFilters(filters=[MetadataFilter(key="n", value=values, operator=FilterOperator.IN)])
        assert [n.node_id for n in store.get_nodes(filters=filters)] == ["a", "b"]


def test_a_store_in_memory_is_pickled_with_its_nodes() -> None:
    with BQVectorStore(oversampling=5.0) as store:
        store.add([node("a", n=0)])
        with pickle.loads(pickle.dumps(store)) as again:
            assert [n.node_id for n in again.get_nodes()] == ["a"]
            assert again.collection.info().search.oversampling == 5.0 and again.to_dict() == store.to_dict()
