"""What users of LlamaIndex give the store that once passed in silence, or was refused."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from llama_index.core import MockEmbedding, QueryBundle, StorageContext, VectorStoreIndex
from llama_index.core.base.embeddings.base import BaseEmbedding
from llama_index.core.ingestion import IngestionPipeline
from llama_index.core.schema import Document, NodeWithScore, TextNode
from llama_index.core.vector_stores import FilterOperator, MetadataFilter, MetadataFilters, VectorStoreQuery
from llama_index.core.vector_stores.types import VectorStoreQueryMode

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
            assert (found.ids, found.similarities, [n.get_content() for n in found.nodes]) == (["b"], None, ["b"])
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


def test_a_query_of_zeros_finds_the_first_that_match() -> None:
    """Language models that ask for filters alone leave the text empty; `default_empty_query_vector` stands for it."""
    filters = MetadataFilters(filters=[MetadataFilter(key="n", value=1)])
    with BQVectorStore() as store, BQVectorStore(distance="euclid") as euclid:
        for each in (store, euclid):
            each.add([node("a", n=0), node("b", n=1), node("c", n=1)])
        for mode in VectorStoreQueryMode.DEFAULT, VectorStoreQueryMode.MMR:
            for zeros in ([0.0, 0.0], [], None):
                found = store.query(
                    VectorStoreQuery(query_embedding=zeros, filters=filters, similarity_top_k=1, mode=mode)
                )
                assert (found.ids, found.similarities) == (["b"], None)
            found = store.query(VectorStoreQuery(query_embedding=[0.0, 0.0], similarity_top_k=2, mode=mode))
            assert (found.ids, found.similarities, len(found.nodes or [])) == (["a", "b"], None, 2)
        near = euclid.query(VectorStoreQuery(query_embedding=[0.0, 0.0], similarity_top_k=1))
        assert near.ids == ["a"] and near.similarities == [pytest.approx(-np.hypot(1, ord("a")))]
        index = VectorStoreIndex.from_vector_store(store, embed_model=MockEmbedding(embed_dim=2))
        nodes = index.as_retriever(filters=filters).retrieve(QueryBundle("", embedding=[0.0, 0.0]))
        assert [(each.node_id, each.score) for each in nodes] == [("b", None), ("c", None)]


def test_nodes_of_a_generator_were_not_stored() -> None:
    with BQVectorStore() as store:
        assert store.add(node(id_) for id_ in "ab") == ["a", "b"]
        assert store.add({"a": node("c")}.values()) == ["c"]
        assert [n.node_id for n in store.get_nodes()] == ["a", "b", "c"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (node("x"), r"nodes is of type TextNode; expected a list of nodes: \[node\]"),
        ("hello", "nodes is of type str"),
        ({"x": node("x")}, "nodes is of type dict"),
        (None, "nodes is of type NoneType"),
        ([node("x"), "hello"], "node 1 is of type str; expected a TextNode"),
        ([NodeWithScore(node=node("x"), score=1.0)], "node 0 is of type NodeWithScore; expected its .node"),
        ([TextNode(id_="x", text="x")], "'x' has no embedding"),
    ],
)
async def test_what_is_no_list_of_nodes_is_refused(given: Any, message: str) -> None:
    with BQVectorStore() as store:
        with pytest.raises(bqstore.InvalidInputError, match=message):
            store.add(given)
        with pytest.raises(bqstore.InvalidInputError, match=message):
            await store.async_add(given)
        assert len(store.collection) == 0


def test_nodes_can_be_read_changed_and_added_again() -> None:
    with BQVectorStore() as store:
        store.add([node("a", n=0), node("b", n=1)])
        filters = MetadataFilters(filters=[MetadataFilter(key="n", value=0, operator=FilterOperator.GT)])
        for given in {"node_ids": ["b"]}, {"filters": filters}:
            (changed,) = store.get_nodes(**given)  # type: ignore[arg-type]
            changed.metadata["n"] += 5
            store.add([changed])
        (again,) = store.get_nodes(["b"])
        assert again.metadata == {"n": 11} and again.embedding == [1.0, 98.0]
        assert store.get_nodes(["b"], with_vectors=False)[0].embedding is None
        query = VectorStoreQuery(query_embedding=[1.0, 98.0], node_ids=["b"])
        assert (store.query(query).nodes or [])[0].embedding is None
        assert (store.query(query, with_vectors=True).nodes or [])[0].embedding == [1.0, 98.0]


def test_output_fields_are_what_the_nodes_bring() -> None:
    with BQVectorStore() as store:
        store.add([node("a", n=0, lang="en")])

        def first(*fields: str) -> Any:
            query = VectorStoreQuery(query_embedding=[1.0, 97.0], output_fields=list(fields))
            return (store.query(query).nodes or [])[0]

        assert first("lang").metadata == {"lang": "en"} and first("lang").get_content() == "a"
        assert first("n", "none").metadata == {"n": 0}
        assert first().metadata == first("*", "lang").metadata == {"n": 0, "lang": "en"}
        assert first("embedding").embedding == [1.0, 97.0] and first("embedding").metadata == {}
        assert first("lang").embedding is None


@pytest.mark.parametrize("call", ["query", "get_nodes", "delete", "delete_nodes", "clear", "add"])
def test_keywords_that_llama_index_passes_along_are_no_mistakes(call: str) -> None:
    """Tests of LlamaIndex's own stores pass index_id to every call."""
    given: Any = {
        "query": VectorStoreQuery(query_embedding=[1.0, 97.0]), "delete": "a", "delete_nodes": ["a"],
        "add": [node("b")], "get_nodes": ["a"],
    }.get(call)  # fmt: skip
    arguments = [] if given is None else [given]
    with BQVectorStore() as store:
        store.add([node("a")])
        if call != "add":  # which ignores them all
            with pytest.raises(bqstore.UnknownKeywordError, match="has no keyword 'index_name'"):
                getattr(store, call)(*arguments, index_name="42")
        getattr(store, call)(*arguments, index_id="42", delete_from_docstore=True)
        assert len(store.collection) == {"query": 1, "get_nodes": 1, "add": 2}.get(call, 0)


@pytest.mark.parametrize(
    "filters",
    [
        {"n": 1},
        {"n": {"$gte": 1}},
        {"filters": [{"key": "n", "value": 1}], "condition": "and"},
        {"filters": [{"key": "n", "value": 1, "operator": ">="}]},
        MetadataFilter(key="n", value=1),
        [MetadataFilter(key="n", value=0, operator=FilterOperator.GT)],
    ],
)
def test_other_forms_of_filters(filters: Any) -> None:
    with BQVectorStore() as store:
        store.add([node("a", n=0), node("b", n=1)])
        assert store.query(VectorStoreQuery(query_embedding=[1.0, 1.0], similarity_top_k=5, filters=filters)).ids == [
            "b"
        ]
        assert [n.node_id for n in store.get_nodes(filters=filters)] == ["b"]
        store.delete_nodes(filters=filters)
        assert [n.node_id for n in store.get_nodes()] == ["a"]
        with pytest.raises(bqstore.InvalidInputError, match="makes no MetadataFilters"):
            store.get_nodes(filters={"filters": [{"key": "n", "value": object()}]})


@pytest.mark.parametrize(
    ("given", "kwargs", "message"),
    [
        ({"similarity_top_k": 0}, {}, "similarity_top_k is 0"),
        ({"doc_ids": "a"}, {}, "doc_ids is of type str"),
        ({"node_ids": "a"}, {}, "node_ids is of type str"),
        ({"mode": "bogus"}, {}, "query mode is 'bogus'; expected 'default', 'mmr', 'hybrid'"),
        ({"mode": VectorStoreQueryMode.HYBRID}, {}, "query mode 'hybrid' needs query_str"),
        ({"mode": VectorStoreQueryMode.SEMANTIC_HYBRID}, {}, "query mode is 'semantic_hybrid'; expected"),
        ({"mmr_threshold": 0.5}, {}, "'mmr_threshold' is for the query mode 'mmr'"),
        ({}, {"mmr_threshold": 0.5}, "pass vector_store_query_mode='mmr'"),
        ({"mode": VectorStoreQueryMode.MMR, "mmr_threshold": 5.0}, {}, "mmr_threshold is 5.0"),
        ({"mode": VectorStoreQueryMode.MMR}, {"mmr_prefetch_k": 0}, "mmr_prefetch_k is 0"),
        ({}, {"zzz": 1}, "vector_store_kwargs has no keyword 'zzz'"),
    ],
)
def test_mistakes_are_named_as_llama_index_names_them(
    given: dict[str, Any], kwargs: dict[str, Any], message: str
) -> None:
    with BQVectorStore() as store:
        store.add([node("a")])
        with pytest.raises(bqstore.InvalidInputError, match=message) as caught:
            store.query(VectorStoreQuery(query_embedding=[1.0, 97.0], **given), **kwargs)
        assert "'k'" not in str(caught.value)
        for call in (store.get_nodes, store.delete_nodes):
            with pytest.raises(bqstore.InvalidInputError, match="node_ids is a str"):
                call("a")
        with pytest.raises(bqstore.InvalidInputError, match="query is of type str; expected a VectorStoreQuery"):
            store.query("a")  # type: ignore[arg-type]


def test_from_persist_dir_opens_and_makes_nothing(tmp_path: Path) -> None:
    with BQVectorStore(tmp_path / "store", "mine") as store:
        store.add([node("a")])
        store.persist()
    with BQVectorStore.from_persist_dir(str(tmp_path / "store"), "mine", oversampling=5.0) as again:
        assert [n.node_id for n in again.get_nodes()] == ["a"]
        assert again.collection.info().search.oversampling == 5.0
    for given in {"persist_dir": str(tmp_path / "none")}, {"persist_dir": str(tmp_path / "store")}:
        with pytest.raises(bqstore.NotFoundError, match="holds no collection 'default'"):
            BQVectorStore.from_persist_dir(**given)
    with pytest.raises(bqstore.InvalidInputError, match="fs is given"):
        BQVectorStore.from_persist_dir(str(tmp_path / "store"), "mine", fs=object())
    assert not (tmp_path / "none").exists() and bqstore.collections(tmp_path / "store") == ["mine"]


class Turned(BaseEmbedding):
    """A model whose vectors are those of no other name."""

    def _get_text_embedding(self, text: str) -> list[float]:
        return np.random.default_rng([len(text), *self.model_name.encode()]).standard_normal(12).tolist()

    _get_query_embedding = _get_text_embedding

    async def _aget_query_embedding(self, query: str) -> list[float]:
        return self._get_text_embedding(query)


@pytest.mark.filterwarnings(
    "ignore:Call to deprecated method get_doc_id:DeprecationWarning"
)  # LlamaIndex's, before 0.14.6
async def test_nodes_of_two_models_met_in_silence(tmp_path: Path) -> None:
    one, two = Turned(model_name="one"), Turned(model_name="two")
    documents = [Document(text="x" * n) for n in range(1, 9)]
    with BQVectorStore(tmp_path) as store:
        context = StorageContext.from_defaults(vector_store=store)
        VectorStoreIndex.from_documents(documents, storage_context=context, embed_model=one)
        index = VectorStoreIndex.from_vector_store(store, embed_model=one)
        index.insert(Document(text="of the same model"))
        assert len(index.as_retriever(similarity_top_k=2).retrieve("and so is this")) == 2
        with pytest.warns(RuntimeWarning, match="nodes embedded by 'two' meet nodes of 'one'"):
            VectorStoreIndex.from_documents(documents[:3], storage_context=context, embed_model=two)
        IngestionPipeline(transformations=[two], vector_store=store).run(documents=[Document(text="told once")])
    with BQVectorStore(tmp_path) as store:  # another process: nothing but what is stored is known
        assert store.collection.info().embedding_model == "one"
        retriever = VectorStoreIndex.from_vector_store(store, embed_model=two).as_retriever()
        with pytest.warns(RuntimeWarning, match="queries embedded by 'two' meet nodes of 'one'"):
            await retriever.aretrieve("a later question")
    with BQVectorStore(tmp_path / "other", embedding_model=one) as store:  # whose name is stored
        retriever = VectorStoreIndex.from_vector_store(store, embed_model=two).as_retriever()
        with pytest.warns(RuntimeWarning, match="queries embedded by 'two' meet nodes of 'one'"):
            await retriever.aretrieve("what?")
    with BQVectorStore() as store:
        store.add([node("a")])  # vectors of which nothing is known
        store.add([TextNode(id_="b", embedding=two.get_text_embedding("b")[:2])])


@pytest.mark.parametrize("call", ["get_nodes", "delete_nodes"])
def test_a_filter_in_the_place_of_the_ids_was_told_that_ids_are_no_tuples(call: str) -> None:
    with BQVectorStore() as store:
        store.add([node("a", n=0)])
        one = MetadataFilter(key="n", value=0)
        for given in (one, [one], MetadataFilters(filters=[one]), {"n": 0}):
            with pytest.raises(bqstore.InvalidInputError, match=r"node_ids is a .*; filters go into filters="):
                getattr(store, call)(given)
        with pytest.raises(bqstore.InvalidInputError, match=r"id 0 is a TextNode; ids are strings: use its \.node_id"):
            getattr(store, call)(store.get_nodes())
        assert len(store.collection) == 1


def test_nodes_of_zeros_alone_came_in_silence(caplog: pytest.LogCaptureFixture) -> None:
    with BQVectorStore(collection_name="zeros") as store:
        store.add([node("a"), TextNode(id_="b", text="b", embedding=[0.0, 0.0])])
        assert caplog.records == []
        for _ in range(2):
            store.add([TextNode(id_="b", text="b", embedding=[0.0, 0.0])])
    (line,) = caplog.messages
    assert line.startswith("all 1 vectors of nodes for 'zeros' are zeros") and "\n" not in line
